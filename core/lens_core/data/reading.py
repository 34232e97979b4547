"""Reading of shards, with random access to samples so that any order can be resumed exactly."""

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from lens_core.data.digests import content_hash, file_hash
from lens_core.data.errors import DamagedShardError, MissingCaptionError
from lens_core.data.manifest import Manifest, ShardRecord, load_manifest

_PICTURES = ("png", "jpg", "jpeg", "webp")

Place = tuple[int, int]
"""Offset and length in bytes of a member's content in the tar file."""


@dataclass(frozen=True)
class StoredSample:
    """A sample as stored in its shard.

    Attributes:
        name: Shard and key, for messages.
        content_hash: SHA-256 of the image's bytes.
        picture: The bytes of an image file.
        captions: The captions by kind.
    """

    name: str
    content_hash: str
    picture: bytes
    captions: Mapping[str, str]

    def caption(self, kind: str) -> str:
        """Return the caption of a kind; an only caption serves for every kind.

        Raises:
            MissingCaptionError: There is no such caption.
        """
        if kind in self.captions:
            return self.captions[kind]
        if len(self.captions) == 1:
            return next(iter(self.captions.values()))
        raise MissingCaptionError(
            f"{self.name} has no caption {kind!r}; it has {sorted(self.captions) or 'none'}"
        )


@lru_cache(maxsize=256)
def shard_index(path: Path, digest: str) -> tuple[Mapping[str, Place], ...]:
    """Return the members of every sample by suffix, in file order.

    Args:
        path: The shard.
        digest: Hash of its content, so that a cached index is not used for a replaced file.

    Raises:
        DamagedShardError: The file is missing, truncated or not a tar file.
    """
    samples: dict[str, dict[str, Place]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    key, _, suffix = PurePosixPath(member.name).name.partition(".")
                    place = (member.offset_data, member.size)
                    samples.setdefault(key, {})[suffix.lower()] = place
    except (OSError, tarfile.TarError) as error:
        raise DamagedShardError(f"shard {path} cannot be read: {error}") from error
    return tuple(samples.values())


@dataclass(frozen=True)
class ShardFolder:
    """A folder of shards.

    Attributes:
        folder: The folder that contains the manifest.
        manifest: The expected contents.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "ShardFolder":
        """Read a folder's manifest.

        Raises:
            ManifestError: It is missing or unreadable.
        """
        return cls(folder, load_manifest(folder))

    def read(self, shard: ShardRecord, row: int) -> StoredSample:
        """Read one sample.

        Raises:
            DamagedShardError: The shard or the sample differs from what was written.
        """
        path = self.folder / shard.path
        members = self._index(shard)[row]
        name = f"{shard.path}[{row}]"
        suffix = next((s for s in _PICTURES if s in members), None)
        if suffix is None:
            raise DamagedShardError(f"{name} has no picture, only {sorted(members)}")
        picture = _content(path, members[suffix])
        record = self._record(path, members, name)
        digest = content_hash(picture)
        if record.get("sha256", digest) != digest:
            raise DamagedShardError(f"{name}: the picture's bytes are not those that were written")
        captions = {str(k): str(v) for k, v in dict(record.get("captions", {})).items() if v}
        if not captions and "txt" in members:
            text = _content(path, members["txt"]).decode(errors="replace").strip()
            captions = {"caption": text} if text else {}
        return StoredSample(name, digest, picture, captions)

    def verify(self) -> list[str]:
        """Check the hashes of all files and return the problems found."""
        problems = []
        for shard in self.manifest.shards:
            path = self.folder / shard.path
            if not path.is_file():
                problems.append(f"{shard.path}: missing")
            elif file_hash(path) != shard.sha256:
                problems.append(f"{shard.path}: its SHA-256 is not the manifest's")
        return problems

    def _index(self, shard: ShardRecord) -> tuple[Mapping[str, Place], ...]:
        path = self.folder / shard.path
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DamagedShardError(f"shard {path} is missing") from error
        if size != shard.size:
            raise DamagedShardError(
                f"shard {path} has {size} bytes instead of {shard.size}; write it again"
            )
        index = shard_index(path, shard.sha256)
        if len(index) != shard.samples:
            raise DamagedShardError(
                f"shard {path} has {len(index)} samples instead of {shard.samples}"
            )
        return index

    def _record(self, path: Path, members: Mapping[str, Place], name: str) -> dict[str, Any]:
        if "json" not in members:
            return {}
        try:
            record: dict[str, Any] = dict(json.loads(_content(path, members["json"])))
        except (ValueError, TypeError) as error:
            raise DamagedShardError(f"{name}: its json member is damaged: {error}") from error
        return record


def _content(path: Path, place: Place) -> bytes:
    start, length = place
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(length)
    except OSError as error:
        raise DamagedShardError(f"shard {path} cannot be read: {error}") from error
    if len(content) != length:
        raise DamagedShardError(f"shard {path} is truncated")
    return content
