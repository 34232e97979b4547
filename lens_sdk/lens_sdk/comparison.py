"""Images side by side, in a notebook or in one file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lens_reasoner import Candidate, GeneratedImage, LoopResult, Rubric
from lens_reasoner.image_metadata import METADATA_KEY
from lens_sdk.errors import NothingToCompareError

if TYPE_CHECKING:
    from PIL.Image import Image

Comparable = GeneratedImage | Candidate | LoopResult | str | Path
"""An image, a candidate, a run (its best image), or a file that `save` wrote."""

_GAP = 8


@dataclass(frozen=True)
class Comparison:
    """Images side by side; displays itself in notebooks.

    Attributes:
        labels: The label of each image.
        candidates: The images, with their verdicts if there are any.
        rubric: The criteria they share; None if they share none.
    """

    labels: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    rubric: Rubric | None = None

    @property
    def image(self) -> Image:
        """All images in one row at their own size, top-aligned, on white."""
        from PIL import Image

        pictures = [candidate.image.image.convert("RGB") for candidate in self.candidates]
        width = sum(one.width for one in pictures) + _GAP * (len(pictures) - 1)
        row = Image.new("RGB", (width, max(one.height for one in pictures)), "white")
        left = 0
        for one in pictures:
            row.paste(one, (left, 0))
            left += one.width + _GAP
        return row

    def save(self, path: str | Path) -> Path:
        """Write the row as a PNG file, with each image's record in its metadata, under `lens_sdk`.

        Returns:
            The path of the file.
        """
        from PIL.PngImagePlugin import PngInfo

        told = {
            "schema": 1,
            "comparison": [
                {
                    "label": label,
                    "image": candidate.image.model_dump(mode="json", exclude={"data"}),
                    "sha256": candidate.image.sha256,
                    "score": candidate.score,
                }
                for label, candidate in zip(self.labels, self.candidates, strict=True)
            ],
        }
        info = PngInfo()
        info.add_text(METADATA_KEY, json.dumps(told))
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.image.save(target, format="PNG", pnginfo=info)
        return target

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.image.save(buffer, format="PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        from lens_reasoner.notebook import side_by_side

        named = list(zip(self.labels, self.candidates, strict=True))
        return side_by_side(named, self.rubric, width=max(128, 1024 // len(named)))


def compare(*pictures: Comparable, **labelled: Comparable) -> Comparison:
    """Put images side by side.

    Example:
        ```python
        compare(plain=lens.images.generate(text, seed=1)[0], reasoned=lens.create(text, seed=1))
        ```

    Args:
        *pictures: Images, labelled "1", "2" and so on.
        **labelled: Images, labelled with their names.

    Raises:
        NothingToCompareError: There is no image, or a run generated none.
        ImageFileError: A file was not written by `save`.
    """
    named: Mapping[str, Any] = {
        **{str(number): one for number, one in enumerate(pictures, start=1)},
        **labelled,
    }
    if not named:
        raise NothingToCompareError("There is nothing to compare.", hint="Give some pictures.")
    candidates = tuple(_candidate(label, one) for label, one in named.items())
    rubrics = [one.rubric for one in named.values() if isinstance(one, LoopResult) and one.rubric]
    alike = rubrics and all(rubric.criteria == rubrics[0].criteria for rubric in rubrics)
    shared = rubrics[0] if alike else None
    return Comparison(tuple(named), candidates, shared)


def _candidate(label: str, one: Comparable) -> Candidate:
    if isinstance(one, LoopResult):
        if one.best is None:
            raise NothingToCompareError(
                f"The run {label!r} drew no picture.", hint="Leave it out, or look at its failures."
            )
        return one.best
    if isinstance(one, Candidate):
        return one
    image = one if isinstance(one, GeneratedImage) else GeneratedImage.load(one)
    return Candidate(image=image, round=0)
