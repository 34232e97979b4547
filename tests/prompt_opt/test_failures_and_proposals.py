"""Whose fault failures are, what they are called, and what a language model makes of them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lens_prompt_opt import LLMClusterer, LLMProposer, ProposalBrief, ProposalError, SectionEdit
from lens_prompt_opt.cells import Cell, Outcome
from lens_prompt_opt.errors import StudyConfigError
from lens_prompt_opt.failures import ByKind, Failure, collect_failures, report_failures
from lens_prompt_opt.reasoners import bind
from lens_prompt_opt.simulation.world import seed_prompt
from lens_reasoner import Criterion, LLMReasoner, Rubric, SystemPrompt
from prompt_opt.simulated_study import study
from scripted_chat import Asked, ScriptedChat, failure

RUBRIC = Rubric(
    request="two red cups",
    criteria=(
        Criterion(name="two cups", kind="count", question="Are there two cups?"),
        Criterion(name="red", kind="color", question="Are they red?"),
        Criterion(name="whole", kind="structure", question="Is everything whole?"),
    ),
)


def _failures(
    answers: dict[str, str], said: dict[str, str], *, disputed: tuple[str, ...] = ()
) -> dict[str, Failure]:
    outcome = Outcome(
        Cell("r", 1),
        0.0,
        answers=answers,
        rewrite="Cups.",
        disputed=frozenset(disputed),  # type: ignore[arg-type]
    )
    found = collect_failures([outcome], [said], lambda request: RUBRIC, {"r": RUBRIC.request})  # type: ignore[list-item]
    return {failure.criterion.name: failure for failure in found}


def test_only_what_the_rewrite_left_out_counts_against_the_prompt() -> None:
    all_no = dict.fromkeys(("two cups", "red", "whole"), "no")
    found = _failures(all_no, {"two cups": "missing", "red": "stated"})
    assert {name: f.fault for name, f in found.items()} == {
        "two cups": "reasoner",
        "red": "generator",
        "whole": "generator",
    }
    disputed = _failures(all_no, {"two cups": "contradicted", "red": "stated"}, disputed=("red",))
    assert (disputed["two cups"].fault, disputed["red"].fault) == ("reasoner", "judge")
    assert {f.fault for f in _failures(all_no, {}).values()} == {"reasoner"}
    assert _failures({"two cups": "yes", "red": "cannot_tell"}, {}) == {}


def test_votes_that_disagree_blame_the_judge() -> None:
    outcomes = [
        Outcome(Cell("r", 1), 0.0, answers={"red": "no"}, rewrite="Red."),
        Outcome(Cell("r", 1, vote=1), 1.0, answers={"red": "yes"}, rewrite="Red."),
    ]
    said: list[Any] = [{"red": "stated"}, {}]
    [found] = collect_failures(outcomes, said, lambda request: RUBRIC, {"r": "two red cups"})
    assert found.fault == "judge"


def test_modes_are_counted_and_those_of_the_prompt_come_first() -> None:
    all_no = dict.fromkeys(("two cups", "red"), "no")
    failures = list(_failures(all_no, {"two cups": "missing", "red": "stated"}).values())
    many = failures[1:] * 5 + failures[:1]
    names = asyncio.run(ByKind().cluster(many)).names
    report = report_failures(many, names, checked=20)
    assert [(mode.name, mode.count) for mode in report.modes] == [
        ("count: left out of the rewrite", 1),
        ("color: stated but not drawn", 5),
    ]
    assert [mode.name for mode in report.worth_an_edit] == ["count: left out of the rewrite"]
    assert report.by_fault == {"reasoner": 1, "generator": 5}
    assert report.modes[1].share == 0.25
    assert len(report.modes[1].examples) == 1, "examples are of different requests"


def _brief(**changes: object) -> ProposalBrief:
    failures = list(
        _failures(
            {"two cups": "no", "red": "no"}, {"two cups": "missing", "red": "stated"}
        ).values()
    )
    names = asyncio.run(ByKind().cluster(failures)).names
    fields: dict[str, object] = {
        "prompt": seed_prompt(),
        "failures": report_failures(failures, names, checked=4),
        "wanted": 2,
    }
    return ProposalBrief.model_validate({**fields, **changes})


def _edit(**changes: str) -> dict[str, Any]:
    return {
        "section": "counting",
        "kind": "replace",
        "text": "Say how many there are.",
        "failure_mode": "count: left out of the rewrite",
        "criterion_kinds": ["count"],
        "reason": "numbers get lost",
        **changes,
    }


def test_a_language_model_is_told_what_fails_and_its_edits_are_put_right() -> None:
    removal = _edit(kind="remove", text="")
    answer = {
        "analysis": "numbers are lost",
        "alternatives": [
            {"edits": [_edit()]},
            {
                "edits": [
                    _edit(section="## light", kind="replace"),
                    removal | {"section": "text"},
                ]
            },
            {"edits": [removal | {"section": "nowhere"}]},
        ],
    }
    chat = ScriptedChat(lambda asked: answer)
    tried = SectionEdit.model_validate(
        {"section": "role", "text": "Be bold.", "hypothesis": {"status": "refuted", "change": -0.1}}
    )
    brief = _brief(tried=(tried,), protected=("format",))
    found = asyncio.run(LLMProposer(chat).propose(brief, {"p.png": b"\x89PNG\r\n\x1a\n"}))
    assert [[(e.section, e.kind) for e in edits] for edits in found.edits] == [
        [("counting", "replace")],
        [("light", "add"), ("text", "remove")],
    ]
    assert found.edits[0][0].hypothesis.kinds == ("count",)
    assert found.usage.usd == 0.001
    [asked] = chat.calls
    for piece in (
        "two red cups",
        "left out of the rewrite: 1 times",
        "refuted",
        "format",
        "ONE section",
    ):
        assert piece in asked.text, piece
    assert len(asked.images) == 1


def test_whole_rewrites_are_asked_for_as_such_and_no_edit_is_an_error() -> None:
    chat = ScriptedChat(lambda asked: {"analysis": "", "alternatives": []})
    with pytest.raises(ProposalError, match="no edit"):
        asyncio.run(LLMProposer(chat).propose(_brief(scope="whole"), {}))
    assert "whole system prompt" in chat.calls[0].text


def test_many_failures_are_sorted_in_batches_and_their_names_merged() -> None:
    one = next(iter(_failures({"two cups": "no"}, {}).values()))

    def answer(asked: Asked) -> Any:
        if "old name" in asked.system:
            return {"names": [{"old": "too few", "new": "wrong number"}]}
        items = asked.data["items"]
        name = "wrong number" if asked.data["modes_so_far"] else "too few"
        return {"items": [{"number": item["number"], "mode": name} for item in items[:-1]]}

    chat = ScriptedChat(answer)
    clusters = asyncio.run(LLMClusterer(chat, batch=4).cluster([one] * 10))
    assert [len(call.data["items"]) for call in chat.calls[:-1]] == [4, 4, 2]
    assert set(clusters.names) == {"wrong number", "count: not met"}, "what is left out has a name"
    assert clusters.usage.usd == pytest.approx(0.004)


def test_a_proposer_that_fails_is_asked_again_and_then_given_up(tmp_path: Path) -> None:
    from lens_prompt_opt import Budget

    calls = []

    def refuse(asked: Asked) -> Any:
        calls.append(asked)
        return failure("off_schema")

    broken = study(proposer=LLMProposer(ScriptedChat(refuse)))
    # The default strategy gives up its search after three rounds without an edit.
    result = broken.optimize_sync(seed=seed_prompt(), budget=Budget(images=170))
    assert result.end == "no_improvement"
    assert len(calls) == 3
    assert any("off_schema" in note for note in result.history.notes)


def test_a_reasoner_is_given_the_prompt_or_refused() -> None:
    other = SystemPrompt.from_markdown(seed_prompt().to_markdown()).model_copy(update={"name": "o"})
    source = LLMReasoner(ScriptedChat(lambda asked: {}), seed_prompt())
    bound = bind(source, other)
    assert isinstance(bound, LLMReasoner)
    assert (bound.system_prompt.name, source.system_prompt.name) == ("o", "simulated")
    assert bind(lambda prompt: LLMReasoner(ScriptedChat(lambda asked: {}), prompt), other)
    with pytest.raises(StudyConfigError, match="int"):
        bind(3, other)  # type: ignore[arg-type]
