"""Reading checkpoint folders strictly: safetensors only, every tensor name accounted for."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open

from lens_core.checkpoints.header import (
    PICKLE_SUFFIXES,
    SAFETENSORS_FORMATS,
    TensorHeader,
    is_float,
)
from lens_core.errors import CheckpointError, ParameterError, PrecisionError
from lens_core.json_files import read_config as read_config
from lens_core.json_files import read_json as read_json

_PACKED = {torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3"}
"""Formats whose bits mean something of their own, and that are never converted to."""


class Stored(Protocol):
    """What is known of a tensor before it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values, not of packed bytes."""

    @property
    def dtype(self) -> str:
        """Number format by the name the file gives it, such as `BF16`."""


def refuse_float16(dtype: torch.dtype | None, what: str) -> None:
    """Refuse the one half precision Lens cannot run in.

    Raises:
        PrecisionError: `dtype` is float16.
    """
    if dtype == torch.float16:
        raise PrecisionError(
            f"{what} is in float16, whose largest value is 65,504; Lens reaches about 139,000 and "
            "its pictures come out black or white: use torch.bfloat16 or torch.float32"
        )


def refuse_float16_autocast(device: torch.device) -> None:
    """Refuse to compute in float16 whatever the weights are in; it is autocast's default on GPUs.

    Raises:
        PrecisionError: `torch.autocast` is on for the device, with float16.
    """
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        refuse_float16(torch.get_autocast_dtype(kind), f"torch.autocast({kind!r})")


def one_dtype(dtype: torch.dtype | None, torch_dtype: torch.dtype | None) -> torch.dtype | None:
    """The precision that a caller named, by its name or by the older one.

    Raises:
        ParameterError: Both are given, and differ.
    """
    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise ParameterError(f"dtype {dtype} and torch_dtype {torch_dtype} contradict each other")
    return torch_dtype if dtype is None else dtype


def check_dtype(dtype: torch.dtype) -> None:
    """Check a precision that weights are to be loaded in.

    Raises:
        PrecisionError: Anything but bfloat16 and float32 (or float64, for tests).
    """
    refuse_float16(dtype, "the requested dtype")
    if dtype not in (torch.bfloat16, torch.float32, torch.float64):
        raise PrecisionError(f"dtype {dtype!r} must be torch.bfloat16 or torch.float32")


def weight_files(folder: Path, stem: str, variant: str | None = None) -> list[Path]:
    """The safetensors files of a component: one file, or those its index names.

    Args:
        folder: The component's folder.
        stem: `"model"` for transformers, `"diffusion_pytorch_model"` for diffusers.
        variant: What these libraries put in the names of other forms, such as `fp16`.

    Raises:
        CheckpointError: There are none, one that the index names is absent, or there are only
            pickles.
    """
    index, whole = _names(folder, stem, variant)
    files = [folder / name for name in _indexed_files(index)] if index.is_file() else [whole]
    absent = [file.name for file in files if not file.is_file()]
    if not absent and files:
        return files
    pickles = sorted(f.name for f in folder.glob("*") if f.suffix in PICKLE_SUFFIXES)
    if pickles and not index.is_file():
        raise CheckpointError(
            f"{folder} has only pickle files {pickles}; a pickle can run any code when it is "
            "opened, so convert it to safetensors first"
        )
    others = "".join(f"; variant={name!r} is there" for name in variants_in(folder, stem))
    raise CheckpointError(f"{folder} lacks {absent or 'every file its index should name'}{others}")


def _names(folder: Path, stem: str, variant: str | None) -> tuple[Path, Path]:
    """Where the index of a component's shards would be, and its only file."""
    mark = f".{variant}" if variant else ""
    return folder / f"{stem}.safetensors.index{mark}.json", folder / f"{stem}{mark}.safetensors"


def variants_in(folder: Path, stem: str) -> list[str]:
    """The variants of a component that a folder has; the plain form is none of them."""
    pattern = re.compile(rf"{stem}\.(?:safetensors\.index\.([\w-]+)\.json|([\w-]+)\.safetensors)")
    found = (pattern.fullmatch(file.name) for file in folder.glob(f"{stem}.*"))
    return sorted({match[1] or match[2] for match in found if match})


def has_weights(folder: Path, stem: str, variant: str | None = None) -> bool:
    """Whether a folder has safetensors of a component under its plain name or a variant's."""
    return any(file.is_file() for file in _names(folder, stem, variant))


def _indexed_files(index: Path) -> list[str]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files")
    names = sorted(set(places.values()))
    if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise CheckpointError(f"{index} names files outside its folder or no safetensors")
    return names


def read_headers(folder: Path, stem: str, variant: str | None = None) -> dict[str, TensorHeader]:
    """Shape and number format of every tensor of a component, from the files' headers alone.

    Raises:
        CheckpointError: A file is damaged, or two files hold the same tensor.
    """
    tensors: dict[str, TensorHeader] = {}
    for file in weight_files(folder, stem, variant):
        try:
            with safe_open(file, framework="pt") as handle:
                slices = [(name, handle.get_slice(name)) for name in list(handle.keys())]
                found = {
                    name: TensorHeader(part.get_dtype(), tuple(part.get_shape()))
                    for name, part in slices
                }
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} is damaged or incomplete: {error}") from error
        if twice := sorted(tensors.keys() & found.keys()):
            raise CheckpointError(f"{folder}: several files hold {summarise(twice)}")
        tensors |= found
    return tensors


def read_tensors(
    folder: Path, stem: str, names: Collection[str], variant: str | None = None
) -> dict[str, torch.Tensor]:
    """Some tensors of a component, in the precision they are stored in."""
    tensors: dict[str, torch.Tensor] = {}
    for file in weight_files(folder, stem, variant):
        with safe_open(file, framework="pt") as handle:
            for name in set(names) & set(handle.keys()):
                tensors[name] = handle.get_tensor(name)
    return tensors


def check_stored(
    source: Path,
    found: Mapping[str, Stored],
    expected: Mapping[str, torch.Tensor],
    optional: Collection[str] = (),
) -> None:
    """Compare names, shapes and kinds of numbers of a checkpoint with those of a model.

    Raises:
        CheckpointError: Lists what is missing, unexpected, of another shape or kind, such as whole
            numbers for weights.
    """
    problems = []
    if missing := sorted(expected.keys() - found.keys() - set(optional)):
        problems.append(f"missing: {summarise(missing)}")
    if unexpected := sorted(found.keys() - expected.keys()):
        problems.append(f"unexpected: {summarise(unexpected)}")
    both = [(name, found[name], expected[name]) for name in expected if name in found]
    differing = [
        f"{name} {stored.shape} instead of {tuple(tensor.shape)}"
        for name, stored, tensor in both
        if stored.shape != tuple(tensor.shape)
    ]
    if differing:
        problems.append(f"other shape: {summarise(differing)}")
    if wrong := [f"{name} {s.dtype}" for name, s, t in both if not _fits(s.dtype, t.dtype)]:
        problems.append(f"other kind: {summarise(wrong)}")
    if problems:
        raise CheckpointError(f"{source} does not fit its config; " + "; ".join(problems))


def _fits(stored: str, expected: torch.dtype) -> bool:
    """Whether numbers of a stored format can stand for what a model expects."""
    if expected in _PACKED:
        return stored == _PACKED[expected] or stored not in SAFETENSORS_FORMATS
    return is_float(stored) or not expected.is_floating_point


def summarise(names: list[str], limit: int = 20) -> str:
    """Names joined for a message, the first `limit` of them."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
