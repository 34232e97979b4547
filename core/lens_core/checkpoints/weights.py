"""Tensors of one or several weight files, read when they are needed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lens_core.checkpoint_files import check_dtype, check_stored, summarise, weight_files
from lens_core.checkpoints import names
from lens_core.checkpoints.header import FileHeader, TensorHeader, open_gguf, read_header
from lens_core.errors import CheckpointError


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read, and unpacked, when asked for.

    Attributes:
        shape: Of what `load` gives.
        load: Reads it.
        dtype: As the file names it, `BF16` for instance; of the values before unpacking.
        raw: Packed bytes of a GGUF block type, None for everything else.
    """

    shape: tuple[int, ...]
    load: Callable[[], Tensor]
    dtype: str
    raw: Callable[[], Tensor] | None = None


LazyTensors = dict[str, LazyTensor]


@dataclass(frozen=True)
class Weights:
    """The tensors of a component.

    Attributes:
        path: The file or folder, for messages.
        headers: One per file.
        tensors: By the names in the files.
    """

    path: Path
    headers: tuple[FileHeader, ...]
    tensors: LazyTensors

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of all files, merged."""
        return {name: value for header in self.headers for name, value in header.metadata.items()}


def open_weights(path: str | Path, stem: str = "model", variant: str | None = None) -> Weights:
    """Open a safetensors or GGUF file, or a component's folder.

    Args:
        path: The file or folder.
        stem: How files in a folder are called: `"model"` or `"diffusion_pytorch_model"`.
        variant: Of a folder's files.

    Raises:
        CheckpointError: Missing, damaged or pickled files, or a tensor in two of them.
    """
    source = Path(path)
    files = weight_files(source, stem, variant) if source.is_dir() else [source]
    headers = tuple(read_header(file) for file in files)
    tensors: LazyTensors = {}
    for header in headers:
        if twice := tensors.keys() & header.tensors.keys():
            raise CheckpointError(f"{source}: several files hold {sorted(twice)}")
        tensors |= _gguf(header) if header.container == "gguf" else _safetensors(header)
    return Weights(source, headers, tensors)


def materialise(
    model: nn.Module,
    source: Path,
    tensors: Mapping[str, LazyTensor],
    dtype: torch.dtype,
    optional: Iterable[str] = (),
) -> None:
    """Give a model on the meta device its weights, every name and shape accounted for.

    Args:
        model: Built under `torch.device("meta")`.
        source: For messages.
        tensors: By the model's own names.
        dtype: Of parameters; buffers (packed weights, statistics) stay as they are stored.
        optional: Names that may be absent, such as a tied head.

    Raises:
        CheckpointError: Lists what is missing, unexpected, of another shape or kind.
        PrecisionError: float16.
    """
    check_dtype(dtype)
    check_tensors(model, source, tensors, optional)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    loaded = {
        name: tensor.load().to(dtype) if name in parameters else tensor.load()
        for name, tensor in tensors.items()
    }
    model.load_state_dict(loaded, strict=not optional, assign=True)


def check_tensors(
    model: nn.Module,
    source: Path,
    tensors: Mapping[str, LazyTensor],
    optional: Iterable[str] = (),
) -> None:
    """Compare names, shapes and kinds of numbers with those of a model, also on the meta device.

    Raises:
        CheckpointError: Lists what is missing, unexpected, of another shape or kind.
    """
    check_stored(source, tensors, model.state_dict(), set(optional))


def renamed(
    source: Path, tensors: Mapping[str, LazyTensor], known_as: Mapping[str, str]
) -> LazyTensors:
    """Tensors by other names.

    Args:
        source: For messages.
        tensors: By their old names.
        known_as: Maps every old name to a new one.

    Raises:
        CheckpointError: Two of them would have the same name.
    """
    if twice := names.repeated(known_as):
        raise CheckpointError(f"{source} has the same tensor twice: {summarise(twice)}")
    return {known_as[name]: tensor for name, tensor in tensors.items()}


def _safetensors(header: FileHeader) -> LazyTensors:
    file = _SafetensorsFile(header.path)
    return {
        name: LazyTensor(tensor.shape, partial(file.read, name), tensor.dtype)
        for name, tensor in header.tensors.items()
    }


class _SafetensorsFile:
    """Opened at the first read and kept open; tensors are mapped from it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def handle(self) -> Any:
        return safe_open(self.path, framework="pt")

    def read(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self.handle.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.path} is damaged or incomplete: {error}") from error
        return tensor


def _gguf(header: FileHeader) -> LazyTensors:
    reader = open_gguf(header.path)
    return {
        tensor.name: _gguf_tensor(tensor, header.tensors[tensor.name]) for tensor in reader.tensors
    }


def _gguf_tensor(tensor: Any, header: TensorHeader) -> LazyTensor:
    from lens_core.checkpoints.formats import gguf

    # The file is mapped read-only, torch wants to be able to write.
    def load() -> Tensor:
        if header.dtype in ("F32", "F64", "F16"):
            return torch.from_numpy(tensor.data.copy()).reshape(header.shape)
        return gguf.unpack(tensor.data, header.dtype).reshape(header.shape)

    def raw() -> Tensor:
        return torch.from_numpy(tensor.data.copy())

    return LazyTensor(header.shape, load, header.dtype, raw)
