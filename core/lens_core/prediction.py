"""One forward pass of the denoiser, once its branch's constants are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lens_core.branch import Branch

if TYPE_CHECKING:
    from lens_core.transformer import LensTransformer2DModel

Prediction = Callable[
    ["LensTransformer2DModel", Tensor, Tensor, "Tensor | None", Branch],
    Tensor,
]
"""Computes a velocity from what changes at every step and a branch's constants; `predict_plainly`,
or something faster with the same result."""


def predict_plainly(
    model: LensTransformer2DModel,
    image: Tensor,
    timestep: Tensor,
    modulations: Tensor | None,
    branch: Branch,
) -> Tensor:
    """Velocity `[B, tokens, in_channels]` from tensors alone.

    Args:
        model: Whose weights to use.
        image: Image tokens `[B, tokens, in_channels]`.
        timestep: `[B]` in [0, 1].
        modulations: Of the blocks, `[B, layers, 2, 6 * dim]`; None computes them.
        branch: What the text and the size alone decide.
    """
    blocks, text = model.transformer_blocks, branch.text
    temb = model.time_text_embed(timestep, image.dtype)
    times = [temb] * len(blocks) if modulations is None else modulations.unbind(1)
    image = model.img_in(image)
    rotaries = branch.image_rotary, branch.text_rotary
    for index, block in enumerate(blocks):
        arguments = (image, text, times[index], *rotaries, branch.mask, index < len(blocks) - 1)
        if torch.is_grad_enabled() and model.gradient_checkpointing:
            image, text = model._gradient_checkpointing_func(block, *arguments)
        else:
            image, text = block(*arguments)
    sample: Tensor = model.proj_out(model.norm_out(image, temb))
    return sample
