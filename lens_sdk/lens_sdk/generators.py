"""Generators chosen by a word on the command line or in Python."""

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
    """The generator that a word means; nothing is loaded or called yet.

    Args:
        model: One of `MODEL_CHOICES`. The folder of another diffusers pipeline is recognised.
        on_unsupported: Refuse settings it cannot honour, or leave them out with a warning.

    Raises:
        UnknownModelError: It means nothing, or there is no such model.
        MissingExtraError: The packages to run a Lens model here are not installed.
        MissingPackagesError: The packages to run a diffusers pipeline here are not installed.
        MissingKeyError: OpenAI is chosen and there is no key for it.
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
    """The generator that a word or a folder means, or the one that is given.

    Raises:
        LoopConfigError: Something that cannot draw.
        ReasonerError: As `choose_generator` does.
    """
    if isinstance(model, str | Path):
        return choose_generator(str(model), on_unsupported=on_unsupported)
    check_part("generator", model)
    return model


def local_generator(model: str = DEFAULT_MODEL) -> LocalLensGenerator:
    """A generator that draws with a Lens model on this machine; nothing is loaded yet.

    Args:
        model: A name of `PACKAGED_MODELS` or the path of a Lens folder.

    Raises:
        UnknownModelError: There is no such model.
        MissingExtraError: The packages to run a model here are not installed.
    """
    return LocalLensGenerator(LensRuntime(resolve_model(model)))


def plan_memory(
    generator: Generator, memory: str | None = None, feature_cache: Path | None = None
) -> None:
    """Say how a Lens model is to share this machine's memory, before it is loaded.

    Args:
        generator: As chosen.
        memory: `auto` or the name of a plan; see `lens_core.memory.plan`. None plans nothing.
        feature_cache: Folder of text features to use again, and to keep in.

    Raises:
        UnknownPartError: The generator is not a Lens model on this machine.
        ParameterError: There is no such plan.
    """
    if memory is None and feature_cache is None:
        return
    what = "has no memory plans, because it is not a local Lens model"
    _runtime(generator, what, "--memory and --feature-cache").plan_memory(memory, feature_cache)


def plan_loras(generator: Generator, loras: Sequence[tuple[Path, float]]) -> None:
    """Say which LoRAs work with a Lens model, before it is loaded.

    Args:
        generator: As chosen.
        loras: Files in any known key style or PEFT folders, each with its weight.

    Raises:
        UnknownPartError: The generator is not a Lens model on this machine.
        GeneratorError: There is no such file.
    """
    if not loras:
        return
    _runtime(generator, "does not accept Lens LoRAs", "--lora").plan_loras(loras)


def plan_speed(generator: Generator, speed: str | None = None) -> None:
    """Say which of the faster paths a Lens model is to take, before it is loaded.

    Args:
        generator: As chosen.
        speed: The name of a plan; see `lens_core.speed.plan`. None plans nothing.

    Raises:
        UnknownPartError: The generator is not a Lens model on this machine.
        ParameterError: There is no such plan.
    """
    if speed is None:
        return
    _runtime(generator, "has no speed plans", "--speed").plan_speed(speed)


def refuse_unsupported(
    generator: Generator, request: ImageRequest, on_unsupported: OnUnsupported | None = None
) -> None:
    """Refuse what a Lens model on this machine cannot honour, before it is loaded.

    Args:
        generator: As chosen; others than Lens models are not asked.
        request: What is to be drawn.
        on_unsupported: What the caller does with settings that cannot be honoured.

    Raises:
        UnsupportedSettingError: Such as a size that the model does not draw.
    """
    if isinstance(generator, LocalLensGenerator) and on_unsupported != "warn":
        honoured_settings(request, generator)


def load_generator(generator: Generator, request: ImageRequest | None = None) -> None:
    """Load what runs on this machine, which blocks; other generators have nothing to load.

    Args:
        generator: As chosen.
        request: What is drawn first, held against what the generator can do before it is loaded.

    Raises:
        UnsupportedSettingError: As `refuse_unsupported` does.
        GeneratorError: It cannot be loaded.
    """
    if request is not None:
        refuse_unsupported(generator, request)
    if isinstance(generator, LocalLensGenerator):
        generator.runtime.load()
    elif isinstance(generator, DiffusersGenerator):
        generator.load()


def editing_generator(generator: Generator, image: bytes, mask: bytes | None = None) -> Generator:
    """A generator that changes a picture; decodes it and loads what is not loaded, which blocks.

    Args:
        generator: Who draws.
        image: The picture file.
        mask: A PNG file of the same size, transparent where the picture may change.

    Raises:
        UnsupportedSettingError: It starts from no picture, or takes no mask.
        ImageFileError: A file is no picture, or the mask does not fit.
        GeneratorError: It cannot be loaded.
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
    # Looked at here, where blocking is allowed: some decode the picture only now.
    _ = editing.capabilities
    return editing


def lens_model(generator: Generator) -> LensModel | None:
    """The Lens checkpoint that draws, for records; None for other generators."""
    return generator.runtime.model if isinstance(generator, LocalLensGenerator) else None


def _foreign_pipeline(folder: Path) -> bool:
    """Whether a folder holds a diffusers pipeline that is not Lens."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(index, dict) and index.get("_class_name") not in {None, "LensPipeline"}


def _runtime(generator: Generator, lacks: str, options: str) -> LensRuntime:
    """What a Lens model on this machine is loaded by; others are told which options to leave."""
    if not isinstance(generator, LocalLensGenerator):
        raise UnknownPartError(
            f"{generator.name!r} {lacks}.", hint=f"Leave out {options}, or choose a Lens model."
        )
    return generator.runtime


def _unknown(model: str, what: str) -> UnknownModelError:
    return UnknownModelError(f"Model {model!r} {what}.", hint=f"Choices: {MODEL_CHOICES}.")
