"""`lens pull`: download a published model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_sdk.cli.console import err, out, reports_errors


@reports_errors
def pull(
    name: Annotated[str, typer.Argument(help="lens, lens-turbo, lens-base, or OWNER/NAME.")],
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of downloads; the hub's own by default.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Address of another hub.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Commit, tag or branch of OWNER/NAME.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="transformer, text_encoder or vae; repeatable."),
    ] = None,
) -> None:
    """Download the parts of a model, each from the first source that works, and check them."""
    from lens_core.checkpoints.hub import Hub
    from lens_core.checkpoints.pull import pull_model

    hub = Hub(endpoint, cache)
    for part in pull_model(name, hub, revision, only, lambda text: err.print(text, markup=False)):
        out.print(f"{part.component}: {part.path}", markup=False, soft_wrap=True)
        err.print(
            f"  from {part.source} at commit {part.commit}, "
            + ("sha256 agrees with the record" if part.verified else "no sha256 on record"),
            markup=False,
            soft_wrap=True,
        )
