"""Sources of images and captions: a folder, a table, or the nano world's generator."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lens_core.data.buckets import Bucket
from lens_core.data.digests import own_files
from lens_core.data.errors import MissingCaptionError, UnreadableImageError
from lens_core.data.tables import captions_of, find_image, read_rows
from lens_core.errors import ParameterError
from lens_core.nano.captions import brief_caption, dense_caption
from lens_core.nano.drawing import render
from lens_core.nano.sampling import sample_scene

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
LISTS = ("captions.jsonl", "metadata.jsonl", "metadata.csv")
"""Tables looked for in a folder of images, in this order of preference."""


@dataclass(frozen=True)
class SourceImage:
    """An image that has not been read yet.

    Attributes:
        name: Name for messages and the shard's records.
        captions: Captions by kind, such as `dense` and `brief`; a plain caption is called
            `caption`. Those in a text file are read on first access.
        read: Returns the file's bytes.
    """

    name: str
    captions: Mapping[str, str]
    read: Callable[[], bytes]


class _CaptionFile(Mapping[str, str]):
    """The caption in a text file, read lazily so that the policy can handle an unusable one.

    Args:
        path: The file; it may be missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, kind: str) -> str:
        return self._found[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @cached_property
    def _found(self) -> dict[str, str]:
        if not self._path.is_file():
            return {}
        try:
            text = self._path.read_text(encoding="utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise MissingCaptionError(
                f"{self._path} is not UTF-8 text ({error}); save it as UTF-8"
            ) from error
        return {"caption": text} if text else {}


def folder_images(folder: Path) -> Iterator[SourceImage]:
    """Yield the images below a folder, by name, with captions from a table in it or text files.

    The table is `captions.jsonl`, `metadata.jsonl` or `metadata.csv`, in the form `table_images`
    reads. Without one, the caption of `x.png` is the UTF-8 text of `x.txt` beside it; reading a
    text that is not UTF-8 raises `MissingCaptionError`. Hidden files are ignored.

    Raises:
        ParameterError: It is not a folder, or contains no images.
    """
    if not folder.is_dir():
        raise ParameterError(f"{str(folder)!r} is not a folder of pictures")
    for name in LISTS:
        if (folder / name).is_file():
            yield from table_images(folder / name)
            return
    paths = [path for path in own_files(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise ParameterError(
            f"{folder} holds no pictures; known suffixes: {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    for path in paths:
        captions = _CaptionFile(path.with_suffix(".txt"))
        yield SourceImage(path.relative_to(folder).as_posix(), captions, path.read_bytes)


def table_images(path: Path) -> Iterator[SourceImage]:
    """Yield the images listed in a table: JSON lines, CSV or Parquet, one row per image.

    The image's path, relative to the table, is in `image`, `file_name` or `path`. Its caption is in
    `caption`, `text` or `prompt`. Further kinds are in columns `caption_KIND`, or all kinds in an
    object `captions`.

    Raises:
        ParameterError: The file is not such a table or not UTF-8, or a row has no image.
    """
    for number, row in enumerate(read_rows(path), 1):
        name = find_image(row, path, number)
        yield SourceImage(name, captions_of(row), (path.parent / name).read_bytes)


def nano_images(seed: int, count: int, table: Sequence[Bucket]) -> Iterator[SourceImage]:
    """Yield rendered scenes of the nano world, evenly over the buckets, with both caption kinds.

    Args:
        seed: Seed of the scenes; training seeds never coincide with evaluation seeds.
        count: Number of images.
        table: Their sizes.
    """
    for index in range(count):
        bucket = table[index % len(table)]
        rng = np.random.default_rng((seed, 31, index))
        scene = sample_scene(rng, size=(bucket.width, bucket.height))
        captions = {"dense": dense_caption(scene, rng), "brief": brief_caption(scene, rng)}
        buffer = io.BytesIO()
        render(scene).save(buffer, "PNG")
        yield SourceImage(f"nano-{seed}-{index}", captions, buffer.getvalue)


def read_source(image: SourceImage) -> bytes:
    """Read the bytes of an image.

    Raises:
        UnreadableImageError: Its file is missing or cannot be read.
    """
    try:
        return image.read()
    except (OSError, ValueError) as error:  # ValueError is raised for invalid paths.
        reason = getattr(error, "strerror", None) or error
        raise UnreadableImageError(f"{image.name!r}: {reason}") from error
