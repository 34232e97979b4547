"""An image to start from."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lens_reasoner.errors import ImageFileError, UnsupportedSettingError
from lens_reasoner.generator import Capabilities, Size
from lens_reasoner.generators.images_wire import check_picture
from lens_reasoner.media import MediaType, sniff

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class SourcePicture:
    """An image to start from, and optionally a mask.

    Attributes:
        image: The image file.
        mask: A PNG file of the same size, transparent where the image may change; None lets the
            generator decide.
        size: Width and height in pixels.
    """

    image: bytes = field(repr=False)
    mask: bytes | None = field(repr=False)
    size: Size

    @classmethod
    def of(
        cls, image: bytes, mask: bytes | None, capabilities: Capabilities, *, backend: str
    ) -> SourcePicture:
        """Check both files, and that the generator supports them.

        Raises:
            UnsupportedSettingError: The generator takes no source image, or no mask.
            ImageFileError: A file is not an image, or the mask does not match the image.
        """
        if not capabilities.image_input:
            raise _unsupported("image", "it draws from a prompt alone", backend)
        if mask is not None and not capabilities.mask:
            raise _unsupported("mask", "it takes no mask", backend)
        size = check_picture(image)
        if mask is not None:
            _check_mask(mask, size)
        return cls(image, mask, size)

    @property
    def media_type(self) -> MediaType:
        """Media type of `image`."""
        return sniff(self.image) or "image/png"

    @property
    def fingerprint(self) -> str:
        """Hash of both files."""
        return hashlib.sha256(self.image + b"\0" + (self.mask or b"")).hexdigest()[:16]

    def picture(self) -> Image.Image:
        """The image as RGB, without transparency."""
        return _open(self.image).convert("RGB")

    def changeable(self) -> Image.Image | None:
        """The mask as white where the image may change and black elsewhere; None without a mask."""
        if self.mask is None:
            return None
        alpha = _open(self.mask).getchannel("A")
        return alpha.point([255] + [0] * 255)


def _check_mask(mask: bytes, size: Size) -> None:
    found = check_picture(mask)
    if found != size:
        raise ImageFileError(
            f"The mask is {found[0]}x{found[1]} and the image {size[0]}x{size[1]}.",
            hint="Give a mask of the image's size.",
        )
    if sniff(mask) != "image/png" or "A" not in _open(mask).getbands():
        raise ImageFileError(
            "The mask has no transparency.",
            hint="Give a PNG file that is transparent where the image may change.",
        )


def _open(data: bytes) -> Image.Image:
    from PIL import Image

    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def _unsupported(setting: str, rule: str, backend: str) -> UnsupportedSettingError:
    return UnsupportedSettingError(
        f"{setting} is not supported by {backend!r}: {rule}.",
        setting=setting,
        value="an image",
        backend=backend,
        hint="Choose another generator.",
    )
