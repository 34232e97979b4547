"""`lens demo`: writes a page of requests, images and verdicts."""

from __future__ import annotations

import asyncio
import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from lens_reasoner import Event, RunStore, Step
from lens_sdk.cli.console import (
    JUDGE_HELP,
    REASONER_HELP,
    GuidanceOption,
    JsonOption,
    ModelOption,
    StepsOption,
    err,
    out,
    print_json,
    reports_errors,
)
from lens_sdk.cli.options import OpenOption, image_request
from lens_sdk.cli.progress import progress_bars
from lens_sdk.cli.saving import check_output
from lens_sdk.models import DEFAULT_MODEL
from lens_sdk.shell_words import shell_word

if TYPE_CHECKING:
    from lens_reasoner import AgentLoop, ImageRequest
    from lens_sdk.demo.cases import DemoCase

DEFAULT_FOLDER = Path("lens-demo")


@reports_errors
def demo(
    output: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for index.html and runs/.")
    ] = DEFAULT_FOLDER,
    model: ModelOption = DEFAULT_MODEL,
    number: Annotated[
        int,
        typer.Option("--n", "-n", min=1, help="Images per request, with and without rewriting."),
    ] = 4,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed of the first image.")] = 1,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    reasoner: Annotated[
        str, typer.Option("--reasoner", help=f"{REASONER_HELP}auto, nano or openai:MODEL.")
    ] = "auto",
    judge: Annotated[
        str, typer.Option("--judge", help=f"{JUDGE_HELP}auto, nano, openai:MODEL or none.")
    ] = "auto",
    requests: Annotated[
        list[str] | None, typer.Option("--request", "-r", help="Your own request. Repeatable.")
    ] = None,
    open_page: OpenOption = False,
    as_json: JsonOption = False,
) -> None:
    """Generate a few requests with and without rewriting, and write a page about them.

    Example: lens demo --request "four purple fish" --n 2
    """
    from lens_sdk.demo.cases import REQUESTS
    from lens_sdk.demo.page import render_page
    from lens_sdk.generators import local_generator
    from lens_sdk.session import build_loop

    asked = [
        image_request(text, seed=seed, number=number, steps=steps, guidance=guidance)
        for text in requests or REQUESTS
    ]
    check_output(output)
    generator = local_generator(model)
    plain = build_loop(generator, reasoner="none", judge=judge)
    reasoned = build_loop(generator, reasoner=reasoner, judge=judge)
    with err.status(f"Loading {generator.name}"):
        generator.runtime.load()
    runs, page = output / "runs", output / "index.html"
    output.mkdir(parents=True, exist_ok=True)
    cases = asyncio.run(_collect(plain, reasoned, asked, RunStore(runs)))
    command = f"lens demo --model {shell_word(model)} --n {number} --seed {seed}"
    told = render_page(cases, model=generator.name, command=command, runs=str(runs))
    page.write_text(told, encoding="utf-8")
    if as_json:
        print_json({"page": str(page), "requests": [described(case) for case in cases]})
    else:
        out.print(str(page), markup=False, soft_wrap=True)
        out.print(page.resolve().as_uri(), markup=False, soft_wrap=True)
    if open_page:
        show_page(page)


def described(case: DemoCase) -> dict[str, Any]:
    """Return the scores of a request, without and with rewriting, for JSON."""
    best = {"before": case.before.best, "after": case.after.best}
    scores = {way: None if found is None else found.score for way, found in best.items()}
    prompt = None if best["after"] is None else best["after"].image.prompt
    return {"request": case.text, "prompt": prompt, "scores": scores}


def show_page(page: Path) -> None:
    """Open a page in a browser, if there is a screen."""
    if _has_screen():
        webbrowser.open(page.resolve().as_uri())


async def _collect(
    plain: AgentLoop, reasoned: AgentLoop, requests: list[ImageRequest], store: RunStore
) -> list[DemoCase]:
    from lens_sdk.demo.cases import run_cases

    cases = []
    with progress_bars(err) as bars:
        tasks = [bars.add_task(_short(request.text), total=None) for request in requests]

        def watch(number: int, way: str, event: Event) -> None:
            if isinstance(event, Step):
                done = event.step + (event.total if way == "after" else 0)
                bars.update(tasks[number], total=2 * event.total, completed=done)

        async for case in run_cases(plain, reasoned, requests, watch, store=store):
            cases.append(case)
    return cases


def _has_screen() -> bool:
    """Whether there is a screen for a browser."""
    graphical = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in {"darwin", "win32"} or any(os.environ.get(name) for name in graphical)


def _short(text: str, width: int = 34) -> str:
    cut = text if len(text) <= width else text[: width - 1] + "…"
    return escape(cut)
