"""A denoiser in one file, which may be on the hub."""

import re
from pathlib import Path

import torch

from lens_core.checkpoints.configs import Config
from lens_core.checkpoints.denoiser import load_denoiser
from lens_core.checkpoints.header import config_in
from lens_core.checkpoints.hub import Hub, HubSource
from lens_core.checkpoints.weights import open_weights
from lens_core.errors import CheckpointError
from lens_core.packaged import model_folder
from lens_core.transformer import LensTransformer2DModel

_LINK = re.compile(
    r"(?:https?://[^/]+/)?([\w.-]+/[\w.-]+)/(?:(?:blob|resolve)/([^/]+)/)?"
    r"([^?]+\.(?:safetensors|gguf))(?:\?.*)?"
)


def read_single_file(
    link_or_path: str | Path, dtype: torch.dtype, like: str | Path | None, hub: Hub
) -> LensTransformer2DModel:
    """Load a denoiser.

    Args:
        link_or_path: A file here; otherwise its address on the hub, or `owner/name/file.gguf`.
        dtype: Of everything that is not packed.
        like: A model with a denoiser of these sizes, for files that say nothing themselves.
        hub: Where files are downloaded from.

    Raises:
        CheckpointError: No such file, or one of something else.
        PrecisionError: float16.
    """
    path = Path(link_or_path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a single file; from_pretrained reads those")
    if not path.exists() and (source := _source_of(str(link_or_path))) is not None:
        path = hub.fetch(source)
    stated = None if like is None else _stated_by(like)
    if stated is not None and config_in(open_weights(path).metadata, path) is not None:
        stated = None  # What a file says of itself comes first.
    return load_denoiser(path, dtype, stated)


def _source_of(link: str) -> HubSource | None:
    found = _LINK.fullmatch(link)
    return found and HubSource(found[1], found[3], found[2])


def _stated_by(model: str | Path) -> Config | None:
    """The configuration of a model's own denoiser, if it is here."""
    file = model_folder(model) / "transformer" / "config.json"
    return file if file.is_file() else None
