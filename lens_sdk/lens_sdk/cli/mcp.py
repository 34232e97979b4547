"""`lens mcp`: offers tools to language-model applications."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_sdk.cli.client import command_settings, opened
from lens_sdk.cli.console import (
    GeneratorOption,
    JudgeOption,
    ReasonerOption,
    err,
    reports_errors,
)
from lens_sdk.cli.options import RunsOption, ServerOption
from lens_sdk.cli.saving import check_output

if TYPE_CHECKING:
    from lens_sdk.settings import Settings

DEFAULT_FOLDER = Path("lens-mcp")
_PACKAGES = ("mcp", "mcp_types")


@reports_errors
def mcp(
    model: GeneratorOption = None,
    reasoner: ReasonerOption = None,
    judge: JudgeOption = None,
    base_url: ServerOption = None,
    runs: RunsOption = None,
    output: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for images.")
    ] = DEFAULT_FOLDER,
) -> None:
    """Offer image tools to language-model applications, over standard input and output.

    The tools are generate_image, create_image and judge_image, in the Model
    Context Protocol. Register this command in an application.

    Example: lens mcp --out pictures
    """
    from lens_reasoner.errors import MissingPackagesError

    try:
        import mcp.server.mcpserver  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise MissingPackagesError("lens mcp", (error.name,), extra="mcp") from error
    check_output(output)
    settings = command_settings(
        model=model, reasoner=reasoner, judge=judge, base_url=base_url, runs=runs
    )
    asyncio.run(_serve(settings, output))


async def _serve(settings: Settings, folder: Path) -> None:
    from lens_sdk.mcp_server import mcp_server

    async with opened(settings) as (lens, _):
        err.print("Lens as MCP tools on standard input and output; Ctrl-C ends it.")
        await mcp_server(lens, folder.resolve()).run_stdio_async()
