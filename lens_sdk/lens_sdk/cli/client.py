"""The client that commands use, local or for a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import typer

from lens_reasoner import ImageRequest
from lens_sdk.cli.console import err
from lens_sdk.client.lens import AsyncLens
from lens_sdk.errors import SettingsError
from lens_sdk.generators import choose_generator, lens_model, load_generator
from lens_sdk.models import LensModel
from lens_sdk.settings import DEFAULT_RUNS, Settings


def command_settings(*, base_url: str | None = None, **options: Any) -> Settings:
    """Load the settings of a command that records runs; the address "" means this machine.

    Raises:
        SettingsError: A value is invalid.
        typer.BadParameter: A part is chosen that would not be used.
    """
    settings = Settings.load(base_url=base_url, **options)
    if settings.base_url and not settings.base_url.startswith(("http://", "https://")):
        raise SettingsError(
            f"base_url = {settings.base_url!r} is not a server address.",
            hint="Write it as in http://127.0.0.1:8000, in --base-url or the settings.",
        )
    _refuse_unused(settings, options)
    return settings.model_copy(
        update={"base_url": settings.base_url or None, "runs": settings.runs or DEFAULT_RUNS}
    )


def _refuse_unused(settings: Settings, options: Mapping[str, object]) -> None:
    parts = ("model", "reasoner", "system_prompt", "judge")
    chosen = [f"--{name.replace('_', '-')}" for name in parts if options.get(name)]
    if settings.base_url and chosen:
        raise typer.BadParameter(
            f"{', '.join(chosen)}: the server at {settings.base_url} uses its own model and judge; "
            'leave it out, or add --base-url "" to work on this machine'
        )
    if options.get("system_prompt") and settings.reasoner == "none":
        raise typer.BadParameter("--system-prompt needs a reasoner, and the reasoner is none")


def runs_folder(settings: Settings) -> Path:
    """Return the folder where runs are recorded."""
    return settings.runs or DEFAULT_RUNS


@asynccontextmanager
async def opened(
    settings: Settings, *, load: bool = False, asked: ImageRequest | None = None
) -> AsyncIterator[tuple[AsyncLens, LensModel | None]]:
    """Open a client; also yields the local model it generates with, if any.

    Args:
        settings: The settings to use.
        load: Whether to load the model now, showing progress.
        asked: The request, if known, which is checked before loading.

    Raises:
        ReasonerError: See `AsyncLens`.
    """
    if settings.base_url:
        async with AsyncLens(settings=settings) as lens:
            yield lens, None
        return
    generator = choose_generator(settings.model)
    async with AsyncLens(generator, settings=settings) as lens:
        if load:
            with err.status(f"Loading {generator.name}"):
                await asyncio.to_thread(load_generator, generator, asked)
        yield lens, lens_model(generator)
