"""Output types of the pipeline."""

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
    """Images of one call, those of the first prompt first.

    Attributes:
        images: PIL images; or float arrays `[B, H, W, 3]` (`np`) or tensors `[B, 3, H, W]` (`pt`)
            in [0, 1]; or normalised tokens `[B, h * w, channels]` (`latent`). If sizes differ, a
            list with one entry per image, without the batch axis. After an interruption, a list
            with None for every image whose sampling had not started.
    """

    images: Pictures


def finished(
    pixels: Tensor,
    output_type: OutputType,
    canvas: Canvas | None,
    to_bytes: Callable[[Tensor], Tensor],
) -> Pictures:
    """Convert decoded pixels to the requested output type.

    Args:
        pixels: `[B, 3, H, W]` in [0, 1].
        output_type: `pil`, `np` or `pt`.
        canvas: The starting images, if any; their pixels are kept where nothing may change.
        to_bytes: Converts [0, 1] to 8 bits.
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
    """Collects the images of all groups into one result, in the order of the call.

    Args:
        count: Number of images in the call.
        sizes: Number of different sizes.
    """

    def __init__(self, count: int, sizes: int) -> None:
        self._by_row: list[Any] = [None] * count
        self._parts: list[Pictures] = []
        self._single = sizes == 1

    def add(self, group: SizeGroup, pictures: Pictures) -> None:
        """Add the images of a group."""
        self._parts.append(pictures)
        for row, picture in zip(group.rows, pictures, strict=True):
            self._by_row[row] = picture

    @property
    def images(self) -> Pictures:
        """All images: batched if complete and of one size, otherwise a list."""
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
        """One entry per image, None for missing ones."""
        return tuple(self._by_row)


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """Convert `[B, 3, H, W]` in [0, 1] to PIL images, rounding to 8 bits."""
    rows = (pixels.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(row) for row in rows.cpu().numpy()]
