"""Data needed to reproduce a local Lens image, besides prompt, seed and settings."""

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

SAMPLERS = {"euler": "Euler", "dpmpp_2m": "DPM++ 2M", "ab2": "AB2"}
"""Names of the solvers in the `parameters` text, where other tools have one."""

LARGEST_EMBEDDED = 2**22
"""In bytes; of a larger starting image only the SHA-256 is kept, so it must be supplied again."""


@dataclass(frozen=True)
class SourceFile:
    """A file that generation started from.

    Attributes:
        sha256: SHA-256 of the file.
        data: The content of the file; None if it was too large to keep.
    """

    sha256: str
    data: bytes | None

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Keep a file's hash and, if it is small enough, its content."""
        kept = data if len(data) <= LARGEST_EMBEDDED else None
        return cls(hashlib.sha256(data).hexdigest(), kept)

    def as_json(self) -> dict[str, JsonValue]:
        """Return JSON values, with the file in base64."""
        data = None if self.data is None else base64.b64encode(self.data).decode()
        return {"sha256": self.sha256, "file": data}

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """Read the values that `as_json` returned."""
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
    """Return the JSON values for `GeneratedImage.recipe`.

    Args:
        model: The model whose weights were used.
        pipeline: The pipeline loaded from it.
        settings: The settings actually used.
        date: The date given to the text encoder.
        batch: Seeds of all images generated together; the batch size changes the last bits.
        index: The image's position in `batch`.
        speed: Name of the speed plan used.
        image: The starting image.
        mask: The mask: where the starting image could change.
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
            "Sampler": SAMPLERS[str(settings.extra.get("solver") or "euler")],
            "Shift": settings.extra.get("shift"),
            "Model hash": _short_hash(model),
            "Denoising strength": strength,
            "Version": f"lens-sdk {versions()['lens-sdk']}",
        },
    }


def _short_hash(model: LensModel) -> str | None:
    """First digits of the denoiser's SHA-256, if it is a single file with a known hash."""
    found = [what["sha256"] for name, what in model.weights.items() if name.startswith("transf")]
    return found[0][:10] if len(found) == 1 and found[0] else None
