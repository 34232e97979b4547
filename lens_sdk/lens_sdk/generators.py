"""Generators chosen by name, on the command line or in Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lens_core.packaged import PACKAGED_MODELS
from lens_reasoner import (
    DiffusersGenerator,
    Generator,
    ImageRequest,
    ImageServer,
    OnUnsupported,
    OpenAIImages,
    UnsupportedSettingError,
)
from lens_reasoner.generator import ImageEditor
from lens_reasoner.generators.image_server import DIALECTS
from lens_reasoner.generators.openai_images import DEFAULT_IMAGE_MODEL
from lens_reasoner.parts import check_part
from lens_reasoner.settings import honoured_settings
from lens_sdk.errors import UnknownModelError, UnknownPartError
from lens_sdk.local import LocalLensGenerator
from lens_sdk.models import (
    DEFAULT_MODEL,
    HUB_PIPELINES,
    MODEL_CHOICES,
    LensModel,
    resolve_model,
)
from lens_sdk.runtime import LensRuntime

_SERVERS = {"server": "plain", **{name: name for name in DIALECTS if name != "plain"}}


def choose_generator(
    model: str = DEFAULT_MODEL, *, on_unsupported: OnUnsupported = "raise"
) -> Generator:
    """Return the generator for a name; nothing is loaded or called yet.

    Args:
        model: One of `MODEL_CHOICES`. A folder with another diffusers pipeline is recognised.
        on_unsupported: Whether to refuse unsupported settings or drop them with a warning.

    Raises:
        UnknownModelError: The name is unknown, or there is no such model.
        MissingExtraError: The packages that run a Lens model locally are not installed.
        MissingPackagesError: The packages that run a diffusers pipeline locally are not installed.
        MissingKeyError: OpenAI is chosen, but there is no API key.
    """
    if model in HUB_PIPELINES:
        return DiffusersGenerator(HUB_PIPELINES[model], on_unsupported=on_unsupported)
    kind, _, rest = model.partition(":")
    if kind == "openai":
        return OpenAIImages(rest or DEFAULT_IMAGE_MODEL, on_unsupported=on_unsupported)
    if kind == "diffusers":
        if not rest:
            raise _unknown(model, "names no pipeline")
        return DiffusersGenerator(rest, on_unsupported=on_unsupported)
    if kind in _SERVERS:
        url, _, name = rest.partition("#")
        if not name or not url.startswith(("http://", "https://")):
            raise _unknown(model, "is not of the form URL#MODEL, as in http://host:8000/v1#MODEL")
        dialect = DIALECTS[_SERVERS[kind]]
        return ImageServer(name, base_url=url, dialect=dialect, on_unsupported=on_unsupported)
    if _foreign_pipeline(Path(model).expanduser()):
        return DiffusersGenerator(Path(model).expanduser(), on_unsupported=on_unsupported)
    try:
        return local_generator(model)
    except UnknownModelError as error:
        if model in PACKAGED_MODELS:
            raise
        raise UnknownModelError(error.message, hint=f"Choices: {MODEL_CHOICES}.") from error


def as_generator(
    model: str | Path | Generator, *, on_unsupported: OnUnsupported = "raise"
) -> Generator:
    """Return the generator for a name or folder; a generator is returned as it is.

    Raises:
        LoopConfigError: The object is not a generator.
        ReasonerError: See `choose_generator`.
    """
    if isinstance(model, str | Path):
        return choose_generator(str(model), on_unsupported=on_unsupported)
    check_part("generator", model)
    return model


def local_generator(model: str = DEFAULT_MODEL) -> LocalLensGenerator:
    """Return a generator that runs a Lens model locally; nothing is loaded yet.

    Args:
        model: A name in `PACKAGED_MODELS` or the path of a Lens folder.

    Raises:
        UnknownModelError: There is no such model.
        MissingExtraError: The packages that run a model locally are not installed.
    """
    return LocalLensGenerator(LensRuntime(resolve_model(model)))


def plan_memory(
    generator: Generator, memory: str | None = None, feature_cache: Path | None = None
) -> None:
    """Set how a Lens model uses this machine's memory, before it is loaded.

    Args:
        generator: The chosen generator.
        memory: `auto` or the name of a plan, see `lens_core.memory.plan`; None changes nothing.
        feature_cache: Folder where text features are kept and reused.

    Raises:
        UnknownPartError: The generator is not a local Lens model.
        ParameterError: There is no such plan.
    """
    if memory is None and feature_cache is None:
        return
    what = "has no memory plans, because it is not a local Lens model"
    _runtime(generator, what, "--memory and --feature-cache").plan_memory(memory, feature_cache)


def plan_loras(generator: Generator, loras: Sequence[tuple[Path, float]]) -> None:
    """Set the LoRAs of a Lens model, before it is loaded.

    Args:
        generator: The chosen generator.
        loras: Files in any known key style or PEFT folders, each with its weight.

    Raises:
        UnknownPartError: The generator is not a local Lens model.
        GeneratorError: A file does not exist or cannot be read.
    """
    if not loras:
        return
    _runtime(generator, "does not accept Lens LoRAs", "--lora").plan_loras(loras)


def plan_speed(generator: Generator, speed: str | None = None) -> None:
    """Set which faster code paths a Lens model uses, before it is loaded.

    Args:
        generator: The chosen generator.
        speed: The name of a plan, see `lens_core.speed.plan`; None changes nothing.

    Raises:
        UnknownPartError: The generator is not a local Lens model.
        ParameterError: There is no such plan.
    """
    if speed is None:
        return
    _runtime(generator, "has no speed plans", "--speed").plan_speed(speed)


def refuse_unsupported(
    generator: Generator, request: ImageRequest, on_unsupported: OnUnsupported | None = None
) -> None:
    """Refuse settings that a local Lens model does not support, before it is loaded.

    Args:
        generator: The chosen generator; only local Lens models are checked.
        request: What to generate.
        on_unsupported: What the caller does with unsupported settings.

    Raises:
        UnsupportedSettingError: A setting is not supported, such as a size.
    """
    if isinstance(generator, LocalLensGenerator) and on_unsupported != "warn":
        honoured_settings(request, generator)


def load_generator(generator: Generator, request: ImageRequest | None = None) -> None:
    """Load a local model, which blocks; other generators have nothing to load.

    Args:
        generator: The chosen generator.
        request: The first request, checked against the generator's capabilities before loading.

    Raises:
        UnsupportedSettingError: See `refuse_unsupported`.
        GeneratorError: The model cannot be loaded.
    """
    if request is not None:
        refuse_unsupported(generator, request)
    if isinstance(generator, LocalLensGenerator):
        generator.runtime.load()
    elif isinstance(generator, DiffusersGenerator):
        generator.load()


def editing_generator(generator: Generator, image: bytes, mask: bytes | None = None) -> Generator:
    """Return a generator that edits an image; blocks while it decodes the image and loads models.

    Args:
        generator: The generator to edit with.
        image: The image file.
        mask: A PNG file of the same size, transparent where the image may change.

    Raises:
        UnsupportedSettingError: The generator does not edit images, or takes no mask.
        ImageFileError: A file is not an image, or the mask does not fit.
        GeneratorError: The model cannot be loaded.
    """
    if not isinstance(generator, ImageEditor) or not generator.capabilities.image_input:
        raise UnsupportedSettingError(
            f"{generator.name!r} only generates from prompts and cannot change images.",
            setting="image",
            value="a picture",
            backend=generator.name,
            hint="Leave the image out, or choose another model.",
        )
    editing = generator.editing(image, mask=mask)
    # Checked here, where blocking is allowed: some generators decode the image only now.
    _ = editing.capabilities
    return editing


def lens_model(generator: Generator) -> LensModel | None:
    """Return the generator's Lens checkpoint, for records; None for other generators."""
    return generator.runtime.model if isinstance(generator, LocalLensGenerator) else None


def _foreign_pipeline(folder: Path) -> bool:
    """Whether a folder holds a diffusers pipeline that is not Lens."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(index, dict) and index.get("_class_name") not in {None, "LensPipeline"}


def _runtime(generator: Generator, lacks: str, options: str) -> LensRuntime:
    """Return a local Lens model's runtime; other generators raise an error naming `options`."""
    if not isinstance(generator, LocalLensGenerator):
        raise UnknownPartError(
            f"{generator.name!r} {lacks}.", hint=f"Leave out {options}, or choose a Lens model."
        )
    return generator.runtime


def _unknown(model: str, what: str) -> UnknownModelError:
    return UnknownModelError(f"Model {model!r} {what}.", hint=f"Choices: {MODEL_CHOICES}.")
