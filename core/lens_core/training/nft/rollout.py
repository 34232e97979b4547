"""Rollouts: which pictures are drawn together, and drawing them with the rollout policy."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lens_core.text_features import TextFeatures
from lens_core.training.config import Size
from lens_core.training.fields import GuidedField, take
from lens_core.training.nft.config import RLConfig
from lens_core.training.nft.policy import Policy
from lens_core.training.prompts import Prompt
from lens_core.training.renderer import Renderer
from lens_core.training.rewards import RewardQueue
from lens_core.training.seeds import seeded
from lens_core.training.solvers import integrate
from lens_core.training.workers import Workers

PLAN, NOISE, TIMES = 11, 12, 13
"""What chances of a step are for."""


@dataclass(frozen=True)
class Batch:
    """Pictures of one size that are drawn and trained on together.

    Attributes:
        number: Of the batch in its step.
        size: Height and width in pixels.
        images: Numbers of the pictures; picture `i` belongs to prompt `i // images_per_prompt`.
    """

    number: int
    size: Size
    images: tuple[int, ...]


@dataclass(frozen=True)
class Rollout:
    """A batch that was drawn.

    Attributes:
        batch: Which pictures.
        latents: Clean latents `[B, N, C]`.
        text: Features of their prompts.
        sigmas: Noise levels of the sampler, the last 0 left out.
        counts: False for a batch that another worker draws too: it only keeps pace.
    """

    batch: Batch
    latents: Tensor
    text: TextFeatures
    sigmas: tuple[float, ...]
    counts: bool = True


def plan(config: RLConfig, step: int) -> list[Batch]:
    """Deal the pictures of a step to batches and give every batch a size, both by chance.

    The pictures of a prompt so come in several sizes, every batch is full, and the plan does not
    depend on the number of processes.
    """
    rng = np.random.default_rng((config.seed, PLAN, step))
    dealt = rng.permutation(config.images).reshape(-1, config.batch_size)
    sizes = rng.integers(len(config.sizes), size=len(dealt))
    return [
        Batch(number, config.sizes[int(size)], tuple(sorted(int(i) for i in images)))
        for number, (size, images) in enumerate(zip(sizes, dealt, strict=True))
    ]


def roll_out(
    config: RLConfig,
    policy: Policy,
    renderer: Renderer,
    prompts: list[Prompt],
    step: int,
    workers: Workers,
    queue: RewardQueue,
) -> list[Rollout]:
    """Draw this worker's batches and hand every picture to the reward as soon as it is there.

    All workers draw equally many batches, as sharded weights need; see `Workers.deal`.
    """
    text = renderer.features([prompt.text for prompt in prompts])
    levels = renderer.pipeline.default_sigmas(config.rollout_steps)
    rollouts = []
    with policy.using("old"):
        for batch, counts in workers.deal(plan(config, step)):
            owners = [image // config.images_per_prompt for image in batch.images]
            generators = [seeded(config.seed, NOISE, step, image) for image in batch.images]
            sigmas = renderer.sigmas(batch.size, levels)
            chosen = take(text, owners)
            latents = integrate(
                GuidedField(policy.field(renderer.grid(batch.size)), config.rollout_guidance),
                renderer.noise(batch.size, generators),
                chosen,
                sigmas,
                config.rollout_solver,
            )
            rollouts.append(Rollout(batch, latents, chosen, tuple(sigmas[:-1]), counts))
            if not counts:
                continue
            pictures = renderer.pictures(latents, batch.size)
            for image, owner, picture in zip(batch.images, owners, pictures, strict=True):
                queue.submit(image, picture, prompts[owner])
    return rollouts
