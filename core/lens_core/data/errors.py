"""What can be wrong with training data, each kind with its name in counts and logs."""

from typing import ClassVar

from lens_core.errors import LensCoreError


class DataError(LensCoreError, ValueError):
    """Base class of every problem with training data."""

    kind: ClassVar[str] = "data"


class ManifestError(DataError):
    """A folder of shards whose manifest is missing, unreadable or of another data set."""

    kind: ClassVar[str] = "manifest"


class DamagedShardError(DataError):
    """A shard that is missing, cut short or not a tar file, or a sample in it that changed."""

    kind: ClassVar[str] = "damaged_shard"


class MissingCaptionError(DataError):
    """A picture without the caption that was asked for."""

    kind: ClassVar[str] = "missing_caption"


class UnreadableImageError(DataError):
    """Bytes that are not a picture, or only part of one."""

    kind: ClassVar[str] = "unreadable_image"


class UnfitImageError(DataError):
    """A picture too small for every bucket, or so long that most of it would be cut off."""

    kind: ClassVar[str] = "unfit_image"
