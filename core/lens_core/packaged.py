"""The models inside the package: `lens-nano` whole, the others as what tells them from it.

The folder of another model holds `model_index.json` and `transformer.safetensors`: for every tensor
of its denoiser that is not that of `lens-nano`, the difference of the two bfloat16 bit patterns,
modulo 2^16, as int16. That is exact, and as most differences are small it packs into a quarter of
the weights. When a model is first asked for it is put together in the user's cache, so that
everything that reads a folder reads it like any other.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from lens_core.errors import CheckpointError, ParameterError

if TYPE_CHECKING:
    from torch import Tensor

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
        raise ParameterError(f"{name!r} is not a packaged model; these are: {PACKAGED_MODELS}")
    weights = Path(str(files("lens_core"))) / "weights"
    return weights / WHOLE if name == WHOLE else _assembled(weights, name)


def model_folder(given: str | Path) -> Path:
    """The folder that is given, or that of the packaged model of this name."""
    packaged = str(given) in PACKAGED_MODELS and not Path(given).is_dir()
    return packaged_folder(str(given)) if packaged else Path(given)


def write_difference(whole: Path, model: Path, out: Path) -> None:
    """Write what tells a model from the whole one next to it: bit patterns and its defaults.

    Args:
        whole: Folder of the model that the package holds whole.
        model: Folder of a model with the same parts but for values of its denoiser.
        out: Folder to write.

    Raises:
        CheckpointError: Their denoisers differ in names or shapes, or are not bfloat16.
    """
    import torch
    from safetensors.torch import save_file

    ours, theirs = _read(whole / _DENOISER), _read(model / _DENOISER)
    kinds = {tensor.dtype for tensor in (*ours.values(), *theirs.values())}
    if _shapes(ours) != _shapes(theirs) or kinds != {torch.bfloat16}:
        raise CheckpointError(
            f"{model} and {whole} must have bfloat16 denoisers with the same names and shapes"
        )
    steps = {
        name: new.view(torch.int16) - ours[name].view(torch.int16) for name, new in theirs.items()
    }
    changed = {name: step for name, step in steps.items() if bool(step.any())}
    out.mkdir(parents=True, exist_ok=True)
    save_file(changed, out / _DIFFERENCE, {"format": "pt"})
    shutil.copyfile(model / "model_index.json", out / "model_index.json")


def _read(path: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; install lens-sdk again") from error


def _shapes(tensors: "Mapping[str, Tensor]") -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@cache
def _assembled(weights: Path, name: str) -> Path:
    """The folder in the cache, made if it is not there yet."""
    whole, own = weights / WHOLE, weights / name
    sources = (whole / _DENOISER, own / _DIFFERENCE, own / "model_index.json")
    try:
        mark = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    except OSError as error:
        raise CheckpointError(f"{name} is incomplete: {error}; install lens-sdk again") from error
    folder = _cache() / f"{name}-{mark}" / name
    if not (folder / "model_index.json").is_file():
        _assemble(whole, own, folder)
    return folder


def _assemble(whole: Path, own: Path, folder: Path) -> None:
    """Put a model together beside its place, and move it there."""
    import torch
    from safetensors.torch import save_file

    tensors, steps = _read(whole / _DENOISER), _read(own / _DIFFERENCE)
    known = _shapes(tensors)
    strange = [
        name
        for name, step in steps.items()
        if known.get(name) != tuple(step.shape) or step.dtype != torch.int16
    ]
    if strange:
        raise CheckpointError(
            f"{own} does not belong to {whole}: {strange[:3]} differ in name, shape or precision; "
            "install lens-sdk again"
        )
    changed = {
        name: (tensors[name].view(torch.int16) + step).view(torch.bfloat16)
        for name, step in steps.items()
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent)) / folder.name
    shutil.copytree(whole, made, ignore=shutil.ignore_patterns("*.md"))
    save_file(tensors | changed, made / _DENOISER, {"format": "pt"})
    shutil.copyfile(own / "model_index.json", made / "model_index.json")
    try:
        made.rename(folder)
    except OSError:
        # Another process was quicker, with the same content; or a virus scanner is not done.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(made.parent, ignore_errors=True)


def _cache() -> Path:
    """The user's cache, or a folder that lasts as long as the machine is up."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "lens-sdk" / "models"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="lens-sdk-"))
    return folder
