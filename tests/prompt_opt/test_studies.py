"""Whole studies on the simulator: what they find, what they claim, what they spend."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lens_prompt_opt import (
    BootstrappedExamples,
    Budget,
    BudgetError,
    FactorialSearch,
    GepaEngine,
    ParetoSearch,
    PromptCard,
    PromptOptError,
    PromptSet,
    RandomSearch,
    RewriteFromFailures,
    Strategy,
    StudyResult,
    UnitPrices,
    UnknownCostError,
    load_system_prompt,
)
from lens_prompt_opt.budget import Ledger
from lens_prompt_opt.cells import CellStream, Outcome
from lens_prompt_opt.evaluation import EvaluationContext, Task
from lens_prompt_opt.journal import MemoryJournal
from lens_prompt_opt.simulation.evaluator import SimulatedEvaluator
from lens_prompt_opt.simulation.parts import SimulatedGenerator, SimulatedJudge, SimulatedReasoner
from lens_prompt_opt.simulation.proposer import SimulatedProposer
from lens_prompt_opt.simulation.world import World, population, seed_prompt
from lens_prompt_opt.study_core import StudyCore
from lens_reasoner import (
    GeneratedImage,
    GenerationRefusedError,
    ImageRequest,
    LLMReasoner,
    PromptFileError,
    Refused,
    Rewrite,
    Rubric,
    SystemPrompt,
    Usage,
    Verdict,
)
from prompt_opt.simulated_study import WORLD, study
from scripted_chat import ScriptedChat

SEED = seed_prompt()


class _Spy(SimulatedEvaluator):
    """Notes which requests were evaluated, in order."""

    def __init__(self, world: World, context: EvaluationContext, seen: list[str]) -> None:
        super().__init__(world, context)
        self._seen = seen

    async def evaluate(self, tasks: Sequence[Task]) -> list[Outcome]:
        self._seen += [cell.request for _, cell in tasks]
        return await super().evaluate(tasks)


def _core(
    strategy: Strategy,
    *,
    world: World = WORLD,
    proposer: SimulatedProposer | None = None,
    seen: list[str] | None = None,
    count: int = 100,
) -> StudyCore:
    noted = seen if seen is not None else []
    return StudyCore(
        evaluator=lambda context: _Spy(world, context, noted),
        prompts=PromptSet.of(f"request {i}" for i in range(count)),
        proposer=proposer or SimulatedProposer(helps=0.7, hurts=0.1, gain=0.6),
        strategy=strategy,
    )


def _run(core: StudyCore, budget: Budget, random_seed: int = 0) -> StudyResult:
    return asyncio.run(core.run(seed=SEED, budget=budget, run_dir=None, random_seed=random_seed))


def test_a_better_prompt_is_found_and_the_claim_holds() -> None:
    result = _run(_core(FactorialSearch()), Budget(images=1000))
    names = population(200)
    gain = WORLD.true_value(result.best.system_prompt, names) - WORLD.true_value(SEED, names)
    assert result.end == "improved"
    assert gain > 0.1
    claim = result.claim
    assert claim is not None
    assert claim.interval[0] > 0
    # The judge sees the true gain less its own errors.
    assert claim.interval[0] < 0.87 * gain < claim.interval[1]
    assert [d.verdict for d in result.history.decisions][-1] == "better"
    lineage = result.best.lineage
    assert (lineage[0].origin, lineage[-1].prompt) == ("seed", result.best.system_prompt)
    assert all(parent in {c.id for c in lineage} for c in lineage for parent in c.parents)
    assert all(edit.hypothesis.status != "open" for edit in result.history.hypotheses)
    standing = {section.name: section.text for section in result.best.system_prompt.sections}
    assert all(standing[edit.section] == edit.text for edit in result.best.hypotheses)
    assert "confirmed" in {edit.hypothesis.status for edit in result.best.hypotheses}
    changes = {change.kind: change for change in claim.kinds}
    assert set(changes) == set(WORLD.traits)
    assert max(change.interval[0] for change in changes.values()) > 0


def test_nothing_is_claimed_where_nothing_helps() -> None:
    accepted = 0
    for seed in range(8):
        result = _run(
            _core(FactorialSearch(), proposer=SimulatedProposer.placebo(), count=60),
            Budget(images=500),
            random_seed=seed,
        )
        accepted += result.end == "improved"
        if result.end == "no_improvement":
            assert result.claim is None
            assert result.best.system_prompt == SEED
    assert accepted <= 2, "the rate is 5 %; more than two of eight has a chance of 1 in 170"


def test_the_test_split_is_touched_only_by_the_claim() -> None:
    seen: list[str] = []
    core = _core(FactorialSearch(), seen=seen)
    result = _run(core, Budget(images=1000))
    splits = PromptSet.of(f"request {i}" for i in range(100)).split(0, shares=core.shares)
    test = {request.id for request in splits.test}
    first = next(place for place, name in enumerate(seen) if name in test)
    assert set(seen[first:]) == test
    assert result.claim is not None
    assert result.claim.requests == len(test)


def test_equal_seeds_give_equal_studies_and_others_do_not() -> None:
    first, again, other = (
        _run(_core(FactorialSearch(), count=60), Budget(images=500), seed) for seed in (3, 3, 4)
    )
    timeless = {"cost", "best", "unproven"}
    assert first.model_dump(exclude=timeless) == again.model_dump(exclude=timeless)
    assert first.best.system_prompt == again.best.system_prompt
    assert first.history != other.history


STRATEGIES: list[Strategy] = [
    FactorialSearch(),
    RewriteFromFailures(batch=24),
    ParetoSearch(front=32, screen=12),
    RandomSearch(batch=24),
    RandomSearch(beam=2, children=2, batch=24, name="beam"),
    BootstrappedExamples(batch=24, draws=3),
    pytest.param(  # type: ignore[list-item]
        GepaEngine(), marks=pytest.mark.skipif(find_spec("gepa") is None, reason="needs gepa")
    ),
    pytest.param(  # type: ignore[list-item]
        GepaEngine(sectioned=True, merge=True),
        marks=pytest.mark.skipif(find_spec("gepa") is None, reason="needs gepa"),
    ),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: getattr(s, "name", None))
def test_every_strategy_keeps_to_its_budget_and_ends_with_a_card(strategy: Strategy) -> None:
    proposer = SimulatedProposer(helps=0.9, hurts=0.0, gain=0.8)
    result = _run(_core(strategy, proposer=proposer, count=60), Budget(images=500))
    assert result.cost[-1].images <= 500
    assert result.best.strategy == strategy.name
    assert (result.claim is not None) == (result.end == "improved")
    assert StudyResult.model_validate_json(result.model_dump_json()) == result


def test_strategies_without_a_gate_take_noise_for_gain() -> None:
    # What the baseline is there to show; its own score must not become the claim.
    result = _run(
        _core(RewriteFromFailures(batch=24), proposer=SimulatedProposer.placebo(), count=60),
        Budget(images=500),
    )
    assert result.end == "improved"
    assert result.claim is not None
    assert result.claim.interval[0] < 0 < result.claim.interval[1]


def test_dollars_and_calls_are_hard_limits() -> None:
    for budget in (Budget(usd=4), Budget(calls=1200)):
        result = _run(_core(FactorialSearch(), count=60), budget)
        total = result.cost[-1]
        # One block is 24 pictures of a search round, or 64 of a challenge at most.
        assert budget.usd is None or total.usd <= budget.usd + 64 * 0.0135
        assert budget.calls is None or total.calls <= budget.calls
        assert total.calls > 400
    with pytest.raises(BudgetError, match="final claim"):
        _run(_core(FactorialSearch()), Budget(images=20))
    with pytest.raises(ValueError, match="at least one"):
        Budget()


class _Unpriced(SimulatedJudge):
    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        verdict = await super().judge(image, rubric)
        return verdict.model_copy(update={"usage": Usage()})


def test_a_limit_in_dollars_needs_prices() -> None:
    unpriced = study(judge=_Unpriced(WORLD))
    with pytest.raises(UnknownCostError, match="judge"):
        unpriced.optimize_sync(seed=SEED, budget=Budget(usd=5))


def test_the_simulator_and_its_parts_are_one_world() -> None:
    parts = study()
    requests = {request.id: request for request in parts._core.prompts.requests}
    context = EvaluationContext(requests, MemoryJournal(), Ledger(Budget(images=1000)))
    stream = CellStream(tuple(requests.values()), "agreement", pictures=2)
    tasks = [(SEED, cell) for block in stream.blocks(12) for cell in block]

    async def both() -> tuple[list[Outcome], list[Outcome]]:
        slow = parts._core.evaluator(context)
        return await slow.evaluate(tasks), await SimulatedEvaluator(WORLD, context).evaluate(tasks)

    slow, fast = asyncio.run(both())
    assert [(o.score, dict(o.answers), o.rewrite) for o in slow] == [
        (o.score, dict(o.answers), o.rewrite) for o in fast
    ]
    assert all(o.fingerprint is not None for o in slow)


def test_true_values_are_what_scores_come_to() -> None:
    world = World("exact").with_noise(false_yes=0.0, false_no=0.0, cannot_tell=0.0)
    prompts = PromptSet.of(f"request {i}" for i in range(60))
    context = EvaluationContext(
        {r.id: r for r in prompts.requests}, MemoryJournal(), Ledger(Budget(images=10**6))
    )
    stream = CellStream(prompts.requests, "true value", pictures=60)
    tasks = [(SEED, cell) for block in stream.blocks(60) for cell in block]
    outcomes = asyncio.run(SimulatedEvaluator(world, context).evaluate(tasks))
    mean = sum(o.score or 0.0 for o in outcomes) / len(outcomes)
    true = world.true_value(SEED, [request.text for request in prompts.requests])
    assert mean == pytest.approx(true, abs=0.012)


class _Refusing(SimulatedReasoner):
    """Refuses every third request under any prompt but the seed."""

    def with_system_prompt(self, prompt: SystemPrompt) -> "_Refusing":
        return _Refusing(self.world, prompt)

    async def rewrite(self, request: ImageRequest) -> Rewrite | Refused:
        if self.prompt != SEED and int(request.text.split()[-1]) % 3 == 0:
            return Refused(reason="No.", category="violence", usage=Usage.zero())
        return await super().rewrite(request)


class _Choosy(SimulatedGenerator):
    """Will not draw some prompts."""

    async def generate(self, prompt: str, **settings: Any) -> list[GeneratedImage]:
        if "text check" in prompt:
            raise GenerationRefusedError("not allowed", usage=Usage.zero())
        return await super().generate(prompt, **settings)


def test_a_prompt_that_makes_the_reasoner_refuse_is_not_accepted() -> None:
    refusing = _Refusing(WORLD, SEED)
    result = study(reasoner=refusing).optimize_sync(seed=SEED, budget=Budget(images=170))
    assert result.end == "no_improvement"
    names = {mode.name for found in result.history.failures for mode in found.modes}
    assert "other: not met" in names


def test_what_the_generator_will_not_draw_scores_nothing_and_costs_no_picture() -> None:
    result = study(generator=_Choosy(WORLD)).optimize_sync(seed=SEED, budget=Budget(images=110))
    drawn = next(row for row in result.cost if row.stage == "generate")
    assert drawn.images < drawn.calls
    evidence = [
        example.evidence
        for found in result.history.failures
        for mode in found.modes
        for example in mode.examples
    ]
    assert "GenerationRefusedError: not allowed" in evidence


def test_one_prompt_for_several_generators() -> None:
    weak = replace(SimulatedGenerator(WORLD), name="weak")
    result = study(generator=[SimulatedGenerator(WORLD), weak]).optimize_sync(
        seed=SEED, budget=Budget(images=330)
    )
    assert result.best.models["generate"] == "simulated + weak"
    assert result.cost[-1].images <= 330
    first = result.history.decisions[0]
    assert first.images == 2 * first.requests, "one picture per request and generator"


def test_estimates_come_before_anything_is_paid() -> None:
    called: list[str] = []
    found = study(called.append).estimate(
        Budget(usd=2, images=500), prices=UnitPrices(rewrite=0.002, generate=0.01, judge=0.0015)
    )
    assert (found.images, found.limited_by) == (148, "usd")
    assert found.usd == pytest.approx(2, rel=0.01)
    assert not called
    assert "too little" in str(study().estimate(Budget(images=60)))


def test_a_saved_card_is_what_a_reasoner_loads(tmp_path: Path) -> None:
    result = study().optimize_sync(seed=SEED, budget=Budget(images=170), run_dir=tmp_path / "run")
    path = result.best.save(tmp_path / "cards" / "prompt.json")
    assert all(
        (tmp_path / "run" / "pictures" / side.image).is_file()
        for pair in result.pictures
        for side in (pair.before, pair.after)
    )
    assert (result.claim is None) == (result.pictures == ())
    card = PromptCard.load(path)
    assert card == result.best
    prompt = load_system_prompt(path)
    reasoner = LLMReasoner(ScriptedChat(lambda asked: {}), load_system_prompt(path))
    assert reasoner.system_prompt == prompt == result.best.system_prompt
    assert load_system_prompt(tmp_path / "run" / "prompt.json") == prompt
    prompt.save(tmp_path / "plain.md")
    assert load_system_prompt(tmp_path / "plain.md") == prompt


def test_a_file_that_is_no_text_is_no_card(tmp_path: Path) -> None:
    path = tmp_path / "prompt.json"
    path.write_bytes(b'{"system_prompt": "\xff"}')
    with pytest.raises(PromptOptError, match="is not a prompt card"):
        PromptCard.load(path)
    with pytest.raises(PromptFileError, match="is not a system prompt"):
        load_system_prompt(path)


def test_the_variance_ledger_says_where_the_spread_comes_from() -> None:
    quiet = WORLD.with_noise(rewriter=0.05, false_yes=0.3, false_no=0.3)
    core = replace(_core(FactorialSearch(), world=quiet), calibration_requests=30)
    ledger = _run(core, Budget(images=900)).variance
    assert ledger is not None
    assert ledger.components["judge"] > ledger.components["rewriter"]
    assert ledger.purchases
    assert ledger.observations >= 140
