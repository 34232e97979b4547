"""What is done about data that cannot be used: refused, or skipped and counted."""

from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lens_core.data.errors import DataError

Action = Literal["refuse", "skip"]


class DataPolicy(BaseModel):
    """One decision for every kind of problem; `refuse` raises, `skip` counts and goes on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    damaged_shard: Action = "refuse"
    """A shard that is missing or damaged, or a sample whose bytes changed."""
    unreadable_image: Action = "skip"
    """A picture that cannot be decoded to its end."""
    missing_caption: Action = "skip"
    """A picture without a caption, or with one that is not UTF-8."""
    unfit_image: Action = "skip"
    """A picture smaller than every bucket, or too long for what may be cut off."""

    def check(self, error: DataError) -> None:
        """Return where a problem may be skipped.

        Raises:
            DataError: The problem itself, where it is to be refused.
        """
        if getattr(self, error.kind, "refuse") == "refuse":
            raise error


def tally(errors: list[DataError]) -> Counter[str]:
    """How many problems of each kind."""
    return Counter(error.kind for error in errors)
