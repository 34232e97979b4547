"""`lens pull`: downloads a published model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_sdk.cli.console import JsonOption, err, out, print_json, reports_errors
from lens_sdk.models import require_packages

if TYPE_CHECKING:
    from lens_core.checkpoints.pull import PulledPart


@reports_errors
def pull(
    name: Annotated[
        str, typer.Argument(help="lens, lens-turbo, lens-base, or OWNER/NAME on Hugging Face.")
    ],
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Download cache. Default: the Hugging Face cache."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Use another hub than huggingface.co.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Commit, tag or branch of OWNER/NAME.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", help="Only this part: transformer, text_encoder or vae. Repeatable."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Download and verify a published model, each part from the first source that works.

    Example: lens pull lens-turbo
    """
    require_packages()
    from lens_core.checkpoints.hub import Hub
    from lens_core.checkpoints.pull import pull_model

    def tell(text: str) -> None:
        err.print(text, markup=False)

    parts = []
    for part in pull_model(name, Hub(endpoint, cache), revision, only, tell):
        parts.append(described(part))
        checked = "sha256 agrees with the record" if part.verified else "no sha256 on record"
        if not as_json:
            out.print(f"{part.component}: {part.path}", markup=False, soft_wrap=True)
        err.print(
            f"  from {part.source} at commit {part.commit}, {checked}", markup=False, soft_wrap=True
        )
    if as_json:
        print_json({"model": name, "parts": parts})


def described(part: PulledPart) -> dict[str, Any]:
    """Return what was downloaded, for JSON."""
    return {
        "component": part.component,
        "path": str(part.path),
        "source": str(part.source),
        "commit": part.commit,
        "verified": part.verified,
    }
