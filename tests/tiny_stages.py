"""Post-training stages at toy size; as a module, runs stages in whatever processes started it."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Generator

from lens_core.training import run_stage
from lens_core.training.config import NANO_SIZES

RL = {
    "steps": "4",
    "groups": "4",
    "images_per_prompt": "4",
    "batch_size": "8",
    "sizes": "[[48, 64], [64, 48]]",
    "rollout_steps": "4",
    "timestep_fraction": "0.5",
    "brief_share": "1",
    "reward": "tiny_rewards:brightness",
    "rank": "4",
    "alpha": "8",
    "learning_rate": "0.01",
    "save_every": "2",
    "evaluate_every": "0",
    "sample_every": "4",
}

DISTILL = {
    "steps": "4",
    "shards": "1",
    "batch_size": "2",
    "batches_per_update": "2",
    "learning_rate": "0.001",
    "fake_learning_rate": "0.002",
    "discriminator_learning_rate": "0.002",
    "warmup_steps": "0",
    "taps": "[0, 1]",
    "log_every": "1",
    "save_every": "2",
    "evaluate_every": "0",
}


def write_shard(folder: Path, pictures: int = 4) -> None:
    generator = Generator().manual_seed(0)
    tensors = {}
    for number, (height, width) in enumerate(NANO_SIZES):
        tokens = height * width // 256
        tensors[f"{number}.latents"] = torch.randn(pictures, tokens, 16, generator=generator)
        tensors[f"{number}.labels"] = torch.zeros(pictures, tokens, 3, dtype=torch.uint8)
        for kind in ("dense", "brief"):
            lengths = torch.arange(3, 3 + pictures)
            features = torch.randn(int(lengths.sum()), 2, 16, generator=generator)
            tensors[f"{number}.{kind}.features"] = features
            tensors[f"{number}.{kind}.lengths"] = lengths
    folder.mkdir(parents=True)
    save_file(tensors, folder / "shard-0000.safetensors")


if __name__ == "__main__":
    for stage, overrides in json.loads(sys.argv[2]).items():
        run_stage(stage, "nano", Path(sys.argv[1]), overrides)
