"""Loading and saving the components of a Lens folder, each from its own subfolder.

The `model_index.json` of the published checkpoints names classes that no library has, so it is not
used to find classes: every subfolder has one meaning.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler
from diffusers import __version__ as diffusers_version
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lens_core.checkpoint_files import (
    check_dtype,
    check_stored,
    has_weights,
    read_config,
    read_headers,
    read_json,
    read_tensors,
    refuse_float16,
)
from lens_core.checkpoints.configs import config_errors
from lens_core.checkpoints.header import PICKLE_SUFFIXES
from lens_core.checkpoints.vae import STEM
from lens_core.defaults import DEFAULTS_KEY, INDEX_NAME, PUBLISHED_DEFAULTS, load_defaults
from lens_core.defaults import LensDefaults as LensDefaults
from lens_core.errors import CheckpointError, ComponentError, ParameterError, PrecisionError
from lens_core.exact_buffers import keep_statistics
from lens_core.sampling import default_scheduler
from lens_core.text_encoder import LensTextEncoder
from lens_core.tokenizer import load_packaged_tokenizer
from lens_core.transformer import LensTransformer2DModel


def checkpoint_folder(path: str | Path) -> Path:
    """The folder of a checkpoint in the diffusers layout.

    Raises:
        CheckpointError: It is no folder, or a pickle.
    """
    folder = Path(path)
    if folder.suffix in PICKLE_SUFFIXES and folder.is_file():
        raise CheckpointError(
            f"{folder} is a pickle, which can run any code when it is opened; convert it to "
            "safetensors first"
        )
    if not folder.is_dir():
        raise CheckpointError(
            f"{str(path)!r} is not a folder; give the folder that holds transformer/, "
            "text_encoder/ and vae/, the name of a published model or a hub repository; separate "
            "files are for LensPipeline.from_components"
        )
    return folder


EncoderReader = Callable[[Path, torch.dtype, str | None], Any]
"""Makes a text encoder of a folder's files of a variant, or something that can load them later."""


def read_text_encoder(path: Path, dtype: torch.dtype, variant: str | None) -> LensTextEncoder:
    """Load the text encoder of a folder at once."""
    return LensTextEncoder.from_pretrained(path, dtype=dtype, variant=variant)


def load_components(
    path: str | Path,
    dtype: torch.dtype,
    given: Mapping[str, Any],
    read_encoder: EncoderReader = read_text_encoder,
    defaults: LensDefaults = PUBLISHED_DEFAULTS,
    variant: str | None = None,
) -> dict[str, Any]:
    """Every part of a pipeline by its name, from its subfolder unless it was given.

    Args:
        path: Folder in the diffusers layout.
        dtype: Precision of all weights.
        given: Components, or None for one to leave out, to use instead of the folder's.
        read_encoder: How the text encoder is read.
        defaults: What the model is run with as far as the folder states nothing.
        variant: Read the files under this name, such as `fp16`, where a part has them.

    Raises:
        CheckpointError: Incomplete, unreadable, pickled or unknown weights.
        PrecisionError: float16.
        ParameterError: A name in `given` that no component has.
    """
    check_dtype(dtype)
    folder = checkpoint_folder(path)

    def found(part: str, stem: str = STEM) -> tuple[Path, torch.dtype, str | None]:
        return folder / part, dtype, variant if has_weights(folder / part, stem, variant) else None

    loaders: dict[str, Callable[[], Any]] = {
        "transformer": lambda: load_transformer(*found("transformer")),
        "text_encoder": lambda: read_encoder(*found("text_encoder", "model")),
        "vae": lambda: load_vae(*found("vae")),
        "tokenizer": lambda: load_tokenizer(folder / "tokenizer"),
        "scheduler": lambda: load_scheduler(folder / "scheduler"),
        "defaults": lambda: load_defaults(folder, defaults),
    }
    if unknown := sorted(given.keys() - loaders.keys()):
        raise ParameterError(f"from_pretrained does not know {unknown}; it takes {[*loaders]}")
    return {name: given[name] if name in given else load() for name, load in loaders.items()}


def save_components(
    path: str | Path,
    components: Mapping[str, Any],
    defaults: LensDefaults,
    max_shard_size: str = "5GB",
    variant: str | None = None,
) -> None:
    """Write every component to its own subfolder as safetensors and JSON, and the index."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Any] = {"max_shard_size": max_shard_size, "variant": variant}
    for name, component in components.items():
        if component is None:
            continue
        is_model = isinstance(component, nn.Module)
        component.save_pretrained(folder / name, **(weights if is_model else {}))
        _forget_origin(folder / name / "config.json")
    _write_index(folder, components, defaults)


def _forget_origin(config: Path) -> None:
    """Leave out where a component was read from: that path means nothing elsewhere."""
    if not config.is_file():
        return
    fields = json.loads(config.read_text(encoding="utf-8"))
    if fields.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def load_transformer(
    folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None
) -> LensTransformer2DModel:
    """Load the denoiser, name by name.

    Raises:
        CheckpointError: Tensors are missing, unexpected, of another shape or kind; no safetensors.
        PrecisionError: float16 was asked for.
    """
    check_dtype(dtype)
    model: LensTransformer2DModel = LensTransformer2DModel.from_pretrained(
        folder, torch_dtype=dtype, variant=variant, local_files_only=True
    )
    return model.eval()  # type: ignore[no-any-return]


def load_vae(
    folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None
) -> AutoencoderKLFlux2:
    """Load the FLUX.2 autoencoder, name by name.

    Its normalisation statistics stay in float32 whatever the dtype: they are few, and rounding them
    would shift the colours of every picture.

    Raises:
        CheckpointError: Tensors are missing, unexpected, of another shape or kind; no safetensors.
        PrecisionError: float16 was asked for.
    """
    check_dtype(dtype)
    config = read_config(folder)
    with config_errors(folder, "FLUX.2 autoencoder"), torch.device("meta"):
        expected = AutoencoderKLFlux2.from_config(config).state_dict()
    check_stored(folder, read_headers(folder, STEM, variant), expected)
    vae = AutoencoderKLFlux2.from_pretrained(
        folder, torch_dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True
    ).eval()
    stored = read_tensors(folder, STEM, ("bn.running_mean", "bn.running_var"), variant)
    vae.bn.running_mean = stored["bn.running_mean"].float()
    vae.bn.running_var = stored["bn.running_var"].float()
    keep_statistics(vae)
    return vae


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, or the packaged GPT-OSS one when there is no such folder.

    Raises:
        CheckpointError: The folder exists without a `tokenizer.json`, or with one that is none.
    """
    if not folder.is_dir():
        return load_packaged_tokenizer()
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder} has no tokenizer.json")
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # The tokenizers library raises nothing narrower.
        raise CheckpointError(f"{folder} holds no tokenizer: {error}") from error


def load_scheduler(folder: Path) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler of a folder, or the default one when there is no such folder."""
    if not folder.is_dir():
        return default_scheduler()
    path = folder / "scheduler_config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no scheduler_config.json")
    config = read_json(path)
    return FlowMatchEulerDiscreteScheduler.from_config(config)


def _write_index(folder: Path, components: Mapping[str, Any], defaults: LensDefaults) -> None:
    """Write `model_index.json`: the classes of the components and the checkpoint's defaults."""
    index: dict[str, Any] = {
        "_class_name": "LensPipeline",
        "_diffusers_version": diffusers_version,
        DEFAULTS_KEY: {key: value for key, value in asdict(defaults).items() if value is not None},
    }
    for name, component in components.items():
        library = type(component).__module__.split(".")[0]
        index[name] = [None, None] if component is None else [library, type(component).__name__]
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def check_components(
    transformer: LensTransformer2DModel,
    text_encoder: LensTextEncoder | None,
    vae: AutoencoderKLFlux2,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    """Check that the parts belong together.

    Raises:
        ComponentError: Names the two counts that differ, or what is no component.
    """
    optional = {"text_encoder": text_encoder, "tokenizer": tokenizer}
    given = {name: part for name, part in optional.items() if part is not None}
    _check_loaded({"transformer": transformer, "vae": vae, **given})
    channels = vae.config.latent_channels
    patch = vae.config.patch_size[0]
    if channels * patch**2 != transformer.config.in_channels:
        raise ComponentError(
            f"the VAE makes tokens of {channels} x {patch} x {patch} = {channels * patch**2} "
            f"channels, the transformer reads {transformer.config.in_channels} (in_channels)"
        )
    if vae.bn.num_features != transformer.config.in_channels:
        raise ComponentError(
            f"the VAE's BatchNorm has {vae.bn.num_features} channels, the transformer reads "
            f"{transformer.config.in_channels} (in_channels)"
        )
    if text_encoder is not None:
        _check_encoder(transformer, text_encoder, tokenizer)


def _check_encoder(
    transformer: LensTransformer2DModel,
    text_encoder: LensTextEncoder,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    layers, wanted = text_encoder.config.num_hidden_layers, transformer.config.selected_layer_index
    if max(wanted) >= layers:
        raise ComponentError(
            f"the transformer reads encoder layers {tuple(wanted)} (from 0), the text encoder has "
            f"only {layers}"
        )
    if text_encoder.config.hidden_size != transformer.config.enc_hidden_dim:
        raise ComponentError(
            f"the text encoder's features are {text_encoder.config.hidden_size} wide, the "
            f"transformer reads {transformer.config.enc_hidden_dim} (enc_hidden_dim)"
        )
    if tokenizer is not None and len(tokenizer) > text_encoder.config.vocab_size:
        raise ComponentError(
            f"the tokenizer has {len(tokenizer)} tokens, the text encoder embeds only "
            f"{text_encoder.config.vocab_size}"
        )


def _check_loaded(components: Mapping[str, Any]) -> None:
    for name, part in components.items():
        if part is None:
            raise ComponentError(
                f"{name} None must be loaded; memory='8gb' and other plans have every part in "
                "memory only while it works"
            )
        if isinstance(part, (str, Path)):
            raise ComponentError(
                f"{name} {part!r} must be loaded; from_components() takes paths of its parts"
            )
    encoder = components.get("text_encoder")
    if isinstance(encoder, PreTrainedModel) and not isinstance(encoder, LensTextEncoder):
        raise ComponentError(
            f"text_encoder is a {type(encoder).__name__}; LensTextEncoder.from_pretrained loads "
            "the same files and gives the features that Lens reads"
        )


def check_precision(**components: Any) -> None:
    """Refuse components in float16, or cast to 8 bits as they are.

    Raises:
        PrecisionError: Names the component.
    """
    for name, component in components.items():
        dtype = getattr(component, "dtype", None)
        if not isinstance(dtype, torch.dtype):
            continue
        refuse_float16(dtype, f"the {name}")
        if dtype.itemsize < 2:
            raise PrecisionError(
                f"the {name} is in {dtype}, in which nothing can be computed: memory='6gb' rounds "
                "the denoiser's weights to 8 bits with scales, SpeedPlan(fp8=...) its products"
            )
