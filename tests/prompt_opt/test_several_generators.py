"""One study, two generators that want opposite things of a prompt."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from lens_prompt_opt import (
    Budget,
    FactorialSearch,
    GuardRules,
    PairedSequentialGate,
    PromptSet,
    StudyConfigError,
    StudyProgress,
    StudyResult,
)
from lens_prompt_opt.pipeline import distinct_names
from lens_prompt_opt.run_directory import generator_card_files
from lens_prompt_opt.simulation.evaluator import SimulatedEvaluator
from lens_prompt_opt.simulation.parts import SimulatedGenerator
from lens_prompt_opt.simulation.proposer import SimulatedProposer
from lens_prompt_opt.simulation.world import World, population, seed_prompt
from lens_prompt_opt.study_core import StudyCore
from prompt_opt.simulated_study import WORLD, study

SEED = seed_prompt()
LITERAL = World("two generators")
SHY = replace(LITERAL, penalty=-1.6)
"""A generator that draws what is not asked for best."""
PLACES = {"literal": LITERAL, "shy": SHY}
ALPHA = 0.3


@pytest.fixture(scope="module")
def told() -> list[StudyProgress]:
    return []


def _core(guards: GuardRules) -> StudyCore:
    return StudyCore(
        evaluator=lambda context: SimulatedEvaluator(LITERAL, context, generators=PLACES),
        prompts=PromptSet.of(f"request {i}" for i in range(80)),
        proposer=SimulatedProposer(helps=0.5, hurts=0.5, gain=0.9, harm=0.9),
        strategy=FactorialSearch(),
        gate=PairedSequentialGate(alpha=ALPHA),
        guards=guards,
    )


@pytest.fixture(scope="module")
def result(told: list[StudyProgress]) -> StudyResult:
    """Without the guard on intent, which would forbid what the shy one likes."""
    run = _core(GuardRules(max_lost=1.0)).run(
        seed=SEED, budget=Budget(images=2000), run_dir=None, random_seed=2, told=told.append
    )
    return asyncio.run(run)


def test_each_generator_gets_its_prompt_and_moving_it_costs(result: StudyResult) -> None:
    matrix = result.matrix
    assert matrix is not None
    assert matrix.prompts == ("seed", "shared", "literal", "shy")
    assert len(matrix.entries) == 8
    own = {found.generator: found.card for found in result.per_generator}
    assert own["literal"].system_prompt != own["shy"].system_prompt
    for name, world in PLACES.items():
        claim = own[name].claim
        assert claim is not None
        assert claim.gain > 0
        assert claim.gain == pytest.approx(matrix.entry(name, name).gain or 0.0)
        true = {
            row: world.true_value(card.system_prompt, population(150)) for row, card in own.items()
        }
        other = next(row for row in own if row != name)
        assert true[name] > true[other] + 0.05
        [lost] = [loss for loss in matrix.losses if (loss.prompt, loss.generator) == (other, name)]
        assert lost.interval[0] > 0
        assert lost.loss == pytest.approx(
            (matrix.entry(name, name).score or 0) - (matrix.entry(other, name).score or 0)
        )
    assert {(loss.prompt, loss.generator) for loss in matrix.losses} == {
        ("shared", "literal"),
        ("shared", "shy"),
        ("literal", "shy"),
        ("shy", "literal"),
    }
    assert "literal" in str(matrix).splitlines()[0]
    assert len(str(matrix).splitlines()) == 5


def test_a_prompt_that_drops_what_was_asked_for_is_guarded_however_well_it_scores() -> None:
    run = _core(GuardRules()).run(
        seed=SEED, budget=Budget(images=2400), run_dir=None, random_seed=3
    )
    found = asyncio.run(run).per_generator[1]
    [decision] = found.history.decisions
    assert (decision.verdict, decision.accepted) == ("guarded", False)
    assert (decision.gain or 0) > 0.1
    assert [finding.guard for finding in decision.guards] == ["intent"]
    assert found.card.system_prompt == SEED


def test_all_searches_together_keep_the_budget_and_the_error_rate(result: StudyResult) -> None:
    assert result.cost[-1].images <= 2000
    searches = [result.history, *(found.history for found in result.per_generator)]
    for history in searches:
        assert sum(decision.level for decision in history.decisions) <= ALPHA / len(searches)
    for found in result.per_generator:
        lineage = found.card.lineage
        assert (lineage[0].prompt, lineage[-1].prompt) == (SEED, found.card.system_prompt)
    assert StudyResult.model_validate_json(result.model_dump_json()) == result


def test_progress_says_what_it_is_busy_with(result: StudyResult, told: list[StudyProgress]) -> None:
    phases = list(dict.fromkeys((state.phase, state.generator) for state in told))
    assert phases == [
        ("calibrating", ""),
        ("searching", ""),
        ("specialising", "literal"),
        ("specialising", "shy"),
        ("claiming", ""),
        ("finished", ""),
    ]
    images = [state.images for state in told]
    assert images == sorted(images)
    assert (images[-1], told[-1].usd) == (result.cost[-1].images, result.cost[-1].usd)
    accepted = max((state.accepted for state in told), key=len)
    sections = {edit.section for found in result.per_generator for edit in found.card.hypotheses}
    assert sections
    assert all(any(repr(section) in line for line in accepted) for section in sections)


def test_a_screening_counts_the_pictures_of_every_generator(result: StudyResult) -> None:
    """Pairs of pictures are per generator."""
    pairs = FactorialSearch().pairs
    assert {screen.images for screen in result.history.screens} == {2 * pairs * len(PLACES)}
    alone = [screen for own in result.per_generator for screen in own.history.screens]
    assert {screen.images for screen in alone} <= {2 * pairs}


def test_the_matrix_can_be_left_out_and_names_are_told_apart() -> None:
    twins = [SimulatedGenerator(WORLD), SimulatedGenerator(WORLD)]
    found = study(generator=twins, own_share=0.0).optimize_sync(
        seed=SEED, budget=Budget(images=330)
    )
    assert found.generators == ("simulated #1", "simulated #2")
    assert (found.matrix, found.per_generator) == (None, ())
    assert distinct_names(["a", "b", "a"]) == ("a #1", "b", "a #2")
    assert len(set(distinct_names(["a", "a", "a #2", "a #1"]))) == 4
    with pytest.raises(StudyConfigError, match="own_share"):
        study(own_share=1.0)


def test_each_generator_has_a_file_of_its_own() -> None:
    files = generator_card_files(["org/lens", "org-lens", "Org lens", "模型一", "模型二", "lens"])
    assert files[0] == "prompt-org-lens.json"
    assert files[-1] == "prompt-lens.json"
    assert len({name.casefold() for name in files}) == 6
