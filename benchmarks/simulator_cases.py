"""The studies that `prompt_opt_simulator.py` runs: worlds, proposers, strategies and budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from lens_prompt_opt.budget import BudgetExhaustedError
from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate
from lens_prompt_opt.failures import FailureReport
from lens_prompt_opt.proposer import ProposalBrief
from lens_prompt_opt.simulation.proposer import SimulatedProposer
from lens_prompt_opt.simulation.world import Noise
from lens_prompt_opt.statistics.sequential import BettingTest, SpendingTest, TestMethod
from lens_prompt_opt.strategies.bootstrapped import BootstrappedExamples
from lens_prompt_opt.strategies.factorial import FactorialSearch
from lens_prompt_opt.strategies.gepa_engine import GepaEngine
from lens_prompt_opt.strategies.pareto import ParetoSearch
from lens_prompt_opt.strategies.protocol import Strategy
from lens_prompt_opt.strategies.random_search import RandomSearch
from lens_prompt_opt.strategies.rewrite_from_failures import RewriteFromFailures

ALPHA = 0.05


@dataclass(frozen=True)
class ChallengeEverything:
    """Sends every edit to the gate without screening: the hardest case for the error rate."""

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


SUITES: dict[str, Callable[[int], Iterator[Case]]] = {
    "error": error_cases,
    "value": value_cases,
    "sensitivity": sensitivity_cases,
}
"""Cases by suite, given the number of runs of the main cases."""
