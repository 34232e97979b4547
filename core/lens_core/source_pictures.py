"""Pictures and masks that drawing starts from, read and brought to the size that is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from lens_core.errors import ParameterError

PictureInput = Image.Image | str | Path | np.ndarray | Tensor
"""A PIL picture, a file, an array `[H, W, 3]` or a tensor `[3, H, W]`; bytes, or floats in [0, 1].

Arrays and tensors with one axis more, as pipelines give them, hold several pictures. A mask may
also be `[H, W]`; white, 1 or True is where the picture may change.
"""

_HALF = 128


def read_pictures(given: PictureInput | Sequence[PictureInput], name: str) -> list[Image.Image]:
    """One or more pictures as RGB, turned upright as their EXIF says.

    Raises:
        ParameterError: Something that is no picture, or no picture at all.
    """
    return [_read(one, f"{name}{place}", "RGB") for one, place in _listed(given, name)]


def read_masks(
    given: PictureInput | Sequence[PictureInput], pictures: Sequence[Image.Image], name: str
) -> list[Image.Image]:
    """One mask for each picture: 255 where it may change and 0 elsewhere.

    Args:
        given: One for all, or one for each.
        pictures: What they belong to.
        name: Of the argument, for messages.

    Raises:
        ParameterError: Another count or size than that of the pictures, or a mask that lets nothing
            change.
    """
    masks = [_read(one, f"{name}{place}", "L") for one, place in _listed(given, name)]
    masks = masks * len(pictures) if len(masks) == 1 else masks
    if len(masks) != len(pictures):
        raise ParameterError(
            f"{name} is a list of {len(masks)} for {len(pictures)} pictures; give one, or one each"
        )
    for mask, picture in zip(masks, pictures, strict=True):
        if mask.size != picture.size:
            raise ParameterError(
                f"{name} is {mask.width}x{mask.height} and its picture "
                f"{picture.width}x{picture.height}; they must have one size"
            )
    clear = [mask.point([0] * _HALF + [255] * (256 - _HALF)) for mask in masks]
    if not all(mask.getbbox() for mask in clear):
        raise ParameterError(f"{name} is black throughout, so that nothing may change")
    return clear


def cover(picture: Image.Image, height: int, width: int) -> Image.Image:
    """The picture at another size: scaled to cover it, what stands out at two ends cut off.

    A picture of that size is returned unchanged. A pixel of a mask is white if any of what it
    covers was, so that thin lines do not get lost.
    """
    if picture.size == (width, height):
        return picture
    if picture.mode != "L":
        return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    shares = ImageOps.fit(picture, (width, height), Image.Resampling.BOX)
    return shares.point([0] + [255] * 255)


def to_pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Float32 `[B, 3, H, W]` in [-1, 1] of RGB pictures of one size."""
    stacked = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def feathered(mask: Image.Image, feather: int) -> np.ndarray:
    """How much of each pixel is new: 1 inside the mask, falling outwards, 0 beyond the feather.

    Args:
        mask: 255 where the picture may change.
        feather: Pixels over which it falls.

    Returns:
        Float32 `[H, W]`, exactly 0 further than `feather` pixels from the mask.
    """
    inside = np.asarray(mask) > 0
    if inside.all():
        return np.ones(inside.shape, np.float32)
    distance = distance_transform_edt(~inside)
    return np.clip(1 - distance / (feather + 1), 0, 1).astype(np.float32) * (distance <= feather)


def _listed(given: Any, name: str) -> list[tuple[Any, str]]:
    if isinstance(given, (Tensor, np.ndarray)) and given.ndim == 4:
        given = [*given]
    if not isinstance(given, (list, tuple)):
        return [(given, "")]
    if not given:
        raise ParameterError(f"{name} is an empty list; give a picture or leave it out")
    return [(one, f"[{index}]") for index, one in enumerate(given)]


def _read(given: Any, name: str, mode: str) -> Image.Image:
    if isinstance(given, Tensor):
        values = given.detach().cpu()
        array = (values.float() if values.is_floating_point() else values).numpy()
        given = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    if isinstance(given, np.ndarray):
        given = Image.fromarray(_as_bytes(given, name, mode))
    if not isinstance(given, (str, Path, Image.Image)):
        raise ParameterError(
            f"{name} is {type(given).__name__}; it must be a PIL picture, a file, an array "
            "[height, width, 3] or a tensor [3, height, width]"
        )
    try:
        if isinstance(given, Image.Image):
            return _upright(given, mode)
        with Image.open(given) as opened:
            return _upright(opened, mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        what = "" if isinstance(given, Image.Image) else f" {str(given)!r}"
        raise ParameterError(f"{name}{what} cannot be read: {error}") from error


def _upright(picture: Image.Image, mode: str) -> Image.Image:
    """Turned as its EXIF says, in another mode."""
    turned = ImageOps.exif_transpose(picture)
    if turned.mode.startswith("I;16"):
        # Pillow would clip the 16 bits rather than scale them.
        turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
    # Transparent areas have colours of their own, which nobody has seen.
    return turned.convert(mode)


def _as_bytes(array: np.ndarray, name: str, mode: str) -> np.ndarray:
    shape = array.shape
    if not array.size:
        raise ParameterError(f"{name} has shape {shape}, which holds no pixels")
    if array.ndim == 3 and shape[-1] == 1:
        array = array[..., 0]
    fits = array.ndim == 3 and array.shape[-1] == 3
    if not (fits or (mode == "L" and array.ndim == 2)):
        raise ParameterError(
            f"{name} has shape {shape}; a picture has (height, width, 3) as an array and "
            "(3, height, width) as a tensor, a mask may have (height, width)"
        )
    if array.dtype == np.uint8:
        return array
    values = array.astype(np.float32)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ParameterError(f"{name} must hold bytes, or numbers from 0 to 1")
    return (values * 255).round().astype(np.uint8)
