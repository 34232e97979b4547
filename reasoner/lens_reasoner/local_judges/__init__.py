"""Judges that run in this process, each for the criteria it can decide."""

from lens_reasoner.local_judges.composite import CompositeJudge
from lens_reasoner.local_judges.nsfw import SAFE_CONTENT, NsfwJudge
from lens_reasoner.local_judges.ocr import OcrJudge
from lens_reasoner.local_judges.statistics import (
    SOUND_PICTURE,
    ImageStatistics,
    StatisticsJudge,
    image_statistics,
)

__all__ = [
    "SAFE_CONTENT",
    "SOUND_PICTURE",
    "CompositeJudge",
    "ImageStatistics",
    "NsfwJudge",
    "OcrJudge",
    "StatisticsJudge",
    "image_statistics",
]
