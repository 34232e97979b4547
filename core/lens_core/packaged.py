"""The models inside the package: `lens-nano` whole, the others as the tensors in which they differ.

A model of its own folder holds `model_index.json` and `transformer.safetensors`, the tensors of
its denoiser that are not those of `lens-nano`. When it is first asked for it is put together in the
user's cache, so that everything that reads a folder reads it like any other. No torch is needed.
"""

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lens_core.errors import CheckpointError, ParameterError

WHOLE = "lens-nano"
PACKAGED_MODELS = (WHOLE, "lens-nano-base", "lens-nano-turbo")
"""After reinforcement learning; before it; and distilled to four steps."""

_DENOISER = Path("transformer") / "diffusion_pytorch_model.safetensors"
_DIFFERENCE = "transformer.safetensors"


def packaged_folder(name: str = WHOLE) -> Path:
    """The folder of a packaged model, in the diffusers layout.

    Args:
        name: One of `PACKAGED_MODELS`.

    Raises:
        ParameterError: Another name.
        CheckpointError: This installation lacks its weights, or they do not belong to `lens-nano`.
    """
    if name not in PACKAGED_MODELS:
        raise ParameterError(f"{name!r} is no packaged model; they are {PACKAGED_MODELS}")
    weights = Path(str(files("lens_core"))) / "weights"
    return weights / WHOLE if name == WHOLE else _assembled(weights, name)


def model_folder(given: str | Path) -> Path:
    """The folder that is given, or that of the packaged model of this name."""
    packaged = str(given) in PACKAGED_MODELS and not Path(given).is_dir()
    return packaged_folder(str(given)) if packaged else Path(given)


def write_difference(whole: Path, model: Path, out: Path) -> None:
    """Write what tells a model from the whole one next to it: its tensors and its defaults.

    Args:
        whole: Folder of the model that the package holds whole.
        model: Folder of a model with the same parts but for values of its denoiser.
        out: Folder to write.

    Raises:
        CheckpointError: Their denoisers differ in names, shapes or precision.
    """
    ours, theirs = _Tensors.read(whole / _DENOISER), _Tensors.read(model / _DENOISER)
    if ours.layout() != theirs.layout():
        raise CheckpointError(f"{model} and {whole} have denoisers of different layouts")
    changed = [name for name in theirs.entries if theirs.bytes_of(name) != ours.bytes_of(name)]
    header: dict[str, Any] = {}
    body = bytearray()
    for name in changed:
        start = len(body)
        body += theirs.bytes_of(name)
        header[name] = {**theirs.entries[name], "data_offsets": [start, len(body)]}
    out.mkdir(parents=True, exist_ok=True)
    (out / _DIFFERENCE).write_bytes(_encoded(header) + body)
    shutil.copyfile(model / "model_index.json", out / "model_index.json")


@dataclass(frozen=True)
class _Tensors:
    """A safetensors file in memory, its tensors as bytes.

    Attributes:
        path: The file.
        entries: Precision, shape and place of every tensor by name.
        content: The whole file.
        start: Where tensors begin.
    """

    path: Path
    entries: Mapping[str, Mapping[str, Any]]
    content: bytes
    start: int

    @classmethod
    def read(cls, path: Path) -> "_Tensors":
        """Read a file.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        try:
            content = path.read_bytes()
            start = 8 + int(struct.unpack("<Q", content[:8])[0])
            header = json.loads(content[8:start])
        except (OSError, ValueError, struct.error) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        if max((entry["data_offsets"][1] for entry in entries.values()), default=0) > (
            len(content) - start
        ):
            raise CheckpointError(f"{path} is cut short; install lens-sdk again")
        return cls(path, entries, content, start)

    def layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Precision and shape of every tensor."""
        return {name: (e["dtype"], tuple(e["shape"])) for name, e in self.entries.items()}

    def place(self, name: str) -> slice:
        """Where in the file a tensor lies."""
        first, end = self.entries[name]["data_offsets"]
        return slice(self.start + first, self.start + end)

    def bytes_of(self, name: str) -> bytes:
        """A tensor's values."""
        return self.content[self.place(name)]

    def with_values(self, other: "_Tensors") -> bytes:
        """This file with the other one's tensors in the place of its own.

        Raises:
            CheckpointError: The other has tensors of other names, shapes or precisions.
        """
        mine = self.layout()
        strange = [name for name, kind in other.layout().items() if mine.get(name) != kind]
        if strange:
            raise CheckpointError(
                f"{other.path} does not belong to {self.path}: {strange[:3]} differ in name, shape "
                "or precision; install lens-sdk again"
            )
        result = bytearray(self.content)
        for name in other.entries:
            result[self.place(name)] = other.bytes_of(name)
        return bytes(result)


def _encoded(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


@cache
def _assembled(weights: Path, name: str) -> Path:
    """The folder in the cache, made if it is not there yet."""
    whole, own = weights / WHOLE, weights / name
    denoiser = _Tensors.read(whole / _DENOISER).with_values(_Tensors.read(own / _DIFFERENCE))
    index = (own / "model_index.json").read_bytes()
    mark = hashlib.sha256(denoiser + index).hexdigest()[:12]
    folder = _cache() / f"{name}-{mark}" / name
    if (folder / "model_index.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent)) / name
    shutil.copytree(whole, made, ignore=shutil.ignore_patterns("*.md"))
    (made / _DENOISER).write_bytes(denoiser)
    (made / "model_index.json").write_bytes(index)
    try:
        made.rename(folder)
    except OSError:
        # Another process was quicker; the content is the same.
        shutil.rmtree(made)
    made.parent.rmdir()
    return folder


def _cache() -> Path:
    """The user's cache, or a folder that lasts as long as the machine is up."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "lens-sdk" / "models"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="lens-sdk-"))
    return folder
