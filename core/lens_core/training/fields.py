"""Velocity fields: what samplers and losses ask of a denoiser, and the Lens transformer as one.

Time is sigma: 0 is data, 1 is noise, `noisy = (1 - t) * clean + t * noise`, and a field predicts
`noise - clean`, so that `noisy - t * velocity` predicts the clean latents.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from lens_core.sampling import guide
from lens_core.text_features import TextFeatures


class VelocityField(Protocol):
    """Predicts `noise - clean`."""

    def __call__(self, latents: Tensor, timesteps: Tensor, text: TextFeatures | None) -> Tensor:
        """Velocity in float32.

        Args:
            latents: Noisy tokens `[B, N, C]`.
            timesteps: `[B]` in [0, 1].
            text: Features of B prompts; None predicts without text.
        """
        ...


class LensField:
    """The Lens transformer on pictures of one size.

    Args:
        model: The denoiser, or what is called like it.
        grid: Height and width in tokens.
        dtype: Precision it computes in.
    """

    def __init__(
        self, model: Callable[..., Any], grid: tuple[int, int], dtype: torch.dtype
    ) -> None:
        self._model = model
        self._grid = grid
        self._dtype = dtype

    def __call__(self, latents: Tensor, timesteps: Tensor, text: TextFeatures | None) -> Tensor:
        """See `VelocityField.__call__`."""
        velocity: Tensor = self._model(
            *denoiser_inputs(latents, timesteps, text, self._grid, self._dtype)
        )[0]
        return velocity.float()


def denoiser_inputs(
    latents: Tensor,
    timesteps: Tensor,
    text: TextFeatures | None,
    grid: tuple[int, int],
    dtype: torch.dtype,
) -> tuple[Any, ...]:
    """Arguments of `LensTransformer2DModel.forward` that return a tuple; see `VelocityField`.

    Args:
        latents: Noisy tokens `[B, N, C]`.
        timesteps: `[B]` in [0, 1].
        text: Features of B prompts, or None.
        grid: Height and width in tokens.
        dtype: Precision that the model computes in.
    """
    features, mask = None, None
    if text is not None:
        features, mask = list(text.embeds.to(dtype).unbind(0)), text.mask
    return latents.to(dtype), features, mask, timesteps, [(1, *grid)], False


class GuidedField:
    """Classifier-free guidance as the pipeline applies it; at 1 only the prompt's branch runs."""

    def __init__(self, field: VelocityField, guidance_scale: float) -> None:
        self._field = field
        self._scale = guidance_scale

    def __call__(self, latents: Tensor, timesteps: Tensor, text: TextFeatures | None) -> Tensor:
        """See `VelocityField.__call__`."""
        cond = self._field(latents, timesteps, text)
        if self._scale == 1:
            return cond
        return guide(cond, self._field(latents, timesteps, None), self._scale)


def predict_clean(noisy: Tensor, timesteps: Tensor, velocity: Tensor) -> Tensor:
    """The clean latents `noisy - t * velocity` that a velocity points away from."""
    return noisy - timesteps[:, None, None] * velocity


def add_noise(clean: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
    """`(1 - t) * clean + t * noise`."""
    t = timesteps[:, None, None]
    return (1 - t) * clean + t * noise


def normal_like(tensor: Tensor, generator: Generator) -> Tensor:
    """Noise of a tensor's shape, drawn on the CPU so that every device gets the same."""
    return torch.randn(tensor.shape, generator=generator).to(tensor.device)


def take(text: TextFeatures, rows: Sequence[int]) -> TextFeatures:
    """Some rows of text features, in that order, cut to the longest of them."""
    mask = text.mask[list(rows)]
    longest = int(mask.sum(1).max())
    return TextFeatures(text.embeds[:, list(rows), :longest], mask[:, :longest])
