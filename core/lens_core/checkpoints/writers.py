"""Writing weight files: one safetensors file, a folder of shards, GGUF.

Files and folders are written beside their place and then moved there, so that a broken run leaves
none.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.torch import save_file
from torch import Tensor

from lens_core.checkpoints.formats import gguf
from lens_core.checkpoints.header import CONFIG_KEY
from lens_core.checkpoints.spool import spool_beside
from lens_core.errors import CheckpointError

NamedTensors = Iterable[tuple[str, Tensor]]

SHARD = 5_000_000_000
"""Bytes of a shard before the next one is begun."""


def write_file(path: Path, tensors: NamedTensors, config: Mapping[str, Any] | None = None) -> None:
    """Write one safetensors file, whose metadata states the configuration if there is one.

    All tensors are in memory at once: what is not mapped from another file goes through a spool.
    """
    content = {name: _owned(tensor) for name, tensor in tensors}
    metadata = {"format": "pt"} | ({} if config is None else {CONFIG_KEY: json.dumps(config)})
    with _moved_when_complete(path) as unfinished:
        save_file(content, unfinished, metadata=metadata)


def write_folder(
    folder: Path, stem: str, tensors: NamedTensors, config: Mapping[str, Any], shard: int = SHARD
) -> None:
    """Write a component's folder: `config.json` and one safetensors file, or shards with an index.

    Only one shard is in memory at a time.
    """
    with _moved_when_complete(folder) as unfinished:
        unfinished.mkdir()
        written: list[dict[str, int]] = []
        content: dict[str, Tensor] = {}
        for name, tensor in tensors:
            if content and _size(content.values()) + _size([tensor]) > shard:
                written.append(_write_shard(unfinished, stem, len(written), content))
                content = {}
            content[name] = _owned(tensor)
        written.append(_write_shard(unfinished, stem, len(written), content))
        _name_shards(unfinished, stem, written)
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (unfinished / "config.json").write_text(text, encoding="utf-8")


def write_gguf(
    path: Path,
    architecture: str,
    tensors: Iterable[tuple[str, Tensor | np.ndarray, str]],
    config: Mapping[str, Any],
    entries: Mapping[str, str | int | float] | None = None,
) -> None:
    """Write a GGUF file.

    Args:
        path: The file.
        architecture: Its `general.architecture`.
        tensors: Name, values (or bytes that are packed already) and GGML type of each.
        config: Stated in the metadata as JSON.
        entries: More metadata.
    """
    with _moved_when_complete(path) as unfinished, spool_beside(path) as spool:
        writer = GGUFWriter(unfinished, architecture)
        writer.add_string(CONFIG_KEY, json.dumps(config))
        for name, value in (entries or {}).items():
            if isinstance(value, str):
                writer.add_string(name, value)
            elif isinstance(value, int):
                writer.add_uint32(name, value)
            else:
                writer.add_float32(name, value)
        for name, values, kind in tensors:
            data = gguf.pack(values, kind) if isinstance(values, Tensor) else values
            writer.add_tensor(name, spool.array(data), raw_dtype=GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise CheckpointError(f"{path} exists already; remove it or choose another name")


@contextmanager
def _moved_when_complete(path: Path) -> Iterator[Path]:
    _refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    _discard(unfinished)
    try:
        yield unfinished
        unfinished.rename(path)
    finally:
        _discard(unfinished)


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _owned(tensor: Tensor) -> Tensor:
    """Safetensors wants whole tensors that share no memory."""
    return tensor.detach().cpu().contiguous()


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _write_shard(
    folder: Path, stem: str, number: int, content: dict[str, Tensor]
) -> dict[str, int]:
    save_file(content, folder / f"{stem}.{number}.part", metadata={"format": "pt"})
    return {name: _size([tensor]) for name, tensor in content.items()}


def _name_shards(folder: Path, stem: str, written: list[dict[str, int]]) -> None:
    if len(written) == 1:
        (folder / f"{stem}.0.part").rename(folder / f"{stem}.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, sizes in enumerate(written):
        name = f"{stem}-{number + 1:05}-of-{len(written):05}.safetensors"
        (folder / f"{stem}.{number}.part").rename(folder / name)
        weight_map |= dict.fromkeys(sizes, name)
    total = sum(sum(sizes.values()) for sizes in written)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    path = folder / f"{stem}.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
