"""An evaluator for the simulated world that skips making real images and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from lens_prompt_opt.cells import Cell, Outcome
from lens_prompt_opt.evaluation import EvaluationContext, Task
from lens_prompt_opt.simulation.world import Draws, World, blend
from lens_reasoner.revision import Statement
from lens_reasoner.types import Answer, Criterion, Rubric

NAMES = dict.fromkeys(("rubric", "rewrite", "generate", "judge", "fidelity"), "simulated")


class Prices(NamedTuple):
    """US dollars per call."""

    rewrite: float = 0.002
    generate: float = 0.01
    judge: float = 0.0015


PRICES = Prices()


def rubric_of(world: World, request: str) -> Rubric:
    """The criteria of a simulated request."""
    return Rubric(
        request=request,
        criteria=tuple(
            Criterion.model_validate(
                {"name": task.name, "kind": task.kind, "question": f"Is the {task.kind} right?"}
            )
            for task in world.tasks(request)
        ),
        author="simulation",
    )


def rewrite_of(world: World, rendered: str, request: str, draw: int) -> str:
    """The simulated rewrite: the names of the criteria it states."""
    draws = Draws(f"{world.name}:{hash_of(rendered)}:{request}:{draw}")
    noise = world.noise.rewriter
    stated = [
        task.name
        for task, score in zip(world.tasks(request), world.scores(rendered, request), strict=True)
        if score + noise * draws.normal() > 0
    ]
    return f"{request}, with " + ", ".join(stated)


def picture_of(world: World, rewrite: str, request: str, seed: int) -> tuple[bool, ...]:
    """Which criteria the simulated image meets."""
    shared = Draws(f"{world.name}:{request}:{seed}")
    own = Draws(f"{world.name}:{rewrite}:{seed}")
    noise = world.noise
    stated = stated_in(rewrite)
    met = []
    for task in world.tasks(request):
        ability = task.ability - (0.0 if task.name in stated else world.penalty)
        luck = blend(own.normal(), shared.normal(), noise.shared_seed)
        met.append(ability + noise.seed * luck > 0)
    return tuple(met)


def answers_of(
    world: World, rewrite: str, request: str, seed: int, met: Sequence[bool], vote: int = 0
) -> dict[str, Answer]:
    """The simulated judge's answers about an image."""
    draws = Draws(f"{world.name}:judge:{rewrite}:{seed}:{vote}")
    noise = world.noise
    answers: dict[str, Answer] = {}
    for task, fine in zip(world.tasks(request), met, strict=True):
        luck = draws.uniform()
        if luck > 1 - noise.cannot_tell:
            answers[task.name] = "cannot_tell"
        else:
            wrong = luck < (noise.false_no if fine else noise.false_yes)
            answers[task.name] = "yes" if fine != wrong else "no"
    return answers


def stated_in(rewrite: str) -> frozenset[str]:
    """Names of the criteria that a simulated rewrite states."""
    return frozenset(rewrite.partition(", with ")[2].split(", "))


@lru_cache(maxsize=100_000)
def hash_of(rendered: str) -> int:
    """A number for a rendered prompt, the same in every process."""
    return int(Draws(rendered).uniform() * 2**52)


class SimulatedEvaluator:
    """Evaluates in the world; like `PipelineEvaluator` with the simulated parts, but faster."""

    def __init__(
        self,
        world: World,
        context: EvaluationContext,
        *,
        prices: Prices = PRICES,
        generators: Mapping[str, World] | None = None,
    ) -> None:
        """Simulate a world.

        Args:
            world: Requests, reasoner and judge.
            context: The study.
            prices: Prices of calls.
            generators: Worlds by name of the generator, which have the same name and differ only in
                what affects images; None means one generator, that of `world`.
        """
        self._world = world
        self._generators = dict(generators or {"simulated": world})
        self._drawing = tuple(self._generators.values())
        self._ledger = context.ledger
        self._texts = {name: request.text for name, request in context.requests.items()}
        self._prices = prices
        self._rubrics: dict[str, Rubric] = {}

    @property
    def names(self) -> Mapping[str, str]:
        """See `Evaluator.names`."""
        return NAMES

    @property
    def generators(self) -> tuple[str, ...]:
        """See `Evaluator.generators`."""
        return tuple(self._generators)

    @property
    def max_prompt_tokens(self) -> int | None:
        """See `Evaluator.max_prompt_tokens`."""
        return None

    def rubric(self, request: str) -> Rubric | None:
        """See `Evaluator.rubric`."""
        if request not in self._rubrics:
            self._rubrics[request] = rubric_of(self._world, self._texts[request])
        return self._rubrics[request]

    async def evaluate(self, tasks: Sequence[Task]) -> list[Outcome]:
        """See `Evaluator.evaluate`."""
        return [self._outcome(prompt.render(), cell) for prompt, cell in tasks]

    async def statements(self, outcomes: Sequence[Outcome]) -> list[Mapping[str, Statement]]:
        """See `Evaluator.statements`; always correct, and free."""
        return [
            statements_of(self._world, o.rewrite, self._texts[o.cell.request]) for o in outcomes
        ]

    def _outcome(self, rendered: str, cell: Cell) -> Outcome:
        world, request = self._world, self._texts[cell.request]
        rewrite = rewrite_of(world, rendered, request, cell.draw)
        met = picture_of(self._drawing[cell.generator], rewrite, request, cell.seed)
        answers = answers_of(world, rewrite, request, cell.seed, met, cell.vote)
        given = [answer for answer in answers.values() if answer != "cannot_tell"]
        score = given.count("yes") / len(given) if given else None
        if not cell.vote:
            self._ledger.add_plain("rewrite", self._prices.rewrite, 1.0)
            self._ledger.add_plain("generate", self._prices.generate, 3.0, images=1)
        self._ledger.add_plain("judge", self._prices.judge, 1.0)
        return Outcome(cell, score, answers, rewrite)


def statements_of(world: World, rewrite: str, request: str) -> dict[str, Statement]:
    """What a simulated rewrite says about the criteria."""
    stated = stated_in(rewrite)
    return {
        task.name: "stated" if task.name in stated else "missing" for task in world.tasks(request)
    }
