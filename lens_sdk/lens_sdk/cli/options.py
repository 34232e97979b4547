"""Options shared by several commands, with the same names and help everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue, ValidationError

from lens_reasoner import ImageRequest, LoopLimits
from lens_sdk.cli.choices import Device, Memory
from lens_sdk.cli.console import DRAWING, LIMITS, PARTS, SETTING, parse_size

SizeOption = Annotated[
    str | None,
    typer.Option(
        "--size",
        help="WIDTHxHEIGHT in pixels, such as 128x128. Default: the model's own.",
        rich_help_panel=DRAWING,
    ),
]
RatioOption = Annotated[
    str | None,
    typer.Option(
        "--aspect-ratio",
        help="Width to height, such as 3:4, instead of --size.",
        rich_help_panel=DRAWING,
    ),
]
NegativeOption = Annotated[
    str,
    typer.Option(
        "--negative-prompt", help="What should not be in the image.", rich_help_panel=DRAWING
    ),
]
ExtraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--extra",
        metavar="NAME=VALUE",
        help="A model-specific setting, such as quality=low for OpenAI. Repeatable.",
        rich_help_panel=DRAWING,
    ),
]
MaxImagesOption = Annotated[
    int | None,
    typer.Option(
        "--max-images", min=1, help="Maximum number of images, all rounds.", rich_help_panel=LIMITS
    ),
]
MaxCostOption = Annotated[
    float | None,
    typer.Option("--max-cost", min=0, help="Maximum cost in US dollars.", rich_help_panel=LIMITS),
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        min=0,
        help="Maximum time in seconds; returns the best image so far.",
        rich_help_panel=LIMITS,
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="Where to save: a folder, or a file ending in .png.")
]
AllOption = Annotated[bool, typer.Option("--all", help="Save every image, not only the best.")]
SystemPromptOption = Annotated[
    Path | None,
    typer.Option(
        "--system-prompt",
        help="System prompt for the reasoner: prompt.json from lens optimize, or a .md file.",
        show_default=SETTING,
        rich_help_panel=PARTS,
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        help='A Lens server to use, such as http://host:8000; "" means this machine.',
        show_default=SETTING,
        rich_help_panel=PARTS,
    ),
]
RunsOption = Annotated[
    Path | None,
    typer.Option("--runs", help="Folder of recorded runs.", show_default=SETTING),
]
MemoryOption = Annotated[
    Memory | None,
    typer.Option(
        "--memory",
        metavar="PLAN",
        help=f"Memory plan for a Lens model: {', '.join(Memory)}; see lens memory.",
        rich_help_panel=DRAWING,
    ),
]
FeatureCacheOption = Annotated[
    Path | None,
    typer.Option(
        "--feature-cache",
        help="Folder in which to cache text features.",
        rich_help_panel=DRAWING,
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="PATH[@WEIGHT]",
        help="A LoRA for a Lens model, and its weight, such as style.safetensors@0.8. Repeatable.",
        rich_help_panel=DRAWING,
    ),
]

SpeedOption = Annotated[
    str | None,
    typer.Option(
        "--speed",
        help="Speed plan for a Lens model: exact changes no pixels, fast may; for others see "
        "docs/speed.md.",
        rich_help_panel=DRAWING,
    ),
]
ImageOption = Annotated[
    Path | None,
    typer.Option("--image", help="An image to start from.", rich_help_panel=DRAWING),
]
MaskOption = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        help="Which area may change (white or transparent); same size as --image.",
        rich_help_panel=DRAWING,
    ),
]
StrengthOption = Annotated[
    float | None,
    typer.Option(
        "--strength",
        help="How much of --image to change, above 0 to 1.",
        rich_help_panel=DRAWING,
    ),
]
NumberOption = Annotated[
    int, typer.Option("--n", "-n", min=1, help="Images to choose the best from.")
]
RoundsOption = Annotated[
    int,
    typer.Option(
        "--rounds",
        min=1,
        help="Maximum number of rounds; stops early once all criteria are met.",
        rich_help_panel=LIMITS,
    ),
]
RunDirOption = Annotated[
    Path | None, typer.Option("--run-dir", help="Folder in which to record the run.")
]
ResumeRunOption = Annotated[
    Path | None, typer.Option("--resume", help="Continue the run recorded in this folder.")
]
CacheOption = Annotated[Path | None, typer.Option("--cache", help="Folder for cached results.")]
NoReasonOption = Annotated[
    bool, typer.Option("--no-reason", help="Do not rewrite the request.", rich_help_panel=PARTS)
]
NoJudgeOption = Annotated[
    bool,
    typer.Option("--no-judge", help="Do not judge; use the first image.", rich_help_panel=PARTS),
]
DropOption = Annotated[
    bool,
    typer.Option(
        "--drop-unsupported",
        help="Drop settings that the model does not support, with a warning.",
        rich_help_panel=DRAWING,
    ),
]
DeviceOption = Annotated[
    Device, typer.Option("--device", help="Device to compute on; auto is the GPU if there is one.")
]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Images generated at once.")]
OpenOption = Annotated[
    bool, typer.Option("--open", help="Open the page in a browser, if there is a display.")
]
ConfigOption = Annotated[
    str, typer.Option("--config", "-c", help="A preset such as nano or lens-512, or a JSON file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting with KEY=VALUE, such as steps=500. Repeatable."),
]

_OPTIONS = {
    "text": "REQUEST",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "num_images": "--n",
    "aspect_ratio": "--aspect-ratio",
    "width": "--size",
    "height": "--size",
    "seed": "--seed",
    "extra": "--extra",
    "max_rounds": "--rounds",
    "max_images": "--max-images",
    "max_usd": "--max-cost",
    "deadline": "--deadline",
}
"""The option for each field, for error messages about invalid values."""


def image_request(
    text: str,
    *,
    size: str | None = None,
    aspect_ratio: str | None = None,
    negative_prompt: str = "",
    seed: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    number: int = 1,
    extra: list[str] | None = None,
) -> ImageRequest:
    """Build the request from command-line options.

    Raises:
        typer.BadParameter: A value is invalid; names its option.
    """
    width, height = parse_size(size)
    with checked_options():
        return ImageRequest(
            text=text,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            aspect_ratio=aspect_ratio,
            seed=seed,
            num_inference_steps=steps,
            guidance_scale=guidance,
            num_images=number,
            extra=extra_settings(extra),
        )


def loop_limits(
    rounds: int, max_images: int | None, max_cost: float | None, deadline: float | None
) -> LoopLimits:
    """Build the limits from command-line options.

    Raises:
        typer.BadParameter: A value is invalid; names its option.
    """
    with checked_options():
        return LoopLimits(
            max_rounds=rounds, max_images=max_images, max_usd=max_cost, deadline=deadline
        )


@contextmanager
def checked_options() -> Iterator[None]:
    """Report invalid values as invalid command-line options."""
    try:
        yield
    except ValidationError as error:
        detail = error.errors()[0]
        message = str(detail["msg"]).removeprefix("Value error, ")
        field = str(detail["loc"][0]) if detail["loc"] else ""
        told = message if "empty" in message or not field else f"{detail['input']!r}: {message}"
        raise typer.BadParameter(told, param_hint=_OPTIONS.get(field, field or None)) from error


def extra_settings(given: list[str] | None) -> dict[str, JsonValue]:
    """Parse the values of `--extra`, as JSON where possible and as text otherwise.

    Raises:
        typer.BadParameter: A value is not NAME=VALUE.
    """
    found: dict[str, JsonValue] = {}
    for text in given or ():
        name, mark, value = text.partition("=")
        if not name or not mark:
            raise typer.BadParameter(
                f"{text!r} is not NAME=VALUE, such as quality=low", param_hint="--extra"
            )
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def lora_weights(given: list[str] | None) -> list[tuple[Path, float]]:
    """Parse the files and weights of `--lora`.

    Raises:
        typer.BadParameter: A weight is not a number.
    """
    found = []
    for text in given or ():
        path, mark, weight = text.rpartition("@")
        if not mark:
            path, weight = text, "1"
        try:
            found.append((Path(path), float(weight)))
        except ValueError as error:
            raise typer.BadParameter(
                f"--lora {text!r}: {weight!r} is not a number; write PATH or PATH@WEIGHT, such as "
                "style.safetensors@0.8"
            ) from error
    return found
