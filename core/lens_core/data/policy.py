"""Policy for unusable data: refuse it, or skip and count it."""

from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lens_core.data.errors import DataError

Action = Literal["refuse", "skip"]


class DataPolicy(BaseModel):
    """The action for each kind of problem: `refuse` raises an error, `skip` counts it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    damaged_shard: Action = "refuse"
    """A shard is missing or damaged, or a sample's bytes have changed."""
    unreadable_image: Action = "skip"
    """An image cannot be decoded completely."""
    missing_caption: Action = "skip"
    """An image has no caption, or one that is not UTF-8."""
    unfit_image: Action = "skip"
    """An image is smaller than every bucket, or too long for the allowed crop."""

    def check(self, error: DataError) -> None:
        """Return if the problem may be skipped.

        Raises:
            DataError: The problem itself, if it is to be refused.
        """
        if getattr(self, error.kind, "refuse") == "refuse":
            raise error


def tally(errors: list[DataError]) -> Counter[str]:
    """Count the problems of each kind."""
    return Counter(error.kind for error in errors)
