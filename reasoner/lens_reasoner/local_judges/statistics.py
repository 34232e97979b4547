"""Detecting broken images: blank, noise, washed out or clipped."""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING, Literal

from lens_reasoner.local_judges.base import LocalJudge
from lens_reasoner.types import Criterion, Probability, Value
from lens_reasoner.verdict import Opinion

if TYPE_CHECKING:
    from PIL import Image

Defect = Literal["blank", "noise", "low_contrast", "clipped"]

SOUND_PICTURE = Criterion(
    name="sound picture",
    kind="structure",
    question="Is this a proper picture: not blank, not noise and not washed out?",
    expected={"statistics": ["blank", "noise", "low_contrast"]},
)
"""The criterion that `StatisticsJudge` answers; add it to a rubric.

Clipping is not included, because line art and text on white paper are only black and white.
"""

BLANK_SPREAD = 2.0
"""An image whose grey levels have a smaller standard deviation is blank."""

NOISE_CORRELATION = 0.3
"""An image whose neighbouring pixels have a lower correlation is noise."""

LOW_CONTRAST_RANGE = 32
"""An image with fewer grey levels between darkest and brightest is washed out."""

OUTLIERS = 0.002
"""Share of pixels at either end that are ignored when finding darkest and brightest."""

CLIPPED_SHARE = 0.98
"""An image with a larger share of pure black and pure white pixels is clipped."""


class ImageStatistics(Value):
    """Statistics of an image, in grey levels from 0 to 255.

    Attributes:
        mean: Mean brightness.
        spread: Standard deviation.
        contrast: Levels between darkest and brightest pixel, ignoring `OUTLIERS` at either end.
        clipped: Share of pixels that are pure black or pure white.
        entropy: Entropy of the histogram in bits; at most 8.
        correlation: Correlation of pixels with their right and lower neighbours, from -1 to 1; 1
            for an image with a single level.
    """

    mean: float
    spread: float
    contrast: int
    clipped: Probability
    entropy: float
    correlation: float

    @property
    def defects(self) -> tuple[Defect, ...]:
        """Defects by the thresholds of this module; a blank image has no others."""
        if self.spread < BLANK_SPREAD:
            return ("blank",)
        found: dict[Defect, bool] = {
            "noise": self.correlation < NOISE_CORRELATION,
            "low_contrast": self.contrast < LOW_CONTRAST_RANGE,
            "clipped": self.clipped > CLIPPED_SHARE,
        }
        return tuple(defect for defect, present in found.items() if present)


def image_statistics(picture: Image.Image) -> ImageStatistics:
    """Compute the statistics of an image of any mode."""
    from PIL import ImageStat

    grey = picture.convert("L")
    histogram = grey.histogram()
    total = sum(histogram)
    moments = ImageStat.Stat(grey)
    shares = [count / total for count in histogram if count]
    return ImageStatistics(
        mean=moments.mean[0],
        spread=moments.stddev[0],
        contrast=_percentile(histogram, 1 - OUTLIERS) - _percentile(histogram, OUTLIERS),
        clipped=(histogram[0] + histogram[255]) / total,
        entropy=max(0.0, -sum(share * log2(share) for share in shares)),
        correlation=_correlation(grey, moments.var[0]),
    )


def _percentile(histogram: list[int], share: float) -> int:
    wanted, seen = share * sum(histogram), 0
    for level, count in enumerate(histogram):
        seen += count
        if seen >= wanted:
            return level
    return 255


def _correlation(grey: Image.Image, variance: float) -> float:
    """Correlation of neighbours, from E(a-b)^2 = 2 var (1 - correlation)."""
    from PIL import ImageChops, ImageStat

    if variance == 0:
        return 1.0
    wide, high = grey.size
    squares = []
    for dx, dy in ((1, 0), (0, 1)):
        if wide > dx and high > dy:
            first = grey.crop((0, 0, wide - dx, high - dy))
            second = grey.crop((dx, dy, wide, high))
            difference = ImageStat.Stat(ImageChops.difference(first, second))
            squares.append(difference.sum2[0] / difference.count[0])
    if not squares:
        return 1.0
    return max(-1.0, min(1.0, 1 - sum(squares) / len(squares) / (2 * variance)))


class StatisticsJudge(LocalJudge[ImageStatistics]):
    """Answers criteria whose `expected` has "statistics" (see `SOUND_PICTURE`).

    "statistics" is a list of the defects that an image must not have. Leave out those that a
    request asks for: a white square on white is rightly blank.
    """

    @property
    def name(self) -> str:
        """Name for records."""
        return "statistics"

    @property
    def fingerprint(self) -> str:
        """The thresholds."""
        return f"{BLANK_SPREAD}/{NOISE_CORRELATION}/{LOW_CONTRAST_RANGE}/{CLIPPED_SHARE}"

    def concerns(self, criterion: Criterion) -> bool:
        """Whether the criterion's `expected` has "statistics"."""
        return isinstance(criterion.expected.get("statistics"), list)

    def look(self, picture: Image.Image) -> ImageStatistics:
        """Compute the statistics."""
        return image_statistics(picture)

    def answer(self, criterion: Criterion, seen: ImageStatistics) -> Opinion:
        """Whether the image has any of the listed defects."""
        listed = criterion.expected["statistics"]
        found = [defect for defect in seen.defects if isinstance(listed, list) and defect in listed]
        numbers = (
            f"spread {seen.spread:.0f}, contrast {seen.contrast}, clipped {seen.clipped:.0%}, "
            f"correlation {seen.correlation:.2f}"
        )
        if found:
            return Opinion(answer="no", evidence=f"{', '.join(found)} ({numbers})")
        return Opinion(answer="yes", evidence=numbers)
