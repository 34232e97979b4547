"""What a picture of a local Lens model says about its making, beyond prompt, seed and settings."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import JsonValue

from lens_reasoner import GenerationSettings
from lens_sdk.metadata import versions
from lens_sdk.models import LensModel

if TYPE_CHECKING:
    from lens_core.pipeline import LensPipeline

MAKER = "lens"

LARGEST_EMBEDDED = 2**22
"""Bytes; a larger starting picture is known by its SHA-256 and has to be given again."""


@dataclass(frozen=True)
class SourceFile:
    """A file that drawing started from.

    Attributes:
        sha256: Of the file.
        data: The file; None if it was too large to be kept.
    """

    sha256: str
    data: bytes | None

    @classmethod
    def of(cls, data: bytes) -> Self:
        """What is kept of a file."""
        kept = data if len(data) <= LARGEST_EMBEDDED else None
        return cls(hashlib.sha256(data).hexdigest(), kept)

    def as_json(self) -> dict[str, JsonValue]:
        """JSON values, the file in base64."""
        data = None if self.data is None else base64.b64encode(self.data).decode()
        return {"sha256": self.sha256, "file": data}

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """From what `as_json` gave."""
        text = values["file"]
        return cls(values["sha256"], None if text is None else base64.b64decode(text))


def make_recipe(
    model: LensModel,
    pipeline: LensPipeline,
    settings: GenerationSettings,
    *,
    date: str,
    batch: Sequence[int],
    index: int,
    speed: str | None = None,
    image: SourceFile | None = None,
    mask: SourceFile | None = None,
) -> dict[str, JsonValue]:
    """JSON values for `GeneratedImage.recipe`.

    Args:
        model: Whose weights draw.
        pipeline: Loaded from them.
        settings: What was really used.
        date: What the text encoder believed the day to be.
        batch: Seeds of all pictures that were drawn together, as their number moves the last bits.
        index: Which of them this picture is.
        speed: Name of the speed plan it was drawn with.
        image: What it started from.
        mask: Where that could change.
    """
    strength = settings.extra.get("strength")
    return {
        "maker": MAKER,
        "model": model.record(),
        "versions": dict(versions()),
        "device": str(pipeline._execution_device.type),
        "dtype": str(pipeline.transformer.dtype).removeprefix("torch."),
        "memory": pipeline.memory_plan.name,
        "speed": speed,
        "date": date,
        "loras": pipeline.lora_records,
        "batch": {"seeds": list(batch), "index": index},
        "image": None if image is None else image.as_json(),
        "mask": None if mask is None else mask.as_json(),
        "parameters": {
            "Sampler": "Euler",
            "Model hash": _short_hash(model),
            "Denoising strength": strength,
            "Version": f"lens-sdk {versions()['lens-sdk']}",
        },
    }


def _short_hash(model: LensModel) -> str | None:
    """The first digits of the denoiser's SHA-256, where it is one file and known."""
    found = [what["sha256"] for name, what in model.weights.items() if name.startswith("transf")]
    return found[0][:10] if len(found) == 1 and found[0] else None
