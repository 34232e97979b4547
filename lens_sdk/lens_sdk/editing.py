"""Edits images with a local Lens model: from an image, or within a masked part of one."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from lens_reasoner import (
    Capabilities,
    GenerationSettings,
    Generator,
    ImageEditor,
    ImageFileError,
    UnsupportedSettingError,
)
from lens_reasoner.generators.source_picture import SourcePicture
from lens_reasoner.media import sniff
from lens_reasoner.settings import check_settings
from lens_sdk.local import LocalLensGenerator
from lens_sdk.recipe import SourceFile
from lens_sdk.runtime import LensRuntime

EXTRA = ("strength", "mask_feather")
"""Names it supports in `GenerationSettings.extra`, besides those of the plain generator."""


class EditingLensGenerator(LocalLensGenerator):
    """A `LocalLensGenerator` that starts from a given image; see `LocalLensGenerator.editing`.

    Args:
        runtime: The model.
        source: The image to start from.
        strength: Fraction of the steps to run; None uses the pipeline's default.
        mask_feather: Pixels outside the mask over which new and old blend; None uses the default.
    """

    def __init__(
        self,
        runtime: LensRuntime,
        source: SourcePicture,
        strength: float | None = None,
        mask_feather: int | None = None,
    ) -> None:
        super().__init__(runtime)
        self._source = source
        self._strength, self._feather = strength, mask_feather
        own = {"strength": strength, "mask_feather": mask_feather}
        given: dict[str, JsonValue] = {k: v for k, v in own.items() if v is not None}
        able = Capabilities(extra=EXTRA)
        check_settings(
            GenerationSettings(extra=given), able, backend=self.name, rules=self.broken_rules
        )

    @property
    def fingerprint(self) -> str:
        """Identifies the weights, the library versions, the image and how it is used."""
        source = self._source.fingerprint
        return f"{super().fingerprint} from {source} {self._strength} {self._feather}"

    @property
    def capabilities(self) -> Capabilities:
        """The checkpoint's capabilities; the default size is the one nearest to the image's."""
        own = super().capabilities
        return own.model_copy(update={"native_size": self._size, "extra": (*own.extra, *EXTRA)})

    @cached_property
    def _size(self) -> tuple[int, int]:
        picture = self._source.picture()
        height, width = self.runtime.size_rules.fitting(picture.height, picture.width)
        return width, height

    def _own_settings(self) -> dict[str, Any]:
        return {**super()._own_settings(), "width": self._size[0], "height": self._size[1]}

    def _filled(self, settings: GenerationSettings) -> GenerationSettings:
        from lens_core.starting_points import (
            DEFAULT_FEATHER,
            DEFAULT_MASK_STRENGTH,
            DEFAULT_STRENGTH,
        )

        masked = self._source.mask is not None
        strength = DEFAULT_MASK_STRENGTH if masked else DEFAULT_STRENGTH
        extra: dict[str, JsonValue] = {
            "strength": strength if self._strength is None else self._strength
        }
        if masked:
            extra["mask_feather"] = DEFAULT_FEATHER if self._feather is None else self._feather
        filled = super()._filled(settings)
        return filled.model_copy(update={"extra": {**extra, **filled.extra}})

    def _checks(self, settings: GenerationSettings) -> dict[str, Callable[[], object]]:
        from lens_core.starting_points import StartingPictures

        given = {name: settings.extra[name] for name in EXTRA if name in settings.extra}
        if not given:
            return super()._checks(settings)
        picture, mask = self._source.picture(), self._source.changeable()
        usual: dict[str, Any] = dict.fromkeys(EXTRA)
        return super()._checks(settings) | {
            name: partial(StartingPictures.read, picture, mask, **{**usual, name: value})
            for name, value in given.items()
        }

    def _arguments(self, settings: GenerationSettings) -> dict[str, Any]:
        return {
            **super()._arguments(settings),
            "image": self._source.picture(),
            "mask_image": self._source.changeable(),
            **{name: settings.extra.get(name) for name in EXTRA},
        }

    def _source_files(self) -> dict[str, SourceFile | None]:
        mask = self._source.mask
        return {
            "image": SourceFile.of(self._source.image),
            "mask": None if mask is None else SourceFile.of(mask),
        }


def start_from(
    generator: Generator, image: Path, mask: Path | None = None, strength: float | None = None
) -> Generator:
    """Return a generator that starts from image files; a local Lens model is not loaded yet.

    Args:
        generator: The generator to edit with.
        image: The image file.
        mask: A file of the same size, transparent or white where the image may change.
        strength: How much to change; only local Lens models support it.

    Raises:
        UnsupportedSettingError: The generator does not edit images, or has no strength setting.
        ImageFileError: A file is not an image, or the mask does not fit; names the files.
        OSError: A file cannot be read.
    """
    local = isinstance(generator, LocalLensGenerator)
    if not isinstance(generator, ImageEditor) or (strength is not None and not local):
        setting = "image" if strength is None else "strength"
        raise UnsupportedSettingError(
            f"{setting} is not supported by {generator.name!r}.",
            setting=setting,
            value=str(image) if strength is None else strength,
            backend=generator.name,
            hint="Leave it out or choose another generator.",
        )
    try:
        changeable = None if mask is None else transparent_mask(mask.read_bytes())
        if isinstance(generator, LocalLensGenerator):
            return generator.editing(image.read_bytes(), mask=changeable, strength=strength)
        return generator.editing(image.read_bytes(), mask=changeable)
    except ImageFileError as error:
        files = " and ".join(str(path) for path in (image, mask) if path is not None)
        raise ImageFileError(f"{files}: {error.message}", hint=error.hint) from error


def transparent_mask(mask: bytes) -> bytes:
    """Return a mask for `ImageEditor.editing`: a PNG file, transparent where the image may change.

    Args:
        mask: Such a file, which is returned unchanged; or one without transparency, white where the
            image may change and black elsewhere.

    Raises:
        ImageFileError: The file is not an image.
    """
    from PIL import Image

    if sniff(mask) is None:
        raise ImageFileError(
            f"The mask's {len(mask)} bytes are not an image file.", hint="Give a PNG file."
        )
    with Image.open(io.BytesIO(mask)) as picture:
        if "A" in picture.getbands():
            return mask
        white = picture.convert("L").point([0] * 128 + [255] * 128)
    clear = Image.new("RGBA", white.size, "black")
    clear.putalpha(white.point([255] + [0] * 255))
    buffer = io.BytesIO()
    clear.save(buffer, format="PNG")
    return buffer.getvalue()
