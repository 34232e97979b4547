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
from collections.abc import Callable
from pathlib import Path

from simulator_cases import ALPHA, SUITES, Case
from simulator_tables import Row, markdown, summarise

from lens_prompt_opt.budget import Budget
from lens_prompt_opt.gate import PairedSequentialGate
from lens_prompt_opt.requests import PromptSet
from lens_prompt_opt.result import StudyResult
from lens_prompt_opt.simulation.evaluator import SimulatedEvaluator
from lens_prompt_opt.simulation.world import World, population, seed_prompt
from lens_prompt_opt.statistics.intervals import ClusterBootstrap
from lens_prompt_opt.study_core import StudyCore

REQUESTS = 120
POPULATION = population(300)


async def run_case(case: Case, number: int) -> Row:
    """Run one study and compare its result with the truth."""
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
    """Count accepted challengers that are not truly better than what they replaced."""
    prompts = {r.candidate.id: r.candidate.prompt for r in result.history.candidates}
    wrong = 0
    for decision in result.history.decisions:
        if decision.accepted:
            before = world.true_value(prompts[decision.incumbent], POPULATION)
            after = world.true_value(prompts[decision.challenger], POPULATION)
            wrong += after - before <= 1e-12
    return wrong


def claim_row(world: World, result: StudyResult, gain: float) -> Row | None:
    """Check whether the claimed interval contains the true gain as the judge would see it."""
    if result.claim is None:
        return None
    noise = world.noise
    seen = (
        gain * (1 - noise.cannot_tell - noise.false_no - noise.false_yes) / (1 - noise.cannot_tell)
    )
    low, high = result.claim.interval
    return {"covers": low <= seen <= high, "width": high - low, "above_zero": low > 0}


async def run_all(cases: list[Case], path: Path, report: Callable[[str], None]) -> list[Row]:
    """Run what is not in the file yet, then return all runs."""
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
    """Return the results of earlier runs of this program."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wanted_rows(cases: list[Case], rows: list[Row]) -> list[Row]:
    """Return the rows that belong to the cases, in their order."""
    by_run = {(row["case"], row["run"]): row for row in rows}
    wanted = ((case.key, number) for case in cases for number in range(case.runs))
    return [by_run[run] for run in wanted if run in by_run]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="runs of the main cases")
    parser.add_argument("--out", type=Path, default=Path("docs/prompt_opt"))
    parser.add_argument("--work", type=Path, default=Path("runs/prompt_opt_simulator"))
    parser.add_argument(
        "--suite", nargs="+", choices=SUITES, default=["value", "error", "sensitivity"]
    )
    parser.add_argument(
        "--tables", action="store_true", help="only tables, of the runs that are there"
    )
    arguments = parser.parse_args()
    cases = [case for suite in arguments.suite for case in SUITES[suite](arguments.runs)]
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
