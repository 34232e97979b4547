"""PNG encoding away from whoever waits for the next picture."""

import io
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from PIL import Image

FAST_LEVEL = 1
"""zlib level: about a third of the default's time for a photograph, and a tenth more bytes."""


def encode_png(image: Image.Image, level: int = FAST_LEVEL) -> bytes:
    """A picture as PNG. Its pixels are the same at any level, from 0 (large) to 9 (slow)."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()


class PngEncoder:
    """Encodes in threads, so that a GPU goes on meanwhile: zlib lets other threads run.

    Args:
        workers: Threads; by default one for each processor, at most 4.
        level: zlib's.
    """

    def __init__(self, workers: int | None = None, level: int = FAST_LEVEL) -> None:
        count = workers or min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="lens-png")
        self._level = level

    def submit(self, image: Image.Image) -> Future[bytes]:
        """Begin to encode a picture, which must not be changed meanwhile."""
        return self._pool.submit(encode_png, image, self._level)

    def encode(self, images: Iterable[Image.Image]) -> list[bytes]:
        """Encode pictures side by side and wait for all."""
        return [future.result() for future in [self.submit(image) for image in images]]

    def close(self) -> None:
        """Finish what was begun and end the threads."""
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
