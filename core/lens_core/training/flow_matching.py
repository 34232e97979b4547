"""The training objective on a batch: flow matching, and the alignment of one block.

Time is sigma: `noisy = (1 - t) * data + t * noise`, and the network predicts `noise - data`.
"""

from dataclasses import dataclass

from torch import Generator, Tensor

from lens_core.training.batches import Batch
from lens_core.training.config import token_grid
from lens_core.training.denoiser import DenoiserTraining
from lens_core.training.objective import noised, recipe_mean, sample_timesteps


@dataclass(frozen=True)
class Outcome:
    """Losses of a batch.

    Attributes:
        losses: Squared error of each row's velocity, `[B]`.
        timesteps: `[B]`.
        align: The alignment loss, zero without a head.
    """

    losses: Tensor
    timesteps: Tensor
    align: Tensor


def flow_matching(training: DenoiserTraining, batch: Batch, number: int) -> Outcome:
    """The losses of a batch at times and with noise that depend on the seed and `number`.

    Args:
        training: Its network computes.
        batch: On the CPU.
        number: Of the batch, counted over steps and processes.
    """
    config = training.config
    generator = Generator().manual_seed(config.seed * 1_000_003 + number)
    mean = config.timestep_mean
    if mean is None:
        mean = recipe_mean(batch.latents.shape[1], config.timestep_line)
    timesteps = sample_timesteps(len(batch.latents), mean, generator)
    return velocity_error(training, batch, timesteps, generator)


def velocity_error(
    training: DenoiserTraining, batch: Batch, timesteps: Tensor, generator: Generator
) -> Outcome:
    """The losses of a batch at given times `[B]`, with noise from `generator`."""
    device, precision = training.device, training.precision
    noisy, velocity = noised(batch.latents.float(), timesteps, generator)
    labels = None if batch.labels is None else batch.labels.to(device)
    predicted, align = training.network(
        noisy.to(device, precision),
        timesteps.to(device),
        batch.features.to(device, precision),
        batch.mask.to(device),
        token_grid(batch.size),
        labels,
    )
    losses = (predicted.float() - velocity.to(device)).square().mean(dim=(1, 2))
    return Outcome(losses, timesteps, align)
