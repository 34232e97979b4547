"""Images with everything needed to reproduce them."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    PlainSerializer,
    field_validator,
    model_validator,
)

from lens_reasoner.errors import ImageFileError
from lens_reasoner.image_metadata import METADATA_KEY, read_picture, write_picture
from lens_reasoner.media import MediaType, sniff
from lens_reasoner.parameters_text import parameters_text
from lens_reasoner.types import GenerationSettings, JsonObject, Seconds, Seed, Usage, Value

if TYPE_CHECKING:
    from PIL import Image


def _decode_base64(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


ImageBytes = Annotated[
    bytes,
    BeforeValidator(_decode_base64),
    PlainSerializer(
        lambda data: base64.b64encode(data).decode(), return_type=str, when_used="json"
    ),
]


_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}


class GeneratedImage(Value):
    """One image with everything needed to reproduce it.

    Attributes:
        data: The image file as the generator returned it: PNG, JPEG, WebP or GIF; base64 in JSON.
        seed: Its seed; None if the generator takes no seed.
        prompt: The prompt the generator was given, after rewriting.
        settings: The settings that were actually used.
        generator: Name of the generator.
        timings: Seconds by stage, such as {"generate": 3.2}.
        usage: What generating it consumed; its share if one call generates several images.
        recipe: What else is needed to reproduce it, in a form the generator defines, such as the
            weights and the source image. Pairs under `parameters` are written for image viewers.
    """

    data: ImageBytes = Field(repr=False)
    seed: Seed | None
    prompt: str
    settings: GenerationSettings
    generator: str
    timings: dict[str, Seconds] = Field(default_factory=dict)
    usage: Usage = Usage.zero()
    recipe: JsonObject = Field(default={}, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _png_is_data(cls, fields: Any) -> Any:
        """Accept the field's name in version 0.1."""
        if isinstance(fields, dict) and "png" in fields and "data" not in fields:
            fields = {**fields, "data": fields["png"]}
            del fields["png"]
        return fields

    @field_validator("data")
    @classmethod
    def _is_picture(cls, data: bytes) -> bytes:
        if sniff(data) is None:
            raise ImageFileError(
                f"These {len(data)} bytes are not a PNG, JPEG, WebP or GIF file (they start with "
                f"{data[:8]!r}).",
                hint="Give the bytes of an image file, or use GeneratedImage.from_pil.",
            )
        return data

    @classmethod
    def from_pil(
        cls,
        image: Image.Image,
        *,
        prompt: str,
        seed: int | None,
        settings: GenerationSettings,
        generator: str,
        timings: Mapping[str, float] | None = None,
        recipe: Mapping[str, JsonValue] | None = None,
    ) -> GeneratedImage:
        """Encode a PIL image as PNG; its actual size replaces the size in `settings`.

        A mode that PNG does not support, such as "CMYK", is converted to "RGB".
        """
        buffer = io.BytesIO()
        kept = image if image.mode in _PNG_MODES else image.convert("RGB")
        kept.save(buffer, format="PNG")
        return cls(
            data=buffer.getvalue(),
            seed=seed,
            prompt=prompt,
            settings=settings.model_copy(update={"width": image.width, "height": image.height}),
            generator=generator,
            timings=dict(timings or {}),
            recipe=dict(recipe or {}),
        )

    @classmethod
    def load(cls, path: str | Path) -> GeneratedImage:
        """Read a file written by `save`; the image and its hash are the same as before saving.

        Raises:
            ImageFileError: The file is not an image or has no metadata from lens-sdk.
        """
        original, metadata = read_picture(path)
        try:
            return cls.model_validate({**metadata["image"], "data": original})
        except (ValueError, KeyError, TypeError) as error:
            raise ImageFileError(
                f"The '{METADATA_KEY}' metadata of {path} cannot be read: {error}",
                hint="It was written by another version, or changed by another program.",
            ) from error

    @property
    def media_type(self) -> MediaType:
        """Media type of `data`, by its first bytes."""
        found = sniff(self.data)
        assert found is not None, "checked by the validator"
        return found

    @property
    def png(self) -> bytes:
        """The image as a PNG file: `data` itself, or `data` re-encoded."""
        if self.media_type == "image/png":
            return self.data
        buffer = io.BytesIO()
        self.image.save(buffer, format="PNG")
        return buffer.getvalue()

    @property
    def image(self) -> Image.Image:
        """The decoded image."""
        from PIL import Image

        decoded = Image.open(io.BytesIO(self.data))
        decoded.load()
        return decoded

    @property
    def sha256(self) -> str:
        """SHA-256 of `data` in hexadecimal; verdicts refer to the image by it."""
        return hashlib.sha256(self.data).hexdigest()

    def save(self, path: str | Path, *, record: Mapping[str, Any] | None = None) -> Path:
        """Write the image with this value's other fields as metadata.

        A PNG gets two more text chunks: `parameters`, as image viewers read it, and `lens_sdk`,
        which is JSON. Other formats, and images with signed provenance, are written byte for byte,
        with the JSON in a file of the same name plus ".json".

        Args:
            path: Where to write; missing folders are created. If the suffix is that of an image
                format, it is changed to the actual format's.
            record: Further JSON to store, such as the request and the verdict.

        Returns:
            The file that was written.
        """
        metadata = {
            "schema": 1,
            "image": self.model_dump(mode="json", exclude={"data"}),
            "sha256": self.sha256,
            **(record or {}),
        }
        return write_picture(path, self.data, self.media_type, metadata, self._parameters())

    def _parameters(self) -> str:
        settings = self.settings
        extra = self.recipe.get("parameters")
        pairs: dict[str, JsonValue] = {
            "Steps": settings.num_inference_steps,
            "CFG scale": settings.guidance_scale,
            "Seed": self.seed,
            "Size": f"{settings.width}x{settings.height}" if settings.width else None,
            "Model": self.generator,
            **(extra if isinstance(extra, dict) else {}),
        }
        return parameters_text(self.prompt, settings.negative_prompt, pairs)

    def _repr_png_(self) -> bytes:
        return self.png

    def _repr_html_(self) -> str:
        from lens_reasoner.notebook import picture

        return picture(self)
