"""What a training run measures between two log records, over all its processes."""

import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from lens_core.training.batches import Batch
from lens_core.training.config import DenoiserConfig
from lens_core.training.flops import peak_flops, training_flops
from lens_core.training.workers import Workers

BINS = 4
"""Equal parts of the timestep range."""


@dataclass
class Tally:
    """Sums of one process since the last record.

    Attributes:
        bins: Sum and number of losses in each part of the timestep range.
        buckets: Sum and number of losses by picture size, `HEIGHTxWIDTH`.
        images: Pictures.
        tokens: Image and text tokens that count.
        flops: Model operations, forward and backward.
        waited: Seconds without data.
    """

    bins: list[list[float]] = field(default_factory=lambda: [[0.0, 0.0] for _ in range(BINS)])
    buckets: dict[str, list[float]] = field(default_factory=dict)
    images: int = 0
    tokens: int = 0
    flops: float = 0.0
    waited: float = 0.0

    def merge(self, other: "Tally") -> None:
        """Add the sums of another process."""
        for mine, theirs in zip(self.bins, other.bins, strict=True):
            mine[:] = [a + b for a, b in zip(mine, theirs, strict=True)]
        for name, theirs in other.buckets.items():
            mine = self.buckets.setdefault(name, [0.0, 0.0])
            mine[:] = [a + b for a, b in zip(mine, theirs, strict=True)]
        self.images += other.images
        self.tokens += other.tokens
        self.flops += other.flops
        self.waited += other.waited


class TrainingMetrics:
    """Losses by timestep and bucket, speed, utilisation, waiting and memory.

    Args:
        config: The run's settings.
        device: Of this process.
        workers: Take part in every record.
    """

    def __init__(self, config: DenoiserConfig, device: torch.device, workers: Workers) -> None:
        self._config = config
        self._device = device
        self._workers = workers
        self._peak = peak_flops(device, config.peak_tflops)
        self._tally = Tally()
        self._pending: list[tuple[str, Tensor, Tensor]] = []
        self._started = time.perf_counter()

    def add(self, batch: Batch, losses: Tensor, timesteps: Tensor) -> None:
        """Count a batch: its losses `[B]` at its timesteps `[B]`, on whatever device."""
        # Read later: looking at a GPU's numbers at every step would make it wait for us.
        self._pending.append((batch.bucket, losses.detach(), timesteps))
        tally, rows = self._tally, len(batch.latents)
        lengths = batch.mask.sum(1).tolist() + [0] * (rows - len(batch.mask))
        image = batch.latents.shape[1]
        tally.images += rows
        tally.tokens += rows * image + sum(lengths)
        tally.flops += sum(training_flops(self._config.model, image, n) for n in lengths)
        tally.waited += batch.waited

    def record(self) -> dict[str, Any]:
        """Everything since the last record, over all processes; counting starts again.

        All processes must call; all get the same. `loss` is the mean over pictures, `mfu` the share
        of the devices' peak, None where that is not known, `waited` the seconds of the process that
        waited longest, `memory_gb` the most that any process has used so far.
        """
        self._settle()
        seconds = time.perf_counter() - self._started
        parts = self._workers.gather((self._tally, seconds, _memory(self._device)))
        waited = max(part.waited for part, _, _ in parts)
        total = Tally()
        for part, _, _ in parts:
            total.merge(part)
        seconds = max(seconds for _, seconds, _ in parts)
        self._tally, self._started = Tally(), time.perf_counter()
        peak = None if self._peak is None else self._peak * self._workers.count
        return {
            "loss": _mean([sum(column) for column in zip(*total.bins, strict=True)]),
            "bins": [round(_mean(pair), 4) for pair in total.bins],
            "buckets": {
                name: round(_mean(pair), 4) for name, pair in sorted(total.buckets.items())
            },
            "images_per_second": round(total.images / seconds, 3),
            "tokens_per_second": round(total.tokens / seconds, 1),
            "tflops_per_second": round(total.flops / seconds / 1e12, 4),
            "mfu": None if peak is None else round(total.flops / seconds / peak, 4),
            "waited": round(waited, 2),
            "memory_gb": round(max(memory for _, _, memory in parts), 3),
        }

    def _settle(self) -> None:
        for bucket, losses, timesteps in self._pending:
            total = self._tally.buckets.setdefault(bucket, [0.0, 0.0])
            for loss, time_ in zip(losses.tolist(), timesteps.tolist(), strict=True):
                pair = self._tally.bins[min(BINS - 1, int(time_ * BINS))]
                for sums in (total, pair):
                    sums[0] += loss
                    sums[1] += 1
        self._pending.clear()


def _mean(pair: list[float]) -> float:
    return pair[0] / max(1.0, pair[1])


def _memory(device: torch.device) -> float:
    """Most memory used so far in GB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ModuleNotFoundError:  # Windows has it elsewhere.
        return float(import_module("psutil").Process().memory_info().peak_wset) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
