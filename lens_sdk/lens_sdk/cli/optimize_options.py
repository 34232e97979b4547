"""Options that only `lens optimize` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_sdk.cli.choices import Strategy
from lens_sdk.cli.console import DRAWING, JUDGE_HELP, LIMITS, PARTS, REASONER_HELP, SETTING

STUDY = "Study"
_LIMIT = "All limits apply to the whole study, including its final claim."

RequestsOption = Annotated[
    Path | None,
    typer.Option(
        "--requests",
        help="JSONL file, one request per line: a JSON string, or an object with text.",
    ),
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        "--generator",
        help="The image model, as in lens generate. Repeat it to find one prompt for several "
        "models and one for each.",
        show_default=SETTING,
        rich_help_panel=PARTS,
    ),
]
StudyFolderOption = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the study.")]
ResumeOption = Annotated[
    Path | None, typer.Option("--resume", help="Continue the run in this folder.")
]
BudgetImagesOption = Annotated[
    int | None,
    typer.Option(
        "--budget-images",
        min=1,
        help=f"Maximum number of images. {_LIMIT}",
        rich_help_panel=LIMITS,
    ),
]
BudgetUsdOption = Annotated[
    float | None,
    typer.Option("--budget-usd", min=0, help="Maximum cost in US dollars.", rich_help_panel=LIMITS),
]
BudgetSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--budget-seconds", min=0, help="Maximum seconds of work.", rich_help_panel=LIMITS
    ),
]
BudgetCallsOption = Annotated[
    int | None,
    typer.Option(
        "--budget-calls", min=1, help="Maximum calls to any part.", rich_help_panel=LIMITS
    ),
]
SeedPromptOption = Annotated[
    Path | None,
    typer.Option(
        "--seed-prompt",
        help="System prompt to start from, .md or .json. Without one here or in the settings "
        "(system_prompt), the built-in one.",
        show_default=SETTING,
    ),
]
StudyReasonerOption = Annotated[
    str | None,
    typer.Option(
        "--reasoner",
        help=f"{REASONER_HELP}auto, rules (offline, nano world only), local, gguf or openai:MODEL.",
        show_default=SETTING,
        rich_help_panel=PARTS,
    ),
]
StudyJudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help=f"{JUDGE_HELP}auto, nano or openai:MODEL.",
        show_default=SETTING,
        rich_help_panel=PARTS,
    ),
]
ProposerOption = Annotated[
    str | None,
    typer.Option(
        "--proposer",
        help="The proposer of edits: auto, library (offline, nano world only) or openai:MODEL.",
        show_default=SETTING,
        rich_help_panel=PARTS,
    ),
]
StrategyOption = Annotated[
    Strategy,
    typer.Option(
        "--strategy",
        help="Search strategy; rewrite is the published method.",
        rich_help_panel=STUDY,
    ),
]
AlphaOption = Annotated[
    float,
    typer.Option(
        "--alpha",
        min=0,
        max=1,
        help="Probability of accepting a prompt that is no better.",
        rich_help_panel=STUDY,
    ),
]
MinGainOption = Annotated[
    float,
    typer.Option(
        "--min-gain",
        min=0,
        max=1,
        help="Minimum gain in mean score, 0 to 1.",
        rich_help_panel=STUDY,
    ),
]
StudySeedOption = Annotated[
    int, typer.Option("--seed", "-s", min=0, help="Seed for everything random.")
]
UsualSizeOption = Annotated[
    str | None,
    typer.Option(
        "--size",
        help="WIDTHxHEIGHT in pixels for requests that set no size.",
        rich_help_panel=DRAWING,
    ),
]
GatePicturesOption = Annotated[
    int,
    typer.Option(
        "--gate-pictures",
        min=1,
        help="Images per request when testing edits.",
        rich_help_panel=STUDY,
    ),
]
TestPicturesOption = Annotated[
    int,
    typer.Option(
        "--test-pictures",
        min=1,
        help="Images per test request and prompt.",
        rich_help_panel=STUDY,
    ),
]
ShowPicturesOption = Annotated[
    bool,
    typer.Option(
        "--show-pictures", help="Show failed images to the proposer.", rich_help_panel=STUDY
    ),
]
ImageUsdOption = Annotated[
    float | None,
    typer.Option(
        "--image-usd",
        min=0,
        help="Price per image, if the generator states none.",
        rich_help_panel=STUDY,
    ),
]
ConcurrencyOption = Annotated[
    int,
    typer.Option(
        "--concurrency", min=1, help="Maximum concurrent calls per part.", rich_help_panel=STUDY
    ),
]
EstimateOption = Annotated[
    bool, typer.Option("--estimate", help="Print what the budget will buy, and stop.")
]
