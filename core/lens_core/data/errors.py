"""Errors in training data. Each kind has a name that is used in counts and logs."""

from typing import ClassVar

from lens_core.errors import LensCoreError


class DataError(LensCoreError, ValueError):
    """Base class of all errors in training data."""

    kind: ClassVar[str] = "data"


class ManifestError(DataError):
    """The manifest of a folder of shards is missing, unreadable or from another data set."""

    kind: ClassVar[str] = "manifest"


class DamagedShardError(DataError):
    """A shard is missing, truncated or not a tar file, or a sample in it has changed."""

    kind: ClassVar[str] = "damaged_shard"


class MissingCaptionError(DataError):
    """An image has no usable caption of the requested kind."""

    kind: ClassVar[str] = "missing_caption"


class UnreadableImageError(DataError):
    """The data are not an image, or only part of one."""

    kind: ClassVar[str] = "unreadable_image"


class UnfitImageError(DataError):
    """An image is too small for every bucket, or so long that too much would be cropped."""

    kind: ClassVar[str] = "unfit_image"
