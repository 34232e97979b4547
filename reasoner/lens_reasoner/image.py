"""Pictures with everything needed to make them again."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator

from lens_reasoner import png as png_file
from lens_reasoner.errors import ImageFileError
from lens_reasoner.types import GenerationSettings, Seconds, Seed, Value

if TYPE_CHECKING:
    from PIL import Image

METADATA_KEY = "lens_sdk"
PARAMETERS_KEY = "parameters"


def _decode_base64(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


PngBytes = Annotated[
    bytes,
    BeforeValidator(_decode_base64),
    PlainSerializer(
        lambda data: base64.b64encode(data).decode(), return_type=str, when_used="json"
    ),
]


class GeneratedImage(Value):
    """One picture with everything needed to make it again.

    Attributes:
        png: The PNG file; base64 in JSON.
        seed: The seed that made it; None if the generator takes no seed.
        prompt: The prompt the generator was given, after rewriting.
        settings: The settings that were really used.
        generator: Name of the generator.
        timings: Seconds by stage, such as {"generate": 3.2}.
    """

    png: PngBytes = Field(repr=False)
    seed: Seed | None
    prompt: str
    settings: GenerationSettings
    generator: str
    timings: dict[str, Seconds] = Field(default_factory=dict)

    @field_validator("png")
    @classmethod
    def _is_png(cls, data: bytes) -> bytes:
        png_file.check_signature(data)
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
    ) -> GeneratedImage:
        """Encode a PIL picture; its real size replaces the size in `settings`."""
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return cls(
            png=buffer.getvalue(),
            seed=seed,
            prompt=prompt,
            settings=settings.model_copy(update={"width": image.width, "height": image.height}),
            generator=generator,
            timings=dict(timings or {}),
        )

    @classmethod
    def load(cls, path: str | Path) -> GeneratedImage:
        """Read a file written by `save`; the picture and its hash are those before saving.

        Raises:
            ImageFileError: If the file is no PNG or carries no such metadata.
        """
        data = Path(path).read_bytes()
        text = png_file.read_text(data).get(METADATA_KEY)
        if text is None:
            raise ImageFileError(
                f"{path} has no '{METADATA_KEY}' metadata.",
                hint="Only PNG files written by GeneratedImage.save and not re-saved by other "
                "programs can be loaded.",
            )
        original = png_file.remove_text(data, (METADATA_KEY, PARAMETERS_KEY))
        try:
            return cls.model_validate({**json.loads(text)["image"], "png": original})
        except (ValueError, KeyError, TypeError) as error:
            raise ImageFileError(
                f"The '{METADATA_KEY}' metadata of {path} cannot be read: {error}",
                hint="It was written by another version or changed by another program.",
            ) from error

    @property
    def image(self) -> Image.Image:
        """The decoded picture."""
        from PIL import Image

        picture = Image.open(io.BytesIO(self.png))
        picture.load()
        return picture

    @property
    def sha256(self) -> str:
        """Hash of the PNG bytes, in hexadecimal: the name of this picture in verdicts."""
        return hashlib.sha256(self.png).hexdigest()

    def save(self, path: str | Path, *, record: Mapping[str, Any] | None = None) -> Path:
        """Write the PNG with its parameters inside, all other chunks kept.

        Two text chunks are set: `parameters` in the form image viewers read, and `lens_sdk` with
        this value as JSON.

        Args:
            path: Where to write; missing folders are made.
            record: More JSON to keep in the file, such as the request and the verdict.
        """
        metadata = {
            "schema": 1,
            "image": self.model_dump(mode="json", exclude={"png"}),
            "sha256": self.sha256,
            **(record or {}),
        }
        texts = {
            PARAMETERS_KEY: self._parameters(),
            METADATA_KEY: json.dumps(metadata, allow_nan=False),
        }
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".part")
        partial.write_bytes(png_file.write_text(self.png, texts))
        partial.replace(target)
        return target

    def _parameters(self) -> str:
        settings = self.settings
        values = {
            "Steps": settings.num_inference_steps,
            "CFG scale": settings.guidance_scale,
            "Seed": self.seed,
            "Size": f"{settings.width}x{settings.height}" if settings.width else None,
            "Model": self.generator,
        }
        lines = [self.prompt]
        if settings.negative_prompt:
            lines.append(f"Negative prompt: {settings.negative_prompt}")
        lines.append(", ".join(f"{k}: {v}" for k, v in values.items() if v is not None))
        return "\n".join(lines)

    def _repr_png_(self) -> bytes:
        return self.png
