"""Starting points of sampling for image to image and inpainting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from PIL import Image
from torch import Tensor

from lens_core.errors import ParameterError
from lens_core.latents import encode_pixels
from lens_core.source_pictures import (
    PictureInput,
    cover,
    feathered,
    read_masks,
    read_pictures,
    to_pixels,
)

DEFAULT_STRENGTH = 0.6
DEFAULT_MASK_STRENGTH = 1.0
DEFAULT_FEATHER = 8
"""Pixels."""


@dataclass(frozen=True)
class StartingPictures:
    """Starting images of one call, one for all prompts or one per prompt.

    Attributes:
        pictures: RGB images in their original sizes.
        masks: One per image, 255 where it may change; None lets everything change.
        strength: Share of the steps to run, in (0, 1].
        feather: Pixels outside the mask over which new and old blend.
    """

    pictures: tuple[Image.Image, ...]
    masks: tuple[Image.Image, ...] | None
    strength: float
    feather: int

    @classmethod
    def read(
        cls,
        image: PictureInput | Sequence[PictureInput] | None,
        mask_image: PictureInput | Sequence[PictureInput] | None,
        strength: float | None,
        mask_feather: int | None,
    ) -> Self | None:
        """Read the starting images from a call's arguments; None if it starts from noise.

        Raises:
            ParameterError: An image or mask is invalid, a mask does not match its image, strength
                or feather is out of range, or an argument lacks the `image` or `mask_image` it
                needs.
        """
        if image is None:
            for name, value in (("mask_image", mask_image), ("strength", strength)):
                if value is not None:
                    raise ParameterError(
                        f"{name} was given without image, the picture to start from"
                    )
        if mask_image is None and mask_feather is not None:
            raise ParameterError("mask_feather was given without mask_image")
        if image is None:
            return None
        pictures = read_pictures(image, "image")
        masks = None if mask_image is None else read_masks(mask_image, pictures, "mask_image")
        if strength is None:
            strength = DEFAULT_STRENGTH if masks is None else DEFAULT_MASK_STRENGTH
        feather = DEFAULT_FEATHER if mask_feather is None else mask_feather
        _check_strength(strength)
        if not isinstance(feather, int) or isinstance(feather, bool) or feather < 0:
            raise ParameterError(
                f"mask_feather {feather!r} must be a whole number of pixels from 0"
            )
        return cls(tuple(pictures), None if masks is None else tuple(masks), strength, feather)

    def spread(self, prompts: int) -> Self:
        """Expand to one image per prompt.

        Raises:
            ParameterError: There is neither one image nor one per prompt.
        """
        count = len(self.pictures)
        if count == prompts:
            return self
        if count != 1:
            raise ParameterError(
                f"image is a list of {count} for {prompts} prompts; give one picture, or one each"
            )
        masks = None if self.masks is None else self.masks * prompts
        return type(self)(self.pictures * prompts, masks, self.strength, self.feather)


@dataclass(frozen=True)
class Canvas:
    """Starting images scaled and cropped to one output size.

    Attributes:
        pictures: RGB, one per output image.
        fresh: Weight of the generated image at each pixel, float32 `[B, H, W]`; None if 1
            everywhere.
    """

    pictures: tuple[Image.Image, ...]
    fresh: np.ndarray | None

    @classmethod
    def of(cls, start: StartingPictures, prompts: Sequence[int], height: int, width: int) -> Self:
        """Build the canvas for the images of the prompts at these positions.

        Raises:
            ParameterError: Cropping to this size removes all that a mask lets change.
        """
        needed = dict.fromkeys(prompts)
        pictures = {i: cover(start.pictures[i], height, width) for i in needed}
        drawn = tuple(pictures[i] for i in prompts)
        if start.masks is None:
            return cls(drawn, None)
        masks = {i: cover(start.masks[i], height, width) for i in needed}
        if not all(mask.getbbox() for mask in masks.values()):
            raise ParameterError(
                f"mask_image is white only where its picture is cut off to make {width}x{height}, "
                "so that nothing may change; give a size of the picture's own shape"
            )
        fresh = {i: feathered(mask, start.feather) for i, mask in masks.items()}
        return cls(drawn, np.stack([fresh[i] for i in prompts]))

    def tokens(self, vae: AutoencoderKLFlux2, device: torch.device) -> Tensor:
        """Encode to normalised float32 tokens `[B, tokens, channels]`, each image only once."""
        encoded: dict[int, Tensor] = {}
        for picture in self.pictures:
            if id(picture) not in encoded:
                encoded[id(picture)] = encode_pixels(to_pixels([picture]), vae, device)
        return torch.cat([encoded[id(picture)] for picture in self.pictures])

    def free_tokens(self, multiple: int) -> Tensor | None:
        """Return which tokens may change: bool `[B, tokens, 1]`, True if any of their pixels may.

        Args:
            multiple: Pixels per token side.
        """
        if self.fresh is None:
            return None
        batch, height, width = self.fresh.shape
        cells = self.fresh.reshape(batch, height // multiple, multiple, width // multiple, multiple)
        return torch.from_numpy(cells.max((2, 4)) > 0).reshape(batch, -1, 1)

    def laid_over(self, pixels: Tensor) -> Tensor:
        """Blend generated pixels over the starting images, weighted by `fresh`.

        Args:
            pixels: `[B, 3, H, W]` in [0, 1].
        """
        if self.fresh is None:
            return pixels
        fresh = torch.from_numpy(self.fresh)[:, None].to(pixels)
        own = ((to_pixels(self.pictures) + 1) / 2).to(pixels)
        return torch.where(fresh == 0, own, own + fresh * (pixels - own))

    def kept_bytes(self, pixels: np.ndarray) -> np.ndarray:
        """Restore the original bytes in 8-bit pixels `[B, H, W, 3]` wherever `fresh` is 0."""
        if self.fresh is None:
            return pixels
        own = np.stack([np.asarray(picture) for picture in self.pictures])
        return np.where(self.fresh[..., None] == 0, own, pixels)


@dataclass(frozen=True)
class KeptRegion:
    """Tokens that follow the starting image while the others are sampled.

    Attributes:
        tokens: Tokens of the starting image, `[B, tokens, channels]`.
        noise: The initial noise, same shape.
        free: `[B, tokens, 1]`, True where tokens may change.
    """

    tokens: Tensor
    noise: Tensor
    free: Tensor

    def held(self, latents: Tensor, sigma: float) -> Tensor:
        """Replace the kept tokens in latents by the starting image at noise level `sigma`."""
        own = with_noise(self.tokens, self.noise, sigma).to(latents)
        return torch.where(self.free, latents, own)


def with_noise(tokens: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Add noise to tokens: `(1 - sigma) * tokens + sigma * noise`."""
    return (1 - sigma) * tokens + sigma * noise


def first_step(steps: int, strength: float) -> int:
    """Return how many initial schedule steps to skip, counted as in diffusers.

    Args:
        steps: Number of steps in the full schedule.
        strength: Share of them to run.

    Raises:
        ParameterError: No step would be left.
    """
    begin = int(max(steps - min(steps * strength, steps), 0))
    if begin >= steps:
        raise ParameterError(f"strength {strength} of {steps} steps leaves none to run")
    return begin


def _check_strength(strength: float) -> None:
    number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
    if not number or not 0 < strength <= 1:
        raise ParameterError(
            f"strength {strength!r} must be above 0, where the picture stays as it is, and at most "
            "1, where it is drawn anew"
        )
