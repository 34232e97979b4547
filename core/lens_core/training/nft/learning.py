"""The update of a step: the loss over a step's rollouts, and what is measured on the way."""

import torch
from torch import Tensor

from lens_core.text_features import TextFeatures
from lens_core.training.fields import VelocityField, add_noise, normal_like, take
from lens_core.training.measures import Measures
from lens_core.training.nft.advantages import Targets
from lens_core.training.nft.config import RLConfig
from lens_core.training.nft.loss import NFTLoss, nft_loss
from lens_core.training.nft.policy import Policy
from lens_core.training.nft.rollout import TIMES, Rollout
from lens_core.training.renderer import Renderer
from lens_core.training.seeds import seeded
from lens_core.training.workers import Workers


def accumulate(
    config: RLConfig,
    policy: Policy,
    renderer: Renderer,
    rollouts: list[Rollout],
    targets: Targets,
    step: int,
    workers: Workers,
) -> dict[str, float]:
    """Add the gradients of a step's loss, and return its measures over all workers.

    The loss is the mean over all pictures that have a reward, on any worker, and over their
    timesteps: `loss_scale * policy + kl_weight * kl`. A batch without any reward is left out; among
    several workers it is computed on zeros, with no weight, to keep pace with the others'.
    """
    measures = Measures()
    share = workers.count / max(1, int(targets.known.sum())) / config.trained_timesteps
    for rollout in rollouts:
        images = list(rollout.batch.images)
        rows = targets.known[images].nonzero().flatten().tolist() if rollout.counts else []
        if rows or workers.count > 1:
            _learn(config, policy, renderer, rollout, rows, targets, step, share, measures)
    return measures.means(workers)


def _learn(
    config: RLConfig,
    policy: Policy,
    renderer: Renderer,
    rollout: Rollout,
    scored: list[int],
    targets: Targets,
    step: int,
    share: float,
    measures: Measures,
) -> None:
    """Add the gradients of a batch's scored rows, or of zeros if none is."""
    images, rows = list(rollout.batch.images), scored or [0]
    device = rollout.latents.device
    wanted = targets.values[images][rows].to(device)
    clean, text = rollout.latents[rows], take(rollout.text, rows)
    if not scored:
        clean, share = torch.zeros_like(clean), 0.0
    field = policy.field(renderer.grid(rollout.batch.size))
    # Chances are drawn for all pictures, so that a missing reward changes those of no other.
    generator = seeded(config.seed, TIMES, step, rollout.batch.number)
    order = torch.rand(len(images), len(rollout.sigmas), generator=generator).argsort(1)
    sigmas = torch.tensor(rollout.sigmas)[order][rows].to(device)
    for index in range(config.trained_timesteps):
        noise = normal_like(rollout.latents, generator)[rows]
        terms = _terms(config, policy, field, clean, text, sigmas[:, index], noise, wanted)
        loss = config.loss_scale * terms.policy + config.kl_weight * terms.kl
        policy.role.learn(loss.sum() * share, last=True)
        if scored:
            measures.add(
                loss=loss,
                policy=terms.policy,
                kl=terms.kl,
                old_deviate=terms.old_deviation,
                x0_norm=clean.square().mean(dim=(1, 2)).sqrt(),
            )


def _terms(
    config: RLConfig,
    policy: Policy,
    field: VelocityField,
    clean: Tensor,
    text: TextFeatures,
    timesteps: Tensor,
    noise: Tensor,
    targets: Tensor,
) -> NFTLoss:
    """Loss terms of some pictures at one timestep each."""
    noisy = add_noise(clean, timesteps, noise)
    reference = None
    with torch.no_grad():
        with policy.using("old"):
            old = field(noisy, timesteps, text)
        if config.kl_weight > 0:
            with policy.using("reference"):
                reference = field(noisy, timesteps, text)
    velocity = field(noisy, timesteps, text)
    return nft_loss(velocity, old, reference, noisy, timesteps, clean, targets, config.beta)
