"""Error rate and true value of prompt studies, on a simulator that knows every prompt's value.

    python benchmarks/prompt_opt_simulator.py --out docs/prompt_opt

Each run is one study on a world of its own; strategies are compared on the same worlds, requests
and budget. Finished runs are kept in `runs.jsonl` of the work folder, so the command can be stopped
and started again. It writes `simulator.json` (every run's numbers) and `simulator.md` (tables).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

from lens_prompt_opt.budget import Budget, BudgetExhaustedError
from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate
from lens_prompt_opt.failures import FailureReport
from lens_prompt_opt.gate import PairedSequentialGate
from lens_prompt_opt.proposer import ProposalBrief
from lens_prompt_opt.requests import PromptSet
from lens_prompt_opt.result import StudyResult
from lens_prompt_opt.simulation.evaluator import SimulatedEvaluator
from lens_prompt_opt.simulation.proposer import SimulatedProposer
from lens_prompt_opt.simulation.world import Noise, World, population, seed_prompt
from lens_prompt_opt.statistics.intervals import ClusterBootstrap
from lens_prompt_opt.statistics.sequential import BettingTest, SpendingTest, TestMethod
from lens_prompt_opt.strategies.bootstrapped import BootstrappedExamples
from lens_prompt_opt.strategies.factorial import FactorialSearch
from lens_prompt_opt.strategies.gepa_engine import GepaEngine
from lens_prompt_opt.strategies.pareto import ParetoSearch
from lens_prompt_opt.strategies.protocol import Strategy
from lens_prompt_opt.strategies.random_search import RandomSearch
from lens_prompt_opt.strategies.rewrite_from_failures import RewriteFromFailures
from lens_prompt_opt.study_core import StudyCore

ALPHA = 0.05
REQUESTS = 120
POPULATION = population(300)
Row = dict[str, Any]


@dataclass(frozen=True)
class ChallengeEverything:
    """Puts every edit to the gate, unscreened: the hardest case for the error rate."""

    challenges: int = 12
    name: str = "challenge-everything"

    @property
    def description(self) -> dict[str, object]:
        return {"challenges": self.challenges}

    async def search(self, desk: Desk) -> Candidate:
        nothing = FailureReport(modes=(), checked=0, by_fault={})
        try:
            for number in range(1, self.challenges + 1):
                brief = ProposalBrief(prompt=desk.incumbent.prompt, failures=nothing)
                [edits] = await desk.propose(brief)
                made = desk.candidate(desk.incumbent, edits, origin="edit", round=number)
                if made is not None and made.id != desk.incumbent.id:
                    await desk.challenge(made)
        except BudgetExhaustedError:
            pass
        return desk.incumbent


@dataclass(frozen=True)
class Case:
    """One line of a table: a world, a proposer, a strategy and a budget."""

    suite: str
    scenario: str
    label: str
    strategy: Strategy
    proposer: SimulatedProposer = field(default_factory=SimulatedProposer)
    noise: Noise = field(default_factory=Noise)
    images: int = 1000
    method: TestMethod = field(default_factory=BettingTest)
    runs: int = 200

    @property
    def key(self) -> str:
        return f"{self.suite}/{self.scenario}/{self.label}"


NULLS = {
    "placebo": SimulatedProposer.placebo(),
    "harm": SimulatedProposer(helps=0.0, hurts=0.5, name="harm"),
    "mixed": SimulatedProposer(helps=0.0, hurts=0.0, side=0.0, spread=0.6, name="mixed"),
}


def error_cases(runs: int) -> Iterator[Case]:
    for scenario, proposer in NULLS.items():
        yield Case("error", scenario, "default", FactorialSearch(), proposer, images=700, runs=runs)
    many = ChallengeEverything()
    for label, method in (("alpha-spending", SpendingTest()), ("betting", BettingTest())):
        for scenario in ("placebo", "mixed"):
            yield Case(
                "error", scenario, f"12 challengers, {label}", many, NULLS[scenario],
                images=2500, method=method, runs=runs,
            )  # fmt: skip
    for label, strategy in (("published", RewriteFromFailures()), ("gepa", GepaEngine())):
        yield Case(
            "error", "placebo", label, strategy, NULLS["placebo"], images=700, runs=runs // 4
        )


def value_cases(runs: int) -> Iterator[Case]:
    fewer = runs // 8
    for label, strategy, count in (
        ("default (factorial)", FactorialSearch(), runs),
        ("published (rewrite from failures)", RewriteFromFailures(), runs),
        ("gepa", GepaEngine(), runs),
        ("random", RandomSearch(), runs),
        ("published, batch of 24", RewriteFromFailures(batch=24), fewer),
        ("published, batch of 96", RewriteFromFailures(batch=96), fewer),
        ("gepa, a component per section, merging", GepaEngine(sectioned=True, merge=True), fewer),
        ("beam", RandomSearch(beam=3, children=2, name="beam"), fewer),
        ("pareto", ParetoSearch(), fewer),
        ("bootstrapped examples", BootstrappedExamples(), fewer),
    ):
        yield Case("value", "standard", label, strategy, runs=count)


def sensitivity_cases(runs: int) -> Iterator[Case]:
    rivals: tuple[tuple[str, Strategy], ...] = (
        ("default (factorial)", FactorialSearch()),
        ("published (rewrite from failures)", RewriteFromFailures()),
        ("gepa", GepaEngine()),
    )
    standard = SimulatedProposer()
    scenarios: dict[str, tuple[SimulatedProposer, Noise, int]] = {
        "500 pictures": (standard, Noise(), 500),
        "2000 pictures": (standard, Noise(), 2000),
        "edits act everywhere": (replace(standard, side=0.15), Noise(), 1000),
        "poor proposer": (replace(standard, helps=0.2, hurts=0.4), Noise(), 1000),
        "noisy judge": (standard, Noise(false_yes=0.15, false_no=0.2), 1000),
        "seeds decide": (standard, Noise(seed=1.4, shared_seed=0.2), 1000),
    }
    for scenario, (proposer, noise, images) in scenarios.items():
        for label, strategy in rivals:
            yield Case(
                "sensitivity", scenario, label, strategy, proposer, noise, images, runs=runs // 10
            )


async def run_case(case: Case, number: int) -> Row:
    """One study, and what it came to in truth."""
    world = World(f"world {number}", noise=case.noise)
    core = StudyCore(
        evaluator=lambda context: SimulatedEvaluator(world, context),
        prompts=PromptSet.of(f"request {i}" for i in range(REQUESTS)),
        proposer=case.proposer,
        strategy=case.strategy,
        gate=PairedSequentialGate(alpha=ALPHA, method=case.method),
        interval=ClusterBootstrap(resamples=400),
    )
    started = time.process_time()
    result = await core.run(
        seed=seed_prompt(), budget=Budget(images=case.images), run_dir=None, random_seed=number
    )
    seed_value = world.true_value(seed_prompt(), POPULATION)
    best_value = world.true_value(result.best.system_prompt, POPULATION)
    guess = result.unproven or result.best
    guess_value = world.true_value(guess.system_prompt, POPULATION)
    return {
        "case": case.key,
        "run": number,
        "gain": best_value - seed_value,
        "seed_value": seed_value,
        "changed": result.end == "improved",
        "guess": guess_value - seed_value,
        "challenges": len(result.history.decisions),
        "accepted": sum(decision.accepted for decision in result.history.decisions),
        "false": false_acceptances(world, result),
        "images": result.cost[-1].images,
        "proposals": next((r.calls for r in result.cost if r.stage == "propose"), 0),
        "claim": claim_row(world, result, best_value - seed_value),
        "seconds": time.process_time() - started,
    }


def false_acceptances(world: World, result: StudyResult) -> int:
    """Accepted challengers that are in truth no better than what they replaced."""
    prompts = {r.candidate.id: r.candidate.prompt for r in result.history.candidates}
    wrong = 0
    for decision in result.history.decisions:
        if decision.accepted:
            before = world.true_value(prompts[decision.incumbent], POPULATION)
            after = world.true_value(prompts[decision.challenger], POPULATION)
            wrong += after - before <= 1e-12
    return wrong


def claim_row(world: World, result: StudyResult, gain: float) -> Row | None:
    """Whether the claimed interval holds the true gain as the judge would see it."""
    if result.claim is None:
        return None
    noise = world.noise
    seen = (
        gain * (1 - noise.cannot_tell - noise.false_no - noise.false_yes) / (1 - noise.cannot_tell)
    )
    low, high = result.claim.interval
    return {"covers": low <= seen <= high, "width": high - low, "above_zero": low > 0}


async def run_all(cases: list[Case], path: Path, report: Callable[[str], None]) -> list[Row]:
    """All runs that are not in the file yet, and then all that are."""
    rows = kept_rows(path)
    known = {(row["case"], row["run"]) for row in rows}
    with path.open("a", encoding="utf-8") as file:
        for case in cases:
            started = time.perf_counter()
            for number in range(case.runs):
                if (case.key, number) not in known:
                    row = await run_case(case, number)
                    rows.append(row)
                    file.write(json.dumps(row) + "\n")
                    file.flush()
            report(f"{case.key}: {case.runs} runs, {time.perf_counter() - started:.0f} s")
    return wanted_rows(cases, rows)


def kept_rows(path: Path) -> list[Row]:
    """What earlier runs of this program came to."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wanted_rows(cases: list[Case], rows: list[Row]) -> list[Row]:
    """The rows that belong to the cases, in their order."""
    by_run = {(row["case"], row["run"]): row for row in rows}
    wanted = ((case.key, number) for case in cases for number in range(case.runs))
    return [by_run[run] for run in wanted if run in by_run]


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
        "1000 pictures for every strategy. *Gain* is the true gain of the prompt that the study",
        "returns, which for the default is the seed prompt where nothing was established; *with",
        "best guesses* takes `unproven` then. *Default is ahead by* compares the same worlds.",
    ),
    "sensitivity": (
        "What changes if the budget or the world is another. Where gains are small against the",
        "noise, the default often cannot establish them and returns the seed prompt; on average",
        "methods without a gate are then level with it or ahead, without knowing of any one prompt",
        "whether it is better.",
    ),
}


def markdown(tables: dict[str, list[Row]]) -> str:
    lines = [
        "# Prompt studies on the simulator",
        "",
        "Made by `python benchmarks/prompt_opt_simulator.py`; every run's numbers are in",
        "`simulator.json`. Values are true ones, known from the simulator, in points of a hundred,",
        "on 300 requests that no study saw. Intervals are 95 %. That the gate draws one picture",
        "per request and not two was decided on other worlds than these. Each study has 120",
        "requests; pictures for the final claim count too.",
        "",
        f"## Error rate (nominal at most {ALPHA:.0%} of studies)",
        "",
        "Studies in which no edit helps. *placebo*: edits change the wording only; *harm*: they do",
        "nothing or hurt; *mixed*: they help some requests and hurt others. Wrong is a study that",
        "accepted a prompt whose true value is not above that of the one it replaced. The last",
        "rows have no gate: there, wrong is a study that returned another prompt than the seed.",
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
        "with best guesses | worse than the seed | pictures | proposals | claims that hold |",
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="runs of the main cases")
    parser.add_argument("--out", type=Path, default=Path("docs/prompt_opt"))
    parser.add_argument("--work", type=Path, default=Path("runs/prompt_opt_simulator"))
    parser.add_argument("--suite", nargs="+", default=["value", "error", "sensitivity"])
    parser.add_argument(
        "--tables", action="store_true", help="only tables, of the runs that are there"
    )
    arguments = parser.parse_args()
    suites = {"error": error_cases, "value": value_cases, "sensitivity": sensitivity_cases}
    cases = [case for suite in arguments.suite for case in suites[suite](arguments.runs)]
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.work / "runs.jsonl"
    if arguments.tables:
        rows = wanted_rows(cases, kept_rows(path))
    else:
        rows = asyncio.run(run_all(cases, path, lambda line: print(line, flush=True)))
    tables = summarise(cases, rows)
    fields = ("run", "gain", "guess", "changed", "challenges", "accepted", "false", "claim")
    record = {
        "alpha": ALPHA,
        "requests": REQUESTS,
        "processor_seconds": round(sum(row["seconds"] for row in rows)),
        "tables": tables,
        "runs": {
            case.key: [
                [
                    round(row[name], 5) if name in {"gain", "guess"} else row[name]
                    for name in fields[:-1]
                ]
                for row in rows
                if row["case"] == case.key
            ]
            for case in cases
        },
        "run_fields": fields[:-1],
    }
    text = json.dumps(record, separators=(",", ":"))
    (arguments.out / "simulator.json").write_text(text + "\n", encoding="utf-8")
    (arguments.out / "simulator.md").write_text(markdown(tables), encoding="utf-8")
    print(markdown(tables))


if __name__ == "__main__":
    main()
