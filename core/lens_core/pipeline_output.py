"""The forms in which a pipeline gives its pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from lens_core.picture_groups import SizeGroup
from lens_core.pipeline_inputs import OutputType
from lens_core.starting_points import Canvas

Pictures = list[Image.Image] | np.ndarray | Tensor | list[Any]


@dataclass
class LensPipelineOutput(BaseOutput):  # type: ignore[misc]
    """Pictures of one call, those of the first prompt first.

    Attributes:
        images: PIL pictures; or float arrays `[B, H, W, 3]` (`np`) or tensors `[B, 3, H, W]` (`pt`)
            in [0, 1]; or normalised tokens `[B, h * w, channels]` (`latent`). Where sizes differ,
            a list with one entry per picture, without the axis B; None for a picture whose size
            was not begun when sampling was interrupted.
    """

    images: Pictures


def finished(
    pixels: Tensor,
    output_type: OutputType,
    canvas: Canvas | None,
    to_bytes: Callable[[Tensor], Tensor],
) -> Pictures:
    """Decoded pixels in the form that was asked for.

    Args:
        pixels: `[B, 3, H, W]` in [0, 1].
        output_type: `pil`, `np` or `pt`.
        canvas: What was drawn on; where nothing may change, its bytes come through unchanged.
        to_bytes: From [0, 1] to 8 bits.
    """
    if canvas is not None:
        pixels = canvas.laid_over(pixels)
    if output_type == "pt":
        return pixels
    rows = pixels.permute(0, 2, 3, 1)
    if output_type == "np":
        return rows.float().cpu().numpy()
    data = to_bytes(rows).cpu().numpy()
    data = data if canvas is None else canvas.kept_bytes(data)
    return [Image.fromarray(row) for row in data]


class Collected:
    """Pictures of all groups on the way to one result, each at its own position.

    Args:
        count: Pictures of the call.
        sizes: How many sizes it has.
    """

    def __init__(self, count: int, sizes: int) -> None:
        self._by_row: list[Any] = [None] * count
        self._parts: list[Pictures] = []
        self._single = sizes == 1

    def add(self, group: SizeGroup, pictures: Pictures) -> None:
        """Take in the pictures of a group."""
        self._parts.append(pictures)
        for row, picture in zip(group.rows, pictures, strict=True):
            self._by_row[row] = picture

    @property
    def images(self) -> Pictures:
        """All together if they have one size, otherwise one by one."""
        if not self._single or any(picture is None for picture in self._by_row):
            return self._by_row
        if len(self._parts) == 1:
            return self._parts[0]
        tensors = [part for part in self._parts if isinstance(part, Tensor)]
        if tensors:
            return torch.cat(tensors)
        arrays = [part for part in self._parts if isinstance(part, np.ndarray)]
        return np.concatenate(arrays) if arrays else self._by_row

    @property
    def one_by_one(self) -> Sequence[Any]:
        """One entry per picture, None for those that are not there."""
        return tuple(self._by_row)


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """PIL pictures of `[B, 3, H, W]` in [0, 1], rounded to 8 bits."""
    rows = (pixels.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(row) for row in rows.cpu().numpy()]
