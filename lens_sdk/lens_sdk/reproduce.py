"""Generates a saved image again from the record in its file, and compares the pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lens_reasoner import GeneratedImage, Generator, run_sync
from lens_sdk.editing import transparent_mask
from lens_sdk.errors import ReproductionError, UnknownModelError
from lens_sdk.generators import (
    as_generator,
    choose_generator,
    lens_model,
    plan_loras,
    plan_memory,
    plan_speed,
)
from lens_sdk.local import LocalLensGenerator
from lens_sdk.metadata import versions
from lens_sdk.recipe import MAKER, SourceFile

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class PixelDifference:
    """The difference between two images of the same size.

    Attributes:
        pixels: Number of pixels that differ in any channel.
        total: Number of pixels.
        largest: Largest difference in a channel, in [0, 255].
    """

    pixels: int
    total: int
    largest: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> PixelDifference:
        """Compare two arrays `[H, W, 3]` of bytes."""
        apart = abs(first.astype(int) - second.astype(int)).max(axis=2)
        return cls(int((apart > 0).sum()), int(apart.size), int(apart.max()))


@dataclass(frozen=True)
class Reproduction:
    """An image that was generated again.

    Attributes:
        original: The image in the file.
        again: The new image.
        difference: The difference between their pixels.
        changes: What has changed since the original was made, such as the weights.
    """

    original: GeneratedImage
    again: GeneratedImage
    difference: PixelDifference
    changes: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether every pixel is the same."""
        return self.difference.pixels == 0


def reproduce(
    path: str | Path,
    *,
    model: str | Generator | None = None,
    image: str | Path | None = None,
    mask: str | Path | None = None,
    loras: Sequence[tuple[Path, float]] = (),
) -> Reproduction:
    """Generate a saved image again and compare the pixels.

    The record of a local Lens image has all that is needed: prompt, seed, settings, weights, date,
    the seeds of its batch, and the image it started from. Images from other generators can be tried
    with `model`, if they have a seed.

    Args:
        path: An image written by `GeneratedImage.save` or the command line.
        model: The model or generator; by default the recorded model. Required if that was a folder,
            as the path is not recorded.
        image: The starting image, if it was too large to be kept in the file.
        mask: The mask, if it was too large to be kept in the file.
        loras: Files or folders and weights of the LoRAs it was generated with, in the same order;
            the record has only their SHA-256.

    Raises:
        ImageFileError: The file has no record of how it was made.
        ReproductionError: The record is incomplete, or a given file is not the original one.
        MissingWeightsError: The model's weights are not on this machine.
        GeneratorError: Generation failed.
    """
    original = GeneratedImage.load(path)
    recipe = original.recipe
    generator = _generator(original, recipe, model)
    plan_loras(generator, loras)
    _plan(generator, recipe)
    changes = _changes(recipe, generator)
    if recipe.get("image") is not None:
        generator = _from_source(generator, recipe, image, mask)
    again = _draw(generator, original, recipe)
    return Reproduction(original, again, _difference(original, again), changes)


def _generator(
    original: GeneratedImage, recipe: Mapping[str, Any], model: str | Generator | None
) -> Generator:
    if original.seed is None:
        raise ReproductionError(
            f"{original.generator} took no seed, so its images cannot be generated again.",
            hint="Only images generated from a seed can.",
        )
    if model is not None:
        return as_generator(model)
    if recipe.get("maker") != MAKER:
        raise ReproductionError(
            f"The file does not say how {original.generator} can be had again.",
            hint="Name the model with --model, such as diffusers:ID_OR_FOLDER.",
        )
    name = str(recipe["model"]["name"])
    try:
        return choose_generator(name)
    except UnknownModelError as error:
        raise ReproductionError(
            f"The picture was drawn by {name!r}, which was the folder of a model.",
            hint="Name the folder with --model.",
        ) from error


def _plan(generator: Generator, recipe: Mapping[str, Any]) -> None:
    """Use the recorded memory and speed plans, unless the kind of device differs."""
    if not isinstance(generator, LocalLensGenerator) or generator.runtime.loaded:
        return
    from lens_core.memory.choose import default_device
    from lens_core.memory.plan import PLANS

    if recipe.get("maker") != MAKER or recipe.get("device") != default_device().type:
        return
    if recipe.get("memory") in PLANS:
        plan_memory(generator, recipe["memory"])
    plan_speed(generator, recipe.get("speed"))


def _from_source(
    generator: Generator,
    recipe: Mapping[str, Any],
    image: str | Path | None,
    mask: str | Path | None,
) -> Generator:
    if not isinstance(generator, LocalLensGenerator):
        raise ReproductionError(
            f"The picture started from another one, which {generator.name} cannot use here.",
            hint="Choose a local Lens model.",
        )
    kept = recipe.get("mask")
    return generator.editing(
        _source("image", recipe["image"], image),
        mask=None if kept is None else _source("mask", kept, mask),
    )


def _source(name: str, kept: dict[str, Any], given: str | Path | None) -> bytes:
    """Return a starting file: the recorded one, or the same file given again."""
    source = SourceFile.read(kept)
    if given is None:
        if source.data is None:
            raise ReproductionError(
                f"The {name} that the picture started from was too large to be kept in its file.",
                hint=f"Give it again with --{name}; its SHA-256 is {source.sha256}.",
            )
        return source.data
    data = Path(given).read_bytes()
    forms = (data, transparent_mask(data)) if name == "mask" else (data,)
    for form in forms:
        if SourceFile.of(form).sha256 == source.sha256:
            return form
    raise ReproductionError(
        f"{given} is not the {name} that the picture started from.",
        hint=f"The file it was made with has the SHA-256 {source.sha256}.",
    )


def _changes(recipe: Mapping[str, Any], generator: Generator) -> tuple[str, ...]:
    """Describe what has changed since the image was made."""
    found: list[str] = []
    model = lens_model(generator)
    if recipe.get("maker") != MAKER or model is None:
        return ("the file does not say what the picture was made with",)
    then, now = recipe["model"]["weights"], model.weights
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            found.append(f"the weights {name} are others")
    before = recipe.get("versions", {})
    found += [
        f"{name} was {before.get(name, 'not there')} and is {version}"
        for name, version in versions().items()
        if before.get(name) != version
    ]
    assert isinstance(generator, LocalLensGenerator)
    pipeline = generator.runtime.load()
    here = {
        "device": pipeline._execution_device.type,
        "dtype": str(pipeline.transformer.dtype).removeprefix("torch."),
        "memory": pipeline.memory_plan.name,
        "speed": generator.runtime.speed,
    }
    found += [
        f"the {name} was {recipe[name]} and is {value}"
        for name, value in here.items()
        if name in recipe and recipe[name] != value
    ]
    if recipe.get("loras", {}) != pipeline.lora_records:
        found.append(f"the LoRAs were {recipe['loras']} and are {pipeline.lora_records}")
    return tuple(found)


def _draw(
    generator: Generator, original: GeneratedImage, recipe: Mapping[str, Any]
) -> GeneratedImage:
    settings = original.settings.model_copy(update={"dropped": {}})
    if generator.capabilities.sizes == ():
        settings = settings.model_copy(update={"width": None, "height": None})
    batch = recipe.get("batch") or {"seeds": [original.seed], "index": 0}
    if len(batch["seeds"]) > generator.capabilities.max_images:
        batch = {"seeds": [original.seed], "index": 0}
    if "date" in recipe and "date" in generator.capabilities.extra:
        extra = {**settings.extra, "date": recipe["date"]}
        settings = settings.model_copy(update={"extra": extra})
    drawn = run_sync(generator.generate(original.prompt, seeds=batch["seeds"], settings=settings))
    index: int = batch["index"]
    return drawn[index]


def _difference(original: GeneratedImage, again: GeneratedImage) -> PixelDifference:
    import numpy as np

    first, second = (np.asarray(one.image.convert("RGB")) for one in (original, again))
    if first.shape != second.shape:
        raise ReproductionError(
            f"The picture is {first.shape[1]}x{first.shape[0]} and what was drawn "
            f"{second.shape[1]}x{second.shape[0]}.",
            hint="The file was scaled after it was saved, or the model draws other sizes.",
        )
    return PixelDifference.of(first, second)
