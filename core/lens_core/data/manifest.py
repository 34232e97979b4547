"""The manifest of a folder of shards: its contents with hashes, as JSON."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lens_core.data.buckets import Bucket
from lens_core.data.errors import ManifestError

MANIFEST = "manifest.json"


class ShardRecord(BaseModel):
    """One shard.

    Attributes:
        path: Path relative to the folder.
        bucket: Name of its bucket.
        samples: Number of images.
        size: Size of the file in bytes.
        sha256: SHA-256 of the file.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    bucket: str
    samples: int
    size: int
    sha256: str


class BucketRecord(BaseModel):
    """One bucket; see `Bucket`."""

    model_config = ConfigDict(frozen=True)

    base: int
    height: int
    width: int


class Manifest(BaseModel):
    """A folder of shards.

    Attributes:
        version: Version of this format.
        buckets: Every bucket of the table, including empty ones.
        shards: The shards in the order in which they were written.
        captions: Number of images with each kind of caption.
        skipped: Number of source images left out, by reason.
        made: What the shards were made from, and how.
    """

    model_config = ConfigDict(frozen=True)

    version: int = 1
    buckets: tuple[BucketRecord, ...]
    shards: tuple[ShardRecord, ...]
    captions: dict[str, int] = {}
    skipped: dict[str, int] = {}
    made: dict[str, Any] = {}

    @property
    def samples(self) -> int:
        """Number of images in all shards."""
        return sum(shard.samples for shard in self.shards)

    def bucket_list(self) -> list[Bucket]:
        """Buckets that contain images."""
        filled = {shard.bucket for shard in self.shards if shard.samples}
        found = [Bucket(b.base, b.height, b.width) for b in self.buckets]
        return sorted(bucket for bucket in found if bucket.name in filled)

    def fingerprint(self) -> str:
        """Return a SHA-256 of the shards' buckets and hashes that identifies the data."""
        lines = [f"{shard.bucket} {shard.samples} {shard.sha256}" for shard in self.shards]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write `manifest.json` atomically."""
        fresh = folder / f"{MANIFEST}.new"
        fresh.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        fresh.replace(folder / MANIFEST)


def load_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest.

    Raises:
        ManifestError: It is missing, unreadable or has another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ManifestError(f"{folder} has no {MANIFEST}: write its shards with `lens data shard`")
    try:
        manifest = Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error
    if manifest.version != 1:
        raise ManifestError(f"{path} has version {manifest.version}; this code reads version 1")
    if not manifest.samples:
        raise ManifestError(f"{path} lists no pictures")
    return manifest
