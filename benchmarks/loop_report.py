"""Pass rates of different methods on the same requests, with confidence intervals."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lens_core.nano.evaluation import wilson_interval

WAYS = ("plain", "one_shot", "best_of_k", "loop")
COMPARISONS = (("loop", "plain"), ("loop", "one_shot"), ("loop", "best_of_k"))
RESAMPLES = 10_000


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return pass rates, differences with intervals, and costs."""
    ways: dict[str, Any] = {}
    for way in WAYS:
        results = [row["ways"][way] for row in rows]
        correct = sum(result["correct"] for result in results)
        ways[way] = {
            "correct": correct,
            "total": len(results),
            "pass_rate": correct / len(results),
            "wilson_95": wilson_interval(correct, len(results)),
            "images_per_request": fmean(result["images"] for result in results),
            "seconds_per_request": fmean(result["seconds"] for result in results),
        }
    return {
        "ways": ways,
        "differences": {f"{a} - {b}": _difference(rows, a, b) for a, b in COMPARISONS},
        "tasks": {
            task: {way: _share(rows, way, task) for way in WAYS}
            for task in dict.fromkeys(row["task"] for row in rows)
        },
        "revisions_per_request": fmean(row["revisions"] for row in rows),
        "rounds_per_request": fmean(row["rounds"] for row in rows),
    }


def _share(rows: Sequence[Mapping[str, Any]], way: str, task: str) -> float:
    return fmean(row["ways"][way]["correct"] for row in rows if row["task"] == task)


def _difference(rows: Sequence[Mapping[str, Any]], one: str, other: str) -> dict[str, Any]:
    """Return the difference of pass rates with a bootstrap over requests, and pair counts."""
    by_request: dict[int, list[int]] = {}
    for row in rows:
        ways = row["ways"]
        by_request.setdefault(row["index"], []).append(
            ways[one]["correct"] - ways[other]["correct"]
        )
    means = [fmean(values) for values in by_request.values()]
    rng = random.Random(0)
    drawn = sorted(fmean(rng.choices(means, k=len(means))) for _ in range(RESAMPLES))
    pairs = [value for values in by_request.values() for value in values]
    return {
        "difference": fmean(means),
        "bootstrap_95": (drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]),
        "only_first_right": sum(value > 0 for value in pairs),
        "only_second_right": sum(value < 0 for value in pairs),
    }


def to_markdown(report: Mapping[str, Any]) -> str:
    lines = [
        "| way | right | pass rate | 95 % interval | pictures | seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for way, found in report["ways"].items():
        low, high = found["wilson_95"]
        lines.append(
            f"| {way} | {found['correct']} / {found['total']} | {found['pass_rate']:.3f} "
            f"| {low:.3f} to {high:.3f} | {found['images_per_request']:.1f} "
            f"| {found['seconds_per_request']:.1f} |"
        )
    lines += [
        "",
        "| difference | points | 95 % interval | better | worse |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in report["differences"].items():
        low, high = found["bootstrap_95"]
        lines.append(
            f"| {name} | {found['difference']:+.3f} | {low:+.3f} to {high:+.3f} "
            f"| {found['only_first_right']} | {found['only_second_right']} |"
        )
    told = ", ".join(f"{name} {value}" for name, value in report["settings"].items())
    return "\n".join([*lines, "", told])
