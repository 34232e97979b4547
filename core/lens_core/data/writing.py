"""Writing of shards: WebDataset tar files with one bucket each, and a manifest.

A sample has three members with the same key: the image in its bucket's size, `txt` with a caption,
and `json` with all captions, the source's name, hash and size, and the part that was kept. Equal
input gives equal bytes.
"""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from lens_core.data.buckets import Bucket, fitting_buckets, nearest_bucket
from lens_core.data.digests import content_hash, file_hash
from lens_core.data.errors import DataError, ManifestError, MissingCaptionError
from lens_core.data.fitting import CropPolicy, Fitted, decode_image, fit
from lens_core.data.manifest import MANIFEST, BucketRecord, Manifest, ShardRecord
from lens_core.data.policy import DataPolicy
from lens_core.data.sources import SourceImage, read_source

Format = Literal["png", "jpg", "webp"]


@dataclass(frozen=True)
class ShardSettings:
    """How shards are written.

    Attributes:
        table: Buckets to choose from.
        samples_per_shard: Maximum number of images per shard.
        crop: How much may be cropped, and where.
        policy: What to do about unusable images.
        image_format: `png` and `webp` are lossless, `jpg` has quality 95.
        every_base: Write an image once for every base that it fills, not only for the largest.
    """

    table: Sequence[Bucket]
    samples_per_shard: int = 1000
    crop: CropPolicy = field(default_factory=CropPolicy)
    policy: DataPolicy = field(default_factory=DataPolicy)
    image_format: Format = "png"
    every_base: bool = False


def write_shards(
    images: Iterable[SourceImage], folder: Path, settings: ShardSettings, made: dict[str, Any]
) -> Manifest:
    """Write images into shards below `folder`.

    Args:
        images: Images and captions.
        folder: Created if missing; it must not contain shards. The manifest is written last.
        settings: How to write.
        made: Origin of the images, for the manifest.

    Raises:
        ManifestError: The folder already contains shards, or no image was usable.
        DataError: An image is unusable and the policy refuses it.
    """
    if (folder / MANIFEST).exists():
        raise ManifestError(f"{folder} holds shards already; choose another folder or remove it")
    writers = {b.name: BucketWriter(folder, b, settings.samples_per_shard) for b in settings.table}
    skipped, kinds, number = Counter[str](), Counter[str](), 0
    for source in images:
        try:
            samples = _samples(source, settings)
        except DataError as error:
            settings.policy.check(error)
            skipped[error.kind] += 1
            continue
        for bucket, members in samples:
            writers[bucket.name].add(f"{number:09d}", members)
            kinds.update(list(source.captions))
            number += 1
    shards = [shard for writer in writers.values() for shard in writer.close()]
    if not shards:
        raise ManifestError(_nothing_used(skipped))
    manifest = Manifest(
        buckets=tuple(BucketRecord(**asdict(bucket)) for bucket in settings.table),
        shards=tuple(shards),
        captions=dict(sorted(kinds.items())),
        skipped=dict(sorted(skipped.items())),
        made={**made, "crop": asdict(settings.crop), "every_base": settings.every_base},
    )
    manifest.save(folder)
    return manifest


def _nothing_used(skipped: Mapping[str, int]) -> str:
    if not skipped:
        return "there are no pictures"
    counted = ", ".join(f"{kind.replace('_', ' ')} ({count})" for kind, count in skipped.items())
    told = f"no picture could be used: {counted}"
    if MissingCaptionError.kind in skipped:
        told += "; captions of a folder's pictures lie beside them, x.txt for x.png"
    return told


def _samples(source: SourceImage, settings: ShardSettings) -> list[tuple[Bucket, dict[str, bytes]]]:
    """Return the buckets of an image's samples, and their members by suffix."""
    if not source.captions:
        raise MissingCaptionError(f"{source.name} has no caption")
    for caption in source.captions.values():
        try:
            caption.encode()
        except UnicodeEncodeError as error:
            raise MissingCaptionError(f"{source.name} has a caption that is not text") from error
    content = read_source(source)
    digest = content_hash(content)
    image = decode_image(content, source.name)
    buckets = [nearest_bucket(image.height, image.width, settings.table)]
    if settings.every_base:
        buckets = fitting_buckets(image.height, image.width, settings.table)
    out = []
    for bucket in buckets:
        fitted = fit(image, bucket, settings.crop, digest)
        out.append((bucket, _members(source, digest, fitted, settings.image_format)))
    return out


def _members(
    source: SourceImage, digest: str, fitted: Fitted, image_format: Format
) -> dict[str, bytes]:
    picture = _encode(fitted.image, image_format)
    record = {
        "captions": dict(source.captions),
        "sha256": content_hash(picture),
        "source": source.name,
        "source_sha256": digest,
        "source_size": list(fitted.original),
        "source_box": [round(side, 3) for side in fitted.box],
    }
    text = next(iter(source.captions.values()))
    return {
        image_format: picture,
        "txt": text.encode(),
        "json": json.dumps(record, ensure_ascii=False).encode(),
    }


def _encode(image: Image.Image, image_format: Format) -> bytes:
    buffer = io.BytesIO()
    if image_format == "jpg":
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    elif image_format == "webp":
        image.save(buffer, "WEBP", lossless=True)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class BucketWriter:
    """Writes the shards of one bucket.

    Attributes:
        folder: Folder of all shards.
        bucket: The bucket.
        limit: Maximum number of images per shard.
    """

    folder: Path
    bucket: Bucket
    limit: int
    _done: list[ShardRecord] = field(default_factory=list)
    _tar: tarfile.TarFile | None = None
    _samples: int = 0

    def add(self, key: str, members: dict[str, bytes]) -> None:
        """Write one sample."""
        if self._tar is None:
            path = self._path().with_suffix(".new")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        for suffix, content in members.items():
            member = tarfile.TarInfo(f"{key}.{suffix}")
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))
        self._samples += 1
        if self._samples == self.limit:
            self._finish()

    def close(self) -> list[ShardRecord]:
        """Finish the last shard and return the records of all shards."""
        self._finish()
        return self._done

    def _path(self) -> Path:
        return self.folder / self.bucket.name / f"shard-{len(self._done):06d}.tar"

    def _finish(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        path = self._path()
        fresh = path.with_suffix(".new")
        self._done.append(
            ShardRecord(
                path=path.relative_to(self.folder).as_posix(),
                bucket=self.bucket.name,
                samples=self._samples,
                size=fresh.stat().st_size,
                sha256=file_hash(fresh),
            )
        )
        fresh.replace(path)
        self._tar, self._samples = None, 0
