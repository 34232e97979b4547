"""NanoEval results of a study on lens-nano: pass rates, gains and transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from lens_core.nano.evaluation import evaluate
from lens_core.nano.vocabulary import TASKS
from lens_prompt_opt import ClusterBootstrap, StudyResult

INTERVAL = ClusterBootstrap(resamples=10_000)

Right = Sequence[tuple[str, bool]]
"""For each image, the text of its request and whether it passes."""


@dataclass(frozen=True)
class Arm:
    """Results of one way to generate all cells: passes, share of criteria met, and time."""

    right: Right
    scores: Sequence[float | None]
    seconds: float


def passes(
    folder: Path, drawn: Sequence[tuple[str, str]], items: Mapping[str, Mapping[str, Any]]
) -> Right:
    """Judge whether each image fulfils its whole request by NanoEval's rules.

    Args:
        folder: Folder of the images.
        drawn: Text of the request and name of the image; without an image it fails.
        items: What the requests require.
    """
    asked = {item["prompt"]: item for item in items.values()}
    return [
        (text, bool(name) and evaluate(Image.open(folder / name), asked[text]).correct)
        for text, name in drawn
    ]


def summarise(
    result: StudyResult,
    items: Mapping[str, Mapping[str, Any]],
    first: Sequence[Right],
    asked: Arm,
    elsewhere: Mapping[str, Sequence[Arm]],
) -> dict[str, Any]:
    """Summarise all results as JSON values.

    Args:
        result: The study.
        items: What the requests require.
        first: Results of the seed prompt and of the optimised prompt.
        asked: Results of the unchanged requests.
        elsewhere: Results of seed and optimised prompt on other generators.
    """
    claim = result.claim
    tasks = {item["prompt"]: item["tag"] for item in items.values()}
    seed, best = first
    return {
        "end": result.end,
        "claim": claim.model_dump(mode="json") if claim is not None else None,
        "nanoeval": {
            "seed": _rate(seed),
            "best": _rate(best),
            "as asked": _rate(asked.right),
            "best - seed": _gain(best, seed),
            "best - as asked": _gain(best, asked.right),
        },
        "elsewhere": {name: _moved(*arms) for name, arms in elsewhere.items()},
        "tasks": {
            task: [_rate([r for r in arm if tasks[r[0]] == task]) for arm in (seed, best)]
            for task in TASKS
        },
        "seed_prompt": result.best.lineage[0].prompt.render(),
        "best_prompt": result.best.system_prompt.render(),
        "hypotheses": [edit.model_dump(mode="json") for edit in result.best.hypotheses],
        "decisions": [d.model_dump(mode="json", exclude={"looks"}) for d in result.best.decisions],
        "cost": [row.model_dump(mode="json") for row in result.cost],
    }


def to_markdown(report: Mapping[str, Any]) -> str:
    """Format the results as tables."""
    nano, claim = report["nanoeval"], report["claim"]
    if claim is None:
        return "No better prompt was established, so there is nothing to compare."
    lines = [
        "| prompt | generator | pictures | pass NanoEval |",
        "|---|---|---:|---:|",
        _row("seed prompt", "shipped", nano["seed"]),
        _row("optimised prompt", "shipped", nano["best"]),
        _row("no rewriting", "shipped", nano["as asked"]),
        *(
            _row(prompt, name, found[key])
            for name, found in report["elsewhere"].items()
            for prompt, key in (("seed prompt", "seed"), ("optimised prompt", "best"))
        ),
        "",
        "| gain | points | 95 % interval | requests |",
        "|---|---:|---:|---:|",
        _gain_row("NanoEval, optimised - seed", nano["best - seed"]),
        _gain_row("NanoEval, optimised - no rewriting", nano["best - as asked"]),
    ]
    for name, found in report["elsewhere"].items():
        lines.append(_gain_row(f"NanoEval, {name} generator", found["best - seed"]))
        lines.append(_gain_row(f"criteria met, {name} generator", found["criteria"]))
    lines.append(_gain_row("criteria met, the study's claim", claim))
    lines += ["", "| task | seed | optimised | pictures |", "|---|---:|---:|---:|"]
    for task, (before, after) in report["tasks"].items():
        if before["pictures"]:
            rates = f"{before['rate']:.3f} | {after['rate']:.3f} | {before['pictures']}"
            lines.append(f"| {task} | {rates} |")
    minutes = {name: f"{seconds / 60:.1f} min" for name, seconds in report["seconds"].items()}
    told = ", ".join(f"{name} {value}" for name, value in {**minutes, **report["settings"]}.items())
    return "\n".join([*lines, "", told])


def _row(prompt: str, generator: str, found: Mapping[str, Any]) -> str:
    return f"| {prompt} | {generator} | {found['pictures']} | {found['rate']:.3f} |"


def _gain_row(name: str, found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return (
        f"| {name} | {100 * found['gain']:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} "
        f"| {found['requests']} |"
    )


def _rate(right: Right) -> dict[str, Any]:
    """Return the pass rate: the mean over requests, which all have the same number of images."""
    share = fmean(passed for _, passed in right) if right else 0.0
    return {"rate": share, "pictures": len(right)}


def _gain(
    after: Sequence[tuple[str, float]], before: Sequence[tuple[str, float]]
) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    for (text, new), (_, old) in zip(after, before, strict=True):
        found.setdefault(text, []).append(new - old)
    means = [fmean(values) for values in found.values()]
    return {
        "gain": fmean(means) if means else 0.0,
        "interval": INTERVAL.interval(means, 0.95),
        "requests": len(means),
    }


def _moved(seed: Arm, best: Arm) -> dict[str, Any]:
    met = [
        [(text, score or 0.0) for (text, _), score in zip(arm.right, arm.scores, strict=True)]
        for arm in (best, seed)
    ]
    return {
        "seed": _rate(seed.right),
        "best": _rate(best.right),
        "best - seed": _gain(best.right, seed.right),
        "criteria": _gain(*met),
    }
