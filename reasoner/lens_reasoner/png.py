"""Adding and removing text chunks of PNG files without touching the pixels.

Pillow would re-encode the image and drop chunks it does not know, such as C2PA provenance ("caBX").
Here all other bytes stay the same, so removing our chunks restores the original file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

from lens_reasoner.errors import ImageFileError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = (b"tEXt", b"iTXt", b"zTXt")


def check_signature(data: bytes) -> None:
    """Raise `ImageFileError` unless `data` starts with the PNG signature."""
    if not data.startswith(SIGNATURE):
        raise ImageFileError(
            f"These {len(data)} bytes are not a PNG file (they start with {data[:8]!r}).",
            hint="Encode the image as PNG, or build it with GeneratedImage.from_pil.",
        )


def read_text(data: bytes) -> dict[str, str]:
    """The uncompressed text chunks of a PNG file, by keyword."""
    texts: dict[str, str] = {}
    for kind, body in _chunks(data):
        keyword, _, rest = body.partition(b"\0")
        if kind == b"tEXt":
            texts[keyword.decode("latin-1")] = rest.decode("latin-1")
        elif kind == b"iTXt" and rest[:1] == b"\0" and rest.count(b"\0", 2) >= 2:
            text = rest[2:].split(b"\0", 2)[2]
            texts[keyword.decode("latin-1")] = text.decode("utf-8", errors="replace")
    return texts


def has_chunk(data: bytes, kind: bytes) -> bool:
    """Whether a PNG file has a chunk of this type, such as b"caBX"."""
    return any(found == kind for found, _ in _chunks(data))


def write_text(data: bytes, texts: Mapping[str, str]) -> bytes:
    """Return the PNG file with `texts` set; chunks with the same keywords are replaced."""
    cleaned = remove_text(data, texts)
    after_header = len(SIGNATURE) + 12 + 13
    added = b"".join(_text_chunk(keyword, text) for keyword, text in texts.items())
    return cleaned[:after_header] + added + cleaned[after_header:]


def remove_text(data: bytes, keywords: Mapping[str, object] | tuple[str, ...]) -> bytes:
    """Return the PNG file without the text chunks of these keywords."""
    names = {keyword.encode("latin-1") for keyword in keywords}
    kept = [
        _chunk(kind, body)
        for kind, body in _chunks(data)
        if not (kind in _TEXT_CHUNKS and body.partition(b"\0")[0] in names)
    ]
    return SIGNATURE + b"".join(kept)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    check_signature(data)
    position = len(SIGNATURE)
    while position < len(data):
        header = data[position : position + 8]
        length = struct.unpack(">I", header[:4])[0] if len(header) == 8 else 0
        end = position + 8 + length + 4
        if len(header) < 8 or end > len(data):
            raise ImageFileError(
                f"The PNG file ends early at byte {len(data)}.", hint="Write the file again."
            )
        yield header[4:], data[position + 8 : position + 8 + length]
        if header[4:] == b"IEND":
            return
        position = end


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _text_chunk(keyword: str, text: str) -> bytes:
    # The PNG specification does not allow NUL in text.
    text = text.replace("\0", "")
    name = keyword.encode("latin-1") + b"\0"
    try:
        return _chunk(b"tEXt", name + text.encode("latin-1"))
    except UnicodeEncodeError:
        return _chunk(b"iTXt", name + b"\0\0\0\0" + text.encode("utf-8"))
