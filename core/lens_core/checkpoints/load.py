"""From sources of any kind to the components of a pipeline."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import PreTrainedTokenizerBase

from lens_core.checkpoint_files import check_dtype
from lens_core.checkpoints.configs import Config
from lens_core.checkpoints.denoiser import load_denoiser
from lens_core.checkpoints.encoder import (
    carried_tokenizer,
    load_text_encoder,
    open_text_encoder,
)
from lens_core.checkpoints.hub import Hub, is_repository
from lens_core.checkpoints.local_models import find_part
from lens_core.checkpoints.sources import PRESETS, Preset, defaults_by_name, find_preset
from lens_core.checkpoints.vae import load_vae_weights
from lens_core.errors import CheckpointError, ParameterError
from lens_core.loading import LensDefaults, load_components, load_tokenizer
from lens_core.packaged import PACKAGED_MODELS, packaged_folder
from lens_core.sampling import default_scheduler
from lens_core.tokenizer import load_packaged_tokenizer, tokenizer_from_json

Part = str | Path | nn.Module
"""A component: a file, its folder, or the loaded module."""

EncoderLoader = Callable[[Path, torch.dtype, Config | None, str | None], Any]
"""Makes a text encoder of a file, or of a folder's files of a variant, or can load it later."""

_CONFIGS = ("denoiser", "text_encoder", "vae")


def load_source(
    source: str | Path,
    dtype: torch.dtype | None,
    given: Mapping[str, Any],
    revision: str | None = None,
    hub: Hub | None = None,
    load_encoder: EncoderLoader | None = None,
    variant: str | None = None,
) -> dict[str, Any]:
    """Components of a local folder, a packaged or published model by its name, or a repository.

    A local folder comes before a repository of the same name.

    Args:
        source: A folder, a name of `PACKAGED_MODELS` or `PRESETS`, or `owner/name`.
        dtype: float32 by default, bfloat16 for published models.
        given: Components used instead of the source's.
        revision: Of a hub repository.
        hub: Where to download from.
        load_encoder: How the text encoder is read; at once by default.
        variant: Of a folder's or repository's files.

    Raises:
        CheckpointError: No source works, or what it holds is incomplete.
        ParameterError: A revision of something that is no repository.
    """
    name, local = str(source), Path(source)
    asks_hub = not local.exists()
    if revision is not None and not (asks_hub and name not in PRESETS and is_repository(name)):
        raise ParameterError(
            f"revision {revision!r} only applies to hub repositories, not {name!r}"
        )
    if asks_hub and name in PRESETS:
        return _load_preset(
            PRESETS[name], dtype or torch.bfloat16, given, hub or Hub(), load_encoder
        )
    if asks_hub and name in PACKAGED_MODELS:
        local = packaged_folder(name)
    elif asks_hub and is_repository(name) and not local.suffix:
        local = (hub or Hub()).repository(name, revision, variant)
    precision, named = dtype or torch.float32, defaults_by_name(source)
    if load_encoder is None:
        return load_components(local, precision, given, defaults=named, variant=variant)
    read = partial(_called, load_encoder)
    return load_components(local, precision, given, read, named, variant)


def components_from(
    denoiser: Part,
    text_encoder: Part | None,
    vae: Part,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    scheduler: FlowMatchEulerDiscreteScheduler | None = None,
    defaults: LensDefaults | str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    configs: Mapping[str, Config] | None = None,
    load_encoder: EncoderLoader | None = None,
) -> dict[str, Any]:
    """Components from separate files, folders or modules; arguments as `from_components`.

    `load_encoder` is how the text encoder is read; at once by default.
    """
    check_dtype(dtype)
    stated = configs or {}
    if unknown := sorted(stated.keys() - set(_CONFIGS)):
        raise ParameterError(f"configs has {unknown}; it takes {_CONFIGS}")
    load = load_encoder or load_text_encoder
    encoder, own = _encoder(text_encoder, dtype, stated.get("text_encoder"), load)
    if isinstance(defaults, str):
        defaults = find_preset(defaults).defaults
    return {
        "transformer": _part(denoiser, load_denoiser, dtype, stated.get("denoiser")),
        "text_encoder": encoder,
        "vae": _part(vae, load_vae_weights, dtype, stated.get("vae")),
        "tokenizer": _tokenizer(tokenizer, own) if encoder is not None else None,
        "scheduler": scheduler or default_scheduler(),
        "defaults": defaults or LensDefaults(),
    }


def _load_preset(
    preset: Preset,
    dtype: torch.dtype,
    given: Mapping[str, Any],
    hub: Hub,
    load_encoder: EncoderLoader | None,
) -> dict[str, Any]:
    known = (*preset.components, "tokenizer", "scheduler", "defaults")
    if unknown := sorted(given.keys() - set(known)):
        raise ParameterError(f"from_pretrained does not know {unknown}; it takes {[*known]}")
    # Everything is fetched before anything is loaded: a missing part is found out early.
    found = {
        name: given[name] if name in given else _fetch(preset, name, hub)
        for name in preset.components
    }
    loaded = components_from(
        found["transformer"],
        found["text_encoder"],
        found["vae"],
        tokenizer=given.get("tokenizer"),
        scheduler=given.get("scheduler"),
        defaults=given.get("defaults") or preset.defaults,
        dtype=dtype,
        load_encoder=load_encoder,
    )
    return loaded | ({"tokenizer": given["tokenizer"]} if "tokenizer" in given else {})


def _fetch(preset: Preset, component: str, hub: Hub) -> Path:
    try:
        return find_part(preset, component, hub)
    except CheckpointError as error:
        raise CheckpointError(f"the {component} of {preset.name}: {error}") from error


def _part(part: Part, load: Callable[..., Any], dtype: torch.dtype, config: Config | None) -> Any:
    return part if isinstance(part, nn.Module) else load(part, dtype, config)


def _called(load: EncoderLoader, path: Path, dtype: torch.dtype, variant: str | None) -> Any:
    return load(path, dtype, None, variant)


def _encoder(
    part: Part | None, dtype: torch.dtype, config: Config | None, load: EncoderLoader
) -> tuple[Any, PreTrainedTokenizerBase | None]:
    """The text encoder and the tokenizer that its file carries."""
    if part is None or isinstance(part, nn.Module):
        return part, None
    encoder = load(Path(part), dtype, config, None)
    return encoder, carried_tokenizer(open_text_encoder(part, config))


def _tokenizer(
    given: PreTrainedTokenizerBase | str | Path | None, own: PreTrainedTokenizerBase | None
) -> PreTrainedTokenizerBase:
    if given is None:
        return own or load_packaged_tokenizer()
    if not isinstance(given, (str, Path)):
        return given
    path = Path(given)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; it should be a tokenizer.json or its folder")
    if path.is_dir():
        return load_tokenizer(path)
    try:
        return tokenizer_from_json(path.read_text(encoding="utf-8"))
    except Exception as error:  # The tokenizers library raises nothing narrower.
        raise CheckpointError(f"{path} is not a tokenizer.json: {error}") from error
