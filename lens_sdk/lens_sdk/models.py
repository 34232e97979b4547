"""Resolves model names without loading the model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lens_core.packaged import PACKAGED_MODELS, packaged_folder
from lens_sdk.errors import MissingExtraError, MissingWeightsError, UnknownModelError

DEFAULT_MODEL = PACKAGED_MODELS[0]
"""The default model, one of those in the package, which need neither network nor keys."""

PUBLISHED_MODELS = ("lens", "lens-turbo", "lens-base")
"""The published models; `lens pull` downloads them. Each has its own steps and guidance."""

HUB_PIPELINES = {
    "qwen-image": "Qwen/Qwen-Image",
    "z-image-turbo": "Tongyi-MAI/Z-Image-Turbo",
    "hunyuan-image": "hunyuanvideo-community/HunyuanImage-2.1-Diffusers",
}
"""Short names of diffusers pipelines on the Hugging Face Hub."""

MODEL_CHOICES = (
    f"{', '.join((*PACKAGED_MODELS, *PUBLISHED_MODELS))}, the folder of a Lens model, "
    f"{', '.join(HUB_PIPELINES)}, diffusers:ID_OR_FOLDER, openai, openai:MODEL, "
    "or a server: vllm-omni:URL#MODEL, sglang:URL#MODEL or server:URL#MODEL"
)
"""The available models, as text for messages; see `choose_generator`."""

LARGEST_HASHED = 2**29
"""In bytes; larger weight files are not hashed, as that would take minutes."""

LOCAL_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "scipy")
"""Packages needed to run a model locally."""

_COMPONENTS = ("transformer", "text_encoder", "vae")
_LARGEST_NANO_TOKENIZER = 2**20


@dataclass(frozen=True)
class LensModel:
    """A checkpoint and its name.

    Attributes:
        name: Name used in records.
        folder: Folder in the diffusers layout; None for a published model, which has no single one.
        nano: Whether it is a model of the nano world, whose text encoder can rewrite requests.
        parts: File or folder of each part, for a published model.
    """

    name: str
    folder: Path | None
    nano: bool
    parts: Mapping[str, Path] = field(default_factory=dict)

    @property
    def source(self) -> str | Path:
        """The argument for `LensPipeline.from_pretrained`: the folder, or the published name."""
        return self.name if self.folder is None else self.folder

    @property
    def vae(self) -> Path:
        """The file or folder of the autoencoder."""
        return self.parts["vae"] if self.folder is None else self.folder / "vae"

    @cached_property
    def files(self) -> dict[str, Path]:
        """The weight files by name; each name starts with that of its part."""
        parts = self.parts or {part: self.folder / part for part in _COMPONENTS if self.folder}
        return {
            f"{part}/{path.relative_to(place if place.is_dir() else place.parent).as_posix()}": path
            for part, place in parts.items()
            for path in (sorted(place.glob("*.safetensors")) if place.is_dir() else [place])
        }

    @cached_property
    def weights(self) -> dict[str, dict[str, Any]]:
        """Size and SHA-256 of each weight file.

        Files above `LARGEST_HASHED` bytes have the hash None, unless their name in the download
        cache contains it.
        """
        return {name: _identity(path) for name, path in self.files.items()}

    def record(self) -> dict[str, Any]:
        """The model's identity as JSON values."""
        return {"name": self.name, "weights": self.weights}


def resolve_model(name: str = DEFAULT_MODEL) -> LensModel:
    """Return the model for a name or a path.

    Args:
        name: `lens-nano`, `lens-nano-base` or `lens-nano-turbo`; `lens`, `lens-turbo` or
            `lens-base`, if downloaded; or a folder with `transformer/`, `text_encoder/` and `vae/`,
            which takes precedence over a published model of the same name.

    Raises:
        MissingExtraError: The packages that run it are not installed.
        MissingWeightsError: The published model is not, or only partly, on this machine.
        UnknownModelError: There is no such model.
    """
    require_packages()
    packaged = name in PACKAGED_MODELS
    folder = packaged_folder(name) if packaged else Path(name).expanduser()
    if name in PUBLISHED_MODELS and not folder.exists():
        return _published(name)
    missing = [part for part in _COMPONENTS if not (folder / part / "config.json").is_file()]
    if not missing:
        return LensModel(
            name=name if packaged else folder.resolve().name,
            folder=folder,
            nano=packaged or _rewrites(folder),
        )
    if packaged:
        raise UnknownModelError(
            f"This installation lacks the weights of {name}.",
            hint="Install lens-sdk again, or name the folder of another Lens checkpoint.",
        )
    what = f"has no {missing[0]}/config.json" if folder.is_dir() else "is not a folder"
    raise UnknownModelError(
        f"Model {name!r} is not known: there is no model of that name, and as a path it {what}.",
        hint=f"Choices: {', '.join((*PACKAGED_MODELS, *PUBLISHED_MODELS))}, or the path of a Lens "
        f"folder with {', '.join(f'{part}/' for part in _COMPONENTS)}.",
    )


def require_packages(names: tuple[str, ...] = LOCAL_PACKAGES) -> None:
    """Check that packages of the `local` extra are installed, without importing them.

    Raises:
        MissingExtraError: Some are missing; names them and the extra that installs them.
    """
    missing = tuple(name for name in names if find_spec(name) is None)
    if missing:
        raise MissingExtraError("local", missing)


def package_version() -> str:
    """The version of this package."""
    try:
        return version("lens-sdk")
    except PackageNotFoundError:
        return "unknown"


def _published(name: str) -> LensModel:
    """Return a published model from the download cache; makes no network requests."""
    from lens_core.checkpoints.hub import Hub
    from lens_core.checkpoints.local_models import find_part
    from lens_core.checkpoints.sources import find_preset
    from lens_core.errors import CheckpointError

    preset, hub, parts, missing = find_preset(name), Hub(local_only=True), {}, []
    for part in preset.components:
        try:
            parts[part] = find_part(preset, part, hub, tell=lambda _: None)
        except CheckpointError:
            missing.append(part)
    if missing:
        raise MissingWeightsError(name, tuple(missing))
    return LensModel(name=name, folder=None, nano=False, parts=parts)


def _rewrites(folder: Path) -> bool:
    """Whether the folder's tokenizer is that of the nano model, which can rewrite requests."""
    path = folder / "tokenizer" / "tokenizer.json"
    # The large models' vocabularies have megabytes; comparing sizes needs no imports.
    if not path.is_file() or path.stat().st_size > _LARGEST_NANO_TOKENIZER:
        return False
    from lens_core.nano.chat import REWRITE_INSTRUCTION

    added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", [])
    return any(REWRITE_INSTRUCTION in token.get("content", "") for token in added)


def _identity(path: Path) -> dict[str, Any]:
    size, blob = path.stat().st_size, path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", blob):
        return {"bytes": size, "sha256": blob}
    if size > LARGEST_HASHED:
        return {"bytes": size, "sha256": None}
    with path.open("rb") as file:
        return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
