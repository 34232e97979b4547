"""Losses of the distillation, as functions of predictions and logits.

Signs, in the convention of `fields`: descent along `matching_gradient` moves a sample from where
the fake score takes it to where the teacher does, and along `augmentation_gradient` from the
teacher's unconditional prediction towards its conditional one.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lens_core.text_features import TextFeatures
from lens_core.training.fields import VelocityField, add_noise, normal_like, predict_clean


def fake_score_loss(
    field: VelocityField,
    clean: Tensor,
    text: TextFeatures | None,
    timesteps: Tensor,
    generator: Generator,
) -> Tensor:
    """Flow-matching loss of the fake score on the student's samples `[B, N, C]`."""
    noise = normal_like(clean, generator)
    velocity = field(add_noise(clean, timesteps, noise), timesteps, text)
    return (velocity - (noise - clean)).square().mean()


def matching_gradient(
    sample: Tensor, noisy: Tensor, timesteps: Tensor, real: Tensor, fake: Tensor, floor: float
) -> Tensor:
    """Distribution matching: `(clean by the fake score - clean by the teacher) / normaliser`.

    Args:
        sample: The student's prediction `[B, N, C]`.
        noisy: The same with noise added at the timesteps.
        timesteps: `[B]`.
        real: The teacher's velocity with the prompt, without guidance.
        fake: The fake score's velocity with the prompt.
        floor: Least normaliser; otherwise it is the mean of `|sample - clean by the teacher|`.
    """
    target = predict_clean(noisy, timesteps, real)
    direction = predict_clean(noisy, timesteps, fake) - target
    return direction / _normaliser(sample, target, floor)


def augmentation_gradient(
    sample: Tensor,
    noisy: Tensor,
    timesteps: Tensor,
    cond: Tensor,
    uncond: Tensor,
    guidance_scale: float,
    floor: float,
) -> Tensor:
    """Guidance: `(g - 1) (clean without the prompt - clean with it) / normaliser`.

    `g` is that of `uncond + g * (cond - uncond)`, so 1 is none. Its own noise and timesteps, by the
    decoupling; other arguments as in `matching_gradient`.
    """
    target = predict_clean(noisy, timesteps, cond)
    direction = predict_clean(noisy, timesteps, uncond) - target
    return (guidance_scale - 1) * direction / _normaliser(sample, target, floor)


def surrogate_loss(sample: Tensor, gradient: Tensor) -> Tensor:
    """A loss whose gradient with respect to the sample is `gradient / sample.numel()`."""
    target = (sample - gradient).detach()
    return 0.5 * (sample - target).square().mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Logistic loss of logits: real ones should be high, fake ones low."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Logistic loss of the student: its logits should be high."""
    return F.softplus(-fake).mean()


def approximate_r1(real: Tensor, perturbed: Tensor, gamma: float) -> Tensor:
    """`gamma / 2` times the squared change of real logits when their noisy input is perturbed."""
    return gamma / 2 * (real - perturbed).square().mean()


def _normaliser(sample: Tensor, target: Tensor, floor: float) -> Tensor:
    """Mean distance per sample `[B, 1, 1]`, at least `floor`."""
    distance = (sample.detach() - target).abs().mean(dim=(1, 2), keepdim=True)
    return torch.clamp(distance, min=floor)
