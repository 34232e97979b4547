"""Post-training stages at toy size; as a module, runs them in processes of their own."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Generator

from lens_core.training import run_stage
from lens_core.training.config import NANO_SIZES, load_config
from lens_core.training.nft.config import RLConfig
from lens_core.training.nft.policy import Policy
from lens_core.training.workers import Workers
from tiny_components import tiny_transformer
from tiny_training import free_port

RL = {
    "steps": "4",
    "groups": "4",
    "images_per_prompt": "4",
    "batch_size": "8",
    "sizes": "[[48, 64], [64, 48]]",
    "rollout_steps": "4",
    "timestep_fraction": "0.5",
    "kl_weight": "0.0001",
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
    "student_sigmas": "[1, 0.6, 0.3, 0.1]",
    "fake_learning_rate": "0.002",
    "discriminator_learning_rate": "0.002",
    "warmup_steps": "0",
    "taps": "[0, 1]",
    "log_every": "1",
    "save_every": "2",
    "evaluate_every": "0",
}


def write_shard(folder: Path, pictures: int = 4, spoilt: int | None = None) -> None:
    """A shard of random pairs, of which picture `spoilt` of the first size is NaN."""
    generator = Generator().manual_seed(0)
    tensors = {}
    for number, (height, width) in enumerate(NANO_SIZES):
        tokens = height * width // 256
        tensors[f"{number}.latents"] = torch.randn(pictures, tokens, 16, generator=generator)
        if spoilt is not None and number == 0:
            tensors["0.latents"][spoilt] = math.nan
        tensors[f"{number}.labels"] = torch.zeros(pictures, tokens, 3, dtype=torch.uint8)
        for kind in ("dense", "brief"):
            lengths = torch.arange(3, 3 + pictures)
            features = torch.randn(int(lengths.sum()), 2, 16, generator=generator)
            tensors[f"{number}.{kind}.features"] = features
            tensors[f"{number}.{kind}.lengths"] = lengths
    folder.mkdir(parents=True)
    save_file(tensors, folder / "shard-0000.safetensors")


def run(folder: Path, jobs: dict[str, dict[str, str]]) -> None:
    """Run stages, in order: settings by `FOLDER/STAGE`, or settings of a policy to poison."""
    for name, overrides in jobs.items():
        place = folder / name
        if place.name == "poisoned":
            poison(place)
        else:
            run_stage(place.name, "nano", place.parent, overrides)


def poison(folder: Path) -> None:
    """Two updates of a policy; before the first, the last process has a gradient that is NaN."""
    workers = Workers.join()
    values = {name: json.loads(RL[name]) for name in ("steps", "batch_size", "rank", "alpha")}
    values |= {"groups": 2, "images_per_prompt": 8, "learning_rate": 0.01}
    policy = Policy.create(RLConfig(**values), tiny_transformer(), workers)
    outcomes = []
    for update in range(2):
        generator = Generator().manual_seed(workers.rank)
        noisy = torch.randn(1, 4, 16, generator=generator)
        velocity = policy.field((2, 2))(noisy, torch.tensor([0.5]), None)
        policy.role.learn(velocity.square().mean(), last=True)
        if update == 0 and workers.rank == workers.count - 1:
            next(iter(policy.role.parameters.values())).grad.fill_(math.nan)
        _, finite = policy.role.update()
        outcomes.append([finite, policy.role.updates, policy.role.skipped])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{workers.rank}.json").write_text(json.dumps(outcomes))
    save_file(policy.role.tensors(), folder / f"{workers.rank}.safetensors")


def apart(folder: Path, together: dict[str, Any], killed: dict[str, Any]) -> None:
    """Run jobs by two processes in `folder/two`, and others in `folder/killed`, where they die.

    All are forked from one process that has imported everything and done nothing yet.
    """
    jobs = [str(folder), json.dumps(together), json.dumps(killed)]
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    command = [sys.executable, "-m", "tiny_stages", *jobs]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]


def _main(folder: Path, together: dict[str, Any], killed: dict[str, Any]) -> None:
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_rank, args=(rank, folder / "two", together)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]
    for name, job in killed.items():
        process = fork.Process(target=run, args=(folder / "killed", {name: job}))
        process.start()
        saved = folder / "killed" / name / "checkpoints" / "step-00000001" / "state.json"
        while process.is_alive() and not saved.is_file():
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL


def _rank(rank: int, folder: Path, jobs: dict[str, Any]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    run(folder, jobs)
    Workers().leave()


def tiny_rl(**changes: str) -> RLConfig:
    """Settings of a tiny RL run, as the command line would read them."""
    values = {name: _value(text) for name, text in {**RL, **changes}.items()}
    return load_config(RLConfig, "nano", "rl", values)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    _main(Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]))
