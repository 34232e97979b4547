"""A denoiser of a few thousand weights and batches of noise; as a module, trains on processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Generator

from lens_core.training.batches import Batch
from lens_core.training.config import DenoiserConfig
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.engine import DenoiserRun, Monitoring
from lens_core.training.workers import Workers

SIZES = ((64, 64), (48, 80), (80, 48))
MODEL = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "inner_dim": 32,
    "enc_hidden_dim": 16,
    "axes_dims_rope": (4, 6, 6),
    "selected_layer_index": (0, 1),
}
SETTINGS: dict[str, Any] = {
    "model": MODEL,
    "steps": 4,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "muon_learning_rate": 1e-2,
    "warmup_steps": 0,
    "precision": "float32",
    "compile": False,
    "align_block": 0,
    "log_every": 1,
    "save_every": 2,
    "sample_every": 0,
    "keep_checkpoints": 9,
    "trackers": (),
}


def tiny_config(**changes: Any) -> DenoiserConfig:
    return DenoiserConfig(**{**SETTINGS, **changes})


class NoiseBatches:
    """Batch `n` of the stream is a function of `n`: its size, its pictures, its captions.

    Args:
        workers: Share the stream.
        poisoned: Numbers of batches that hold a NaN.
        textless: Numbers of batches none of whose rows has text.
    """

    def __init__(
        self, workers: Workers, poisoned: Sequence[int] = (), textless: Sequence[int] = ()
    ) -> None:
        self._workers = workers
        self._poisoned, self._textless = poisoned, textless
        self.drawn = 0

    def __next__(self) -> Batch:
        number = self.drawn + self._workers.rank
        self.drawn += self._workers.count
        return noise_batch(number, number in self._poisoned, number in self._textless)

    def state(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def restore(self, states: Sequence[dict[str, Any]], batches: int) -> None:
        assert all(state["drawn"] == batches for state in states)
        self.drawn = batches


def noise_batch(number: int, poisoned: bool = False, textless: bool = False) -> Batch:
    generator = Generator().manual_seed(number)
    size = SIZES[number % len(SIZES)]
    tokens = size[0] * size[1] // 256
    latents = torch.randn(4, tokens, 16, generator=generator)
    if poisoned:
        latents[0, 0, 0] = float("nan")
    captioned = 0 if textless else 3
    lengths = torch.arange(4, 4 + captioned)
    return Batch(
        size,
        latents,
        torch.randn(2, captioned, 8, 16, generator=generator),
        torch.arange(8) < lengths[:, None],
        torch.randint(2, (4, tokens, 3), generator=generator),
    )


def run(
    folder: Path,
    workers: Workers,
    config: DenoiserConfig,
    poisoned: Sequence[int] = (),
    textless: Sequence[int] = (),
) -> DenoiserRun:
    """Train on noise, from what the folder holds."""
    training = DenoiserTraining.create(config, workers)
    monitoring = Monitoring([noise_batch(1000), noise_batch(1001)], _draw)
    source = NoiseBatches(workers, poisoned, textless)
    made = DenoiserRun(config, training, source, workers, folder, monitoring)
    made.train()
    return made


def _draw(training: DenoiserTraining, path: Path, wanted: bool) -> None:
    """A picture of nothing, and the weights it would be drawn with."""
    model = training.export(wanted)
    if model is None:
        return
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (2, 2)).save(path)
    save_file(model.state_dict(), path.with_suffix(".safetensors"))


def losses(folder: Path) -> list[float]:
    """The logged loss of every step; of a step logged twice, the last."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    by_step = {record["step"]: record["loss"] for record in records}
    return [by_step[step] for step in sorted(by_step)]


def launch(jobs: dict[str, dict[str, Any]], folder: Path, count: int = 2) -> None:
    """Run jobs, in order, on several processes at once: settings of `run` by folder name."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = {
        **os.environ,
        **address,
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    command = [sys.executable, "-m", "tiny_training", str(folder), json.dumps(jobs)]
    processes = [
        subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**environment, "RANK": str(rank)}
        )
        for rank in range(count)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=1200)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _main(folder: Path, jobs: dict[str, dict[str, Any]]) -> None:
    workers = Workers.join()
    for name, job in jobs.items():
        data = {key: job.pop(key) for key in ("poisoned", "textless") if key in job}
        run(folder / name, workers, tiny_config(**job), **data)
    workers.leave()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), json.loads(sys.argv[2]))
