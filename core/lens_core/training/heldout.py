"""Validation loss: held-out batches at fixed times with fixed noise, comparable over a run.

A mean over eight equidistant timesteps follows the quality of samples (SD3, arXiv 2403.03206).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lens_core.training.batches import Batch
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.flow_matching import velocity_error
from lens_core.training.seeds import seeded
from lens_core.training.workers import Workers

TIMESTEPS = tuple((part + 0.5) / 8 for part in range(8))
"""The middles of eight equal parts of the range."""
_NOISE = 23


def validation_loss(
    training: DenoiserTraining, batches: Sequence[Batch], workers: Workers
) -> dict[str, Any]:
    """Squared error of the averaged weights' velocity on every batch at every timestep.

    Processes share the work; all must call, with the same batches, and get the same answer.

    Returns:
        `loss`, the mean over pictures and timesteps, and `bins`, the mean at each timestep.
    """
    tasks = [(b, t) for b in range(len(batches)) for t in range(len(TIMESTEPS))]
    sums = torch.zeros(len(TIMESTEPS), 2, dtype=torch.float64)
    with training.averaged():
        for start in range(0, len(tasks), workers.count):
            # Sharded weights need every process at every pass: the idle repeat a task unseen.
            turn = start + workers.rank
            index, time = tasks[min(turn, len(tasks) - 1)]
            losses = _losses(training, batches[index], index, time)
            if turn < len(tasks):
                sums[time] += torch.tensor([float(losses.sum()), len(losses)], dtype=torch.float64)
    total = torch.stack(workers.gather(sums)).sum(0)
    return {
        "loss": float(total[:, 0].sum() / total[:, 1].sum()),
        "bins": [round(float(value), 4) for value in total[:, 0] / total[:, 1]],
    }


def _losses(training: DenoiserTraining, batch: Batch, index: int, time: int) -> Tensor:
    timesteps = torch.full((len(batch.latents),), TIMESTEPS[time])
    generator = seeded(training.config.seed, _NOISE, index, time)
    return velocity_error(training, batch, timesteps, generator).losses
