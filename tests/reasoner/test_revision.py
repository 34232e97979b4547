"""Diagnosis, and what the loop does about it, in a world of colour words."""

import pytest

from lens_reasoner import (
    AgentLoop,
    Criterion,
    CriterionVerdict,
    Diagnosed,
    FidelityChecked,
    FidelityFinding,
    FidelityReport,
    FunctionGenerator,
    JudgeError,
    LoopLimits,
    LoopResult,
    Problem,
    Revised,
    Rubric,
    StageFailed,
    Usage,
    Verdict,
    diagnose,
    fold_events,
    prompt_problems,
)
from word_world import (
    REQUEST,
    RUBRIC,
    WordChecker,
    WordJudge,
    WordReasoner,
    WordReviser,
    paint,
)


def _loop(prompt: str = "red", *, rounds: int = 4, **parts) -> AgentLoop:
    return AgentLoop(
        **{
            "generator": FunctionGenerator(paint),
            "reasoner": WordReasoner(prompt),
            "judge": WordJudge(),
            "fidelity_checker": WordChecker(),
            "reviser": WordReviser(),
            "limits": LoopLimits(max_rounds=rounds),
            **parts,
        }
    )


def _prompts_by_round(result: LoopResult) -> list[str]:
    by_round = {candidate.round: candidate for candidate in result.candidates}
    return [result.prompts[by_round[n].prompt_version].prompt for n in sorted(by_round)]


def _verdict(**answers: tuple[str, float | None]) -> Verdict:
    return Verdict(
        image_sha256="0",
        judge="j",
        verdicts=tuple(
            CriterionVerdict(
                criterion=name, answer=answer, agreement=agreement, evidence=f"e{name}"
            )
            for name, (answer, agreement) in answers.items()
        ),
    )


def _report(**status: str) -> FidelityReport:
    findings = tuple(FidelityFinding(criterion=n, status=s) for n, s in status.items())
    return FidelityReport(prompt="p", findings=findings, checker="c")


def test_faults_by_prompt_picture_and_votes() -> None:
    whole = Criterion(name="structure", kind="structure", question="Whole?")
    rubric = Rubric(request="r", criteria=(*RUBRIC.criteria, whole))
    verdict = _verdict(
        red=("no", None), green=("no", 2 / 3), blue=("no", 1.0), structure=("no", None)
    )

    def faults(report: FidelityReport | None) -> dict[str, str]:
        return {p.criterion: p.fault for p in diagnose(verdict, rubric, report)}

    stated = {"red": "stated", "green": "stated", "blue": "stated"}
    assert faults(_report(**stated)) == {
        "red": "generator",
        "green": "judge",
        "blue": "generator",
        "structure": "generator",
    }
    assert faults(_report(red="missing", green="missing", blue="contradicted")) == {
        "red": "reasoner",
        "green": "reasoner",
        "blue": "reasoner",
        "structure": "generator",
    }
    assert faults(None)["red"] == "generator"
    met = _verdict(red=("yes", None), green=("cannot_tell", None), blue=("yes", 2 / 3))
    assert diagnose(met, rubric, _report(red="missing")) == ()


def test_a_problem_tells_where_it_comes_from() -> None:
    (problem,) = diagnose(_verdict(blue=("no", None)), RUBRIC, _report(blue="missing"))
    assert problem == Problem(
        criterion="blue",
        question="Is there blue?",
        source="blue",
        evidence="eblue",
        fault="reasoner",
    )


def _problems(**faults: str) -> tuple[Problem, ...]:
    return tuple(Problem(criterion=n, question="?", fault=f) for n, f in faults.items())


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [
        ([_problems(red="reasoner"), ()], ["red"]),
        ([_problems(red="generator"), ()], []),
        ([_problems(red="generator"), _problems(green="generator")], []),
        ([_problems(red="generator", green="generator"), _problems(red="generator")], ["red"]),
        ([_problems(red="generator"), _problems(red="judge")], []),
        ([_problems(red="judge"), _problems(red="judge")], []),
        ([_problems(red="generator")], ["red"]),
        ([], []),
        ([()], []),
    ],
)
def test_what_calls_for_another_prompt(pictures, expected) -> None:
    assert [problem.criterion for problem in prompt_problems(pictures)] == expected


async def test_prompts_are_mended_until_everything_is_drawn() -> None:
    reviser = WordReviser()
    events = [e async for e in _loop(reviser=reviser).stream(REQUEST, rubric=RUBRIC)]
    result = fold_events(events)
    # The rewrite lost two words; then blue is never drawn; green takes an odd seed.
    assert reviser.asked == [
        [("green", "reasoner"), ("blue", "reasoner")],
        [("blue", "generator")],
    ]
    assert _prompts_by_round(result) == ["red", "red green blue", "red green vivid blue"]
    assert [c.score for c in result.candidates] == pytest.approx(
        [1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1]
    )
    assert (result.stop_reason, result.best_index) == ("target_reached", 5)
    assert result.best.image.prompt == "red green vivid blue"
    assert [report.prompt for report in result.fidelity] == [p.prompt for p in result.prompts]
    assert [len(report.lost) for report in result.fidelity] == [2, 0, 0]
    assert [len(c.problems) for c in result.candidates] == [2, 2, 2, 1, 1, 0]
    assert sum(isinstance(e, FidelityChecked) for e in events) == 3
    assert sum(isinstance(e, Diagnosed) for e in events) == 5
    revised = [e for e in events if isinstance(e, Revised)]
    assert [(e.round, e.prompt_version) for e in revised] == [(1, 1), (2, 2)]
    assert set(result.timings) >= {"rewrite", "fidelity", "generate", "judge", "revise", "total"}
    assert result.model_validate_json(result.model_dump_json()) == result


async def test_new_seeds_where_another_seed_could_do() -> None:
    reviser = WordReviser()
    request = REQUEST.model_copy(update={"seed": 2, "num_images": 1})
    loop = _loop("red green vivid blue", reviser=reviser)
    result = await loop.run(request.model_copy(update={"num_images": 2}), rubric=RUBRIC)
    assert [c.image.seed for c in result.candidates] == [2, 3]
    result = await _loop("red green", reviser=reviser, rounds=2).run(
        REQUEST.model_copy(update={"num_images": 3}),
        rubric=RUBRIC.model_copy(update={"criteria": RUBRIC.criteria[:2]}),
    )
    assert result.stop_reason == "target_reached"
    assert reviser.asked == []


async def test_a_judge_of_two_minds_changes_no_prompt() -> None:
    reviser, judge = WordReviser(), WordJudge(unsure=("green", "blue"))
    loop = _loop("red green blue", reviser=reviser, judge=judge, rounds=2)
    result = await loop.run(REQUEST, rubric=RUBRIC)
    assert reviser.asked == []
    assert {p.fault for c in result.candidates for p in c.problems} == {"judge"}
    assert [c.image.seed for c in result.candidates] == [0, 1, 2, 3]
    assert len(result.fidelity) == 1


async def test_without_a_checker_the_prompt_is_taken_at_its_word() -> None:
    reviser = WordReviser()
    result = await _loop("red", reviser=reviser, fidelity_checker=None, rounds=2).run(
        REQUEST, rubric=RUBRIC
    )
    assert reviser.asked == [[("green", "generator"), ("blue", "generator")]]
    assert result.fidelity == ()


async def test_the_users_own_words_can_be_revised() -> None:
    loop = _loop(reasoner=None)
    result = await loop.run(REQUEST.model_copy(update={"text": "red blue"}), rubric=RUBRIC)
    assert result.rewrite is None
    assert result.prompts[0].prompt == "red blue"
    assert result.stop_reason == "target_reached"
    assert result.best.prompt_version > 0


class _Broken:
    async def check(self, request, prompt, rubric):
        raise JudgeError("no idea", usage=Usage.zero())

    async def revise(self, request, current, problems):
        raise ValueError("no words")


async def test_broken_checkers_and_revisers_cost_no_picture() -> None:
    broken = _Broken()
    loop = _loop("red green blue", fidelity_checker=broken, reviser=broken, rounds=3)
    events = [e async for e in loop.stream(REQUEST, rubric=RUBRIC)]
    result = fold_events(events)
    failed = [(e.failure.stage, e.round) for e in events if isinstance(e, StageFailed)]
    # One prompt is looked up once; every round may ask for another prompt.
    assert failed == [("fidelity", 0), ("revise", 1), ("revise", 2)]
    assert (len(result.candidates), result.stop_reason) == (6, "max_rounds")
    assert len(result.prompts) == 1
    # What a revision cost that failed in an unknown way is unknown.
    assert result.usage.usd is None
    assert result.usage_by_stage["fidelity"] == Usage.zero()
