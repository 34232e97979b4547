"""What a weight file holds, read from its header alone and without torch."""

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lens_core.errors import CheckpointError

Container = Literal["safetensors", "gguf"]

PICKLE = (
    "is a pickle, which can run any code when it is opened; only safetensors and GGUF are read, so "
    "get the model in one of those"
)

CONFIG_KEY = "lens_config"
"""Metadata of files that `lens convert` writes: the component's configuration as JSON."""

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_LONGEST_HEADER = 100_000_000
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
SAFETENSORS_FORMATS = frozenset(_BITS)
"""Their names."""

_NO_WEIGHTS = {"F8_E8M0"} | {n for n in _BITS if n.startswith(("BOOL", "U", "I", "C"))}
"""E8M0 has exponents only, neither a sign nor a zero."""


def is_float(dtype: str) -> bool:
    """Whether a number format may hold weights: not whole numbers, truth values, exponents."""
    return dtype not in _NO_WEIGHTS


@dataclass(frozen=True)
class TensorHeader:
    """One tensor of a file.

    Attributes:
        dtype: As the container names it: `BF16`, `F8_E4M3`, `U8`, `Q8_0`, `MXFP4`.
        shape: Rows first, in GGUF too; of values, not of packed bytes, for GGUF's block types.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FileHeader:
    """One file.

    Attributes:
        path: Where it is.
        container: Its file format.
        size: Bytes.
        tensors: By name.
        metadata: Text of safetensors, values of GGUF (without the tokenizer's lists).
    """

    path: Path
    container: Container
    size: int
    tensors: Mapping[str, TensorHeader]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dtypes(self) -> dict[str, int]:
        """Values of every number format, the most used first."""
        counts: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counts[tensor.dtype] += tensor.elements
        return dict(counts.most_common())


def read_header(path: str | Path) -> FileHeader:
    """Read the header of a safetensors or GGUF file, told apart by content.

    Raises:
        CheckpointError: No such file, a pickle, another format, or a file that ends too early.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file")
    with file.open("rb") as stream:
        start, after = stream.read(8), stream.read(1)
    if start.startswith(b"GGUF"):
        return _gguf(file)
    # A header's length can begin like a pickle, but only a header has the brace behind it.
    pickled = start.startswith(_PICKLE_STARTS) and after != b"{"
    if pickled or file.suffix in PICKLE_SUFFIXES:
        raise CheckpointError(f"{file} {PICKLE}")
    return _safetensors(file, start)


def config_in(metadata: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """The configuration that a file states under `CONFIG_KEY`; None if it states none.

    Args:
        metadata: Of a header.
        path: The file, for messages.

    Raises:
        CheckpointError: Not a JSON object.
    """
    if CONFIG_KEY not in metadata:
        return None
    try:
        stated = json.loads(metadata[CONFIG_KEY])
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata {CONFIG_KEY} is not JSON") from error
    if not isinstance(stated, dict):
        raise CheckpointError(f"{path}: its metadata {CONFIG_KEY} must be a JSON object")
    return stated


def _safetensors(file: Path, start: bytes) -> FileHeader:
    size = file.stat().st_size
    if len(start) < 8:
        raise CheckpointError(f"{file} is damaged or incomplete: it has only {size} bytes")
    length = struct.unpack("<Q", start)[0]
    if length > _LONGEST_HEADER:
        raise CheckpointError(f"{file} is neither safetensors nor GGUF")
    if 8 + length > size:
        raise CheckpointError(
            f"{file} is damaged or incomplete: its header needs {8 + length} bytes, it has {size}"
        )
    with file.open("rb") as stream:
        stream.seek(8)
        text = stream.read(length)
    try:
        entries = json.loads(text, object_pairs_hook=_without_repeats)
        metadata = _texts(entries.pop("__metadata__", {}))
        found = {name: _entry(name, entry) for name, entry in entries.items()}
        places = sorted((*e["data_offsets"], name) for name, e in entries.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} is not a safetensors file: {error!r}") from error
    end = 0
    for first, last, name in places:
        if first != end:
            raise CheckpointError(
                f"{file} is damaged: {name} begins at byte {first} of the data, not at {end}"
            )
        end = last
    if 8 + length + end != size:
        raise CheckpointError(
            f"{file} is damaged or incomplete: its tensors end at byte {8 + length + end}, the "
            f"file at {size}"
        )
    return FileHeader(file, "safetensors", size, found, metadata)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name appears twice")
    return entries


def _texts(metadata: Any) -> dict[str, str]:
    if not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("its metadata must be text")
    return dict(metadata)


def _entry(name: str, entry: Mapping[str, Any]) -> TensorHeader:
    name.encode()  # Half a surrogate pair cannot be a name, or be printed.
    dtype, shape, (first, last) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, first, last)):
        raise ValueError(f"{name} has shape {shape} at {first} to {last}")
    if dtype not in _BITS:
        raise ValueError(f"{name} has the unknown number format {dtype}")
    expected = math.prod(shape) * _BITS[dtype] // 8
    if last - first != expected:
        raise ValueError(f"{name} {dtype} {shape} takes {expected} bytes, not {last - first}")
    return TensorHeader(dtype, shape)


def _gguf(file: Path) -> FileHeader:
    reader = open_gguf(file)
    try:
        return _gguf_header(file, reader)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error


def _gguf_header(file: Path, reader: Any) -> FileHeader:
    tensors = {
        tensor.name: TensorHeader(
            tensor.tensor_type.name, tuple(int(side) for side in reversed(tensor.shape))
        )
        for tensor in reader.tensors
    }
    metadata = {
        name: entry.contents()
        for name, entry in reader.fields.items()
        if not name.startswith("GGUF.") and len(entry.data) == 1
    }
    return FileHeader(file, "gguf", file.stat().st_size, tensors, metadata)


def open_gguf(file: Path) -> Any:
    """A `gguf.GGUFReader`, which maps the file into memory.

    Raises:
        CheckpointError: A damaged file, or the `gguf` package is not installed.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise CheckpointError(
            f"{file} is a GGUF file, which needs the gguf package: pip install gguf"
        ) from error
    try:
        return GGUFReader(file)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise CheckpointError(f"{file} is damaged or incomplete: {error}") from error
