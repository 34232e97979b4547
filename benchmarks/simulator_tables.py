"""The tables of `prompt_opt_simulator.py`."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist, fmean, stdev
from typing import Any

from simulator_cases import ALPHA, Case, ChallengeEverything

from lens_prompt_opt.strategies.factorial import FactorialSearch

Row = dict[str, Any]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a rate."""
    z = NormalDist().inv_cdf(0.975)
    middle = (hits + z * z / 2) / (count + z * z)
    reach = z / (count + z * z) * sqrt(hits * (count - hits) / count + z * z / 4)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def mean_interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of a mean."""
    reach = NormalDist().inv_cdf(0.975) * stdev(values) / sqrt(len(values))
    return fmean(values) - reach, fmean(values) + reach


def error_line(case: Case, rows: list[Row]) -> Row:
    own = isinstance(case.strategy, FactorialSearch | ChallengeEverything)
    wrong = sum(row["false"] > 0 if own else row["changed"] for row in rows)
    low, high = wilson(wrong, len(rows))
    return {
        "scenario": case.scenario, "strategy": case.label, "runs": len(rows), "wrong": wrong,
        "rate": wrong / len(rows), "low": low, "high": high, "nominal": ALPHA if own else None,
        "challenges": fmean(row["challenges"] for row in rows),
    }  # fmt: skip


def value_line(case: Case, rows: list[Row], default: list[Row]) -> Row:
    gains = {row["run"]: row["gain"] for row in rows}
    theirs = {row["run"]: row["gain"] for row in default}
    ahead = [theirs[run] - gain for run, gain in gains.items() if run in theirs]
    claims = [row["claim"] for row in rows if row["claim"]]
    return {
        "scenario": case.scenario, "strategy": case.label, "runs": len(rows),
        "gain": fmean(gains.values()), "gain_interval": mean_interval(list(gains.values())),
        "default_ahead": fmean(ahead),
        "default_ahead_interval": mean_interval(ahead) if any(ahead) else (0.0, 0.0),
        "guess": fmean(row["guess"] for row in rows),
        "harmed": sum(gain < 0 for gain in gains.values()) / len(gains),
        "images": fmean(row["images"] for row in rows),
        "proposals": fmean(row["proposals"] for row in rows),
        "claims": len(claims),
        "coverage": fmean(claim["covers"] for claim in claims) if claims else None,
        "claim_width": fmean(claim["width"] for claim in claims) if claims else None,
    }  # fmt: skip


def summarise(cases: list[Case], rows: list[Row]) -> dict[str, list[Row]]:
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row)
    tables: dict[str, list[Row]] = {"error": [], "value": [], "sensitivity": []}
    for case in cases:
        found = by_case.get(case.key, [])
        if len(found) < 2:
            continue
        if case.suite == "error":
            tables["error"].append(error_line(case, found))
        else:
            default = by_case[f"{case.suite}/{case.scenario}/default (factorial)"]
            tables[case.suite].append(value_line(case, found, default))
    return tables


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


NOTES = {
    "value": (
        "Every strategy has 1000 images. *Gain* is the true gain of the prompt that the study",
        "returns. If the default proves nothing, it returns the seed prompt; *with best guesses*",
        "uses `unproven` in that case. *Default is ahead by* compares the same worlds.",
    ),
    "sensitivity": (
        "This table changes the budget or the world. Where gains are small compared with the",
        "noise, the default often cannot prove them and returns the seed prompt. On average,",
        "methods without a gate are then level with it or ahead, but they cannot say whether any",
        "particular prompt is better.",
    ),
}


def markdown(tables: dict[str, list[Row]]) -> str:
    lines = [
        "# Prompt studies on the simulator",
        "",
        "This page compares strategies for prompt studies in a simulator, where the true gain of",
        "every prompt is known. `python benchmarks/prompt_opt_simulator.py` writes it; the",
        "numbers of every run are in `simulator.json`. Values are true gains in percentage",
        "points, on 300 requests that no study saw. Intervals are 95 %. Each study has 120",
        "requests, and images for the final claim count towards its budget. The decision that the",
        "gate uses one image per request instead of two was made on other simulated worlds.",
        "",
        f"## Error rate (nominal at most {ALPHA:.0%} of studies)",
        "",
        "In these studies, no edit helps. *placebo*: edits only change the wording; *harm*: they",
        "do nothing or hurt; *mixed*: they help some requests and hurt others. A study is wrong",
        "if it accepted a prompt whose true value is not above that of the one it replaced. The",
        "last two rows have no gate; there, a study is wrong if it returned any prompt other than",
        "the seed.",
        "",
        "| edits | strategy | runs | challenges per study | wrong | rate | interval |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for row in tables["error"]:
        lines.append(
            f"| {row['scenario']} | {row['strategy']} | {row['runs']} | {row['challenges']:.1f} | "
            f"{row['wrong']} | {row['rate']:.1%} | {row['low']:.1%} to {row['high']:.1%} |"
        )
    for suite, title in (("value", "True value at equal budget"), ("sensitivity", "Other worlds")):
        if tables[suite]:
            lines += ["", f"## {title}", "", *NOTES[suite], ""]
            lines += value_table(tables[suite], suite == "sensitivity")
    return "\n".join(lines) + "\n"


def value_table(rows: list[Row], several: bool) -> list[str]:
    head = "| scenario " if several else ""
    lines = [
        f"{head}| strategy | runs | gain | interval | default is ahead by | interval | "
        "with best guesses | worse than the seed | images | proposals | claims that hold |",
        f"{'|---' if several else ''}|---|--:|--:|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        low, high = row["gain_interval"]
        ahead_low, ahead_high = row["default_ahead_interval"]
        same = row["strategy"].startswith("default")
        ahead = "" if same else points(row["default_ahead"])
        interval = "" if same else f"{points(ahead_low)} to {points(ahead_high)}"
        holds = f"{row['coverage']:.0%} of {row['claims']}" if row["claims"] else ""
        lines.append(
            (f"| {row['scenario']} " if several else "")
            + f"| {row['strategy']} | {row['runs']} | {points(row['gain'])} | "
            f"{points(low)} to {points(high)} | {ahead} | {interval} | {points(row['guess'])} | "
            f"{row['harmed']:.0%} | "
            f"{row['images']:.0f} | {row['proposals']:.0f} | {holds} |"
        )
    return lines
