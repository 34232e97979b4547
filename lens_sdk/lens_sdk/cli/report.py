"""Prints the report of a finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_reasoner import Candidate, LoopResult, Rubric, Verdict
from lens_sdk.amounts import cost
from lens_sdk.metadata import rewrite_of

_LIMITS = {"max_images", "max_cost", "cost_unknown", "deadline"}
_MARKS = {"yes": ("✓", "green"), "no": ("✗", "red"), "cannot_tell": ("?", "yellow")}


def print_report(
    console: Console,
    result: LoopResult,
    saved: Mapping[int, Path],
    timings: Mapping[str, float],
    run_id: str | None = None,
) -> None:
    """Print prompt, verdict, path and timings as text.

    Args:
        console: The console to print to.
        result: A run with at least one image.
        saved: Where its images were saved, by candidate.
        timings: Seconds by stage.
        run_id: The run's name in the records.
    """
    best = _best(result)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rewrite = rewrite_of(result, best)
    if rewrite is not None:
        table.add_row("Prompt", Text(rewrite.prompt))
        table.add_row("", Text(f"by {rewrite.model}", style="dim"))
    if best.verdict is not None:
        table.add_row("Verdict", _headline(result, best.verdict))
        for line in verdict_lines(result.rubric, best.verdict):
            table.add_row("", line)
    for note in result.notes:
        table.add_row("Note", Text(note, style="yellow"))
    table.add_row("Image", Text(str(saved[result.best_index or 0])))
    table.add_row("", Text(_settings(best), style="dim"))
    for index, path in saved.items():
        if index != result.best_index:
            table.add_row("Also", Text(str(path)))
    if result.candidates[-1].round or result.stop_reason in _LIMITS:
        table.add_row("Rounds", Text(_rounds(result)))
    if run_id is not None:
        table.add_row("Run", run_id)
    table.add_row("Time", Text(", ".join(f"{k} {v:.1f} s" for k, v in timings.items())))
    console.print(table)


def verdict_lines(rubric: Rubric | None, verdict: Verdict) -> list[Text]:
    """Return a line for each criterion: what was checked, and what was seen."""
    questions = {c.name: c.question for c in rubric.criteria} if rubric else {}
    lines = []
    for told in verdict.verdicts:
        mark, colour = _MARKS[told.answer]
        question = questions.get(told.criterion, told.criterion)
        text = Text(f"{mark} ", style=colour).append(question, style="default")
        lines.append(text.append(f"  {told.evidence}", style="dim"))
    return lines


def print_json_report(
    console: Console,
    result: LoopResult,
    saved: Mapping[int, Path],
    timings: Mapping[str, float],
    run_id: str | None = None,
) -> None:
    """Print the same report as one JSON object."""
    report = _json_report(result, saved, timings)
    if run_id is not None:
        report["run"] = run_id
    console.file.write(json.dumps(report, indent=2) + "\n")


def _json_report(
    result: LoopResult, saved: Mapping[int, Path], timings: Mapping[str, float]
) -> dict[str, Any]:
    best = _best(result)
    rewrite = rewrite_of(result, best)
    return {
        "path": str(saved[result.best_index or 0]),
        "request": result.request.text,
        "prompt": best.image.prompt,
        "rewritten_by": rewrite.model if rewrite is not None else None,
        "seed": best.image.seed,
        "settings": best.image.settings.model_dump(mode="json"),
        "generator": best.image.generator,
        "score": best.score,
        "verdict": best.verdict.model_dump(mode="json") if best.verdict else None,
        "prompts": [prompt.prompt for prompt in result.prompts],
        "candidates": [
            {
                "seed": candidate.image.seed,
                "round": candidate.round,
                "prompt_version": candidate.prompt_version,
                "faults": {problem.criterion: problem.fault for problem in candidate.problems},
                "score": candidate.score,
                "path": str(saved[index]) if index in saved else None,
            }
            for index, candidate in enumerate(result.candidates)
        ],
        "stop_reason": result.stop_reason,
        "failures": [failure.model_dump(mode="json") for failure in result.failures],
        "timings": dict(timings),
        "usage": result.usage.model_dump(mode="json"),
    }


def _rounds(result: LoopResult) -> str:
    rounds, prompts = result.candidates[-1].round + 1, len(result.prompts)
    parts = (
        f"{rounds}, {len(result.candidates)} images, {prompts} prompts",
        result.stop_reason.replace("_", " "),
        cost(result.usage.usd),
    )
    return " · ".join(filter(None, parts))


def _best(result: LoopResult) -> Candidate:
    assert result.best is not None
    return result.best


def _headline(result: LoopResult, verdict: Verdict) -> str:
    satisfied = sum(line.answer == "yes" for line in verdict.verdicts)
    of = f", best of {len(result.candidates)}" if len(result.candidates) > 1 else ""
    return f"{satisfied} of {len(verdict.verdicts)} criteria, by {verdict.judge}{of}"


def _settings(candidate: Candidate) -> str:
    image = candidate.image
    settings = image.settings
    parts = [
        f"{settings.width}x{settings.height}",
        f"seed {image.seed}" if image.seed is not None else "",
        f"{settings.num_inference_steps} steps" if settings.num_inference_steps else "",
        f"guidance {settings.guidance_scale:g}" if settings.guidance_scale is not None else "",
        image.generator,
    ]
    return " · ".join(part for part in parts if part)
