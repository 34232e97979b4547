"""Asking a model about a picture again, by decisions, and what tells judges apart."""

from dataclasses import dataclass, field

import pytest

from judged_picture import PICTURE, RUBRIC, by_name, numbered, one_call
from lens_reasoner import (
    ByDecisions,
    Criterion,
    Decision,
    DecisionReply,
    ExtraVotes,
    Judge,
    JudgeError,
    JudgeMode,
    LoopConfigError,
    OneCall,
    PerCriterion,
    Rubric,
    RubricJudge,
    Usage,
)
from scripted_chat import SPENT, ScriptedChat, failure

# Extra votes


async def test_only_what_is_uncertain_is_voted_on_again() -> None:
    rounds = {
        "Question 1?": iter([("cannot_tell", 0.5), ("yes", 0.9), ("yes", 0.7)]),
        "Question 3?": iter([("yes", 0.6), ("no", 0.3), ("no", 0.3)]),
        "Question 4?": iter([("no", 0.45), ("yes", 0.6), ("cannot_tell", 0.5)]),
    }

    def decide(question: str) -> dict:
        answer, p = next(rounds[question]) if question in rounds else ("yes", 0.95)
        return {"answer": answer, "probability": p}

    chat = one_call(decide)
    verdict = await RubricJudge(mode=ExtraVotes.of(chat)).judge(PICTURE, RUBRIC)
    assert [len(numbered(call)) for call in chat.calls] == [5, 3, 3]
    assert [call.temperature for call in chat.calls] == [0.0, 0.7, 0.7]
    found = by_name(verdict)
    assert (found["c0"].agreement, found["c0"].votes) == (None, ())
    assert found["c1"].answer == "yes"
    assert found["c1"].agreement == pytest.approx(2 / 3)
    assert found["c1"].probability == pytest.approx(0.7)
    assert [v.answer for v in found["c1"].votes] == ["cannot_tell", "yes", "yes"]
    assert (found["c3"].answer, found["c3"].agreement) == ("no", pytest.approx(2 / 3))
    assert (found["c4"].answer, found["c4"].agreement) == ("cannot_tell", pytest.approx(1 / 3))
    assert "split" not in found["c4"].evidence  # somebody could not tell, and says why
    assert verdict.usage == Usage.total([SPENT] * 3)


async def test_a_tie_is_undecided_and_tells_both_sides() -> None:
    votes = iter([("yes", 0.55), ("no", 0.45)])
    chat = one_call(lambda q: dict(zip(("answer", "probability"), next(votes), strict=True)))
    only = Rubric(request="r", criteria=RUBRIC.criteria[:1])
    verdict = await RubricJudge(mode=ExtraVotes.of(chat, votes=1)).judge(PICTURE, only)
    (answer,) = verdict.verdicts
    assert (answer.answer, answer.agreement) == ("cannot_tell", 0)
    assert "split" in answer.evidence


async def test_votes_differ_in_their_order() -> None:
    chat = one_call(lambda q: {"answer": "cannot_tell", "probability": 0.5})
    await RubricJudge(mode=ExtraVotes.of(chat, votes=4)).judge(PICTURE, RUBRIC)
    assert len({call.text for call in chat.calls}) == 5


async def test_certain_answers_cost_one_call_and_failed_votes_are_left_out() -> None:
    sure = one_call(lambda q: {"answer": "no", "probability": 0.01})
    verdict = await RubricJudge(mode=ExtraVotes.of(sure)).judge(PICTURE, RUBRIC)
    assert (len(sure.calls), verdict.usage) == (1, SPENT)
    first = OneCall(one_call(lambda q: {"answer": "cannot_tell"}))
    broken = OneCall(ScriptedChat(lambda _: failure()))
    verdict = await RubricJudge(mode=ExtraVotes(first, broken)).judge(PICTURE, RUBRIC)
    assert {v.answer for v in verdict.verdicts} == {"cannot_tell"}
    assert all(v.agreement is None for v in verdict.verdicts)
    assert verdict.usage == Usage.total([SPENT] * 3)


# Decisions


@dataclass
class Decider:
    """Gives probabilities by question."""

    chances: dict[str, float | None]
    model: str = "decider"
    calls: list = field(default_factory=list)

    async def decide(self, messages, questions) -> DecisionReply:
        self.calls.append((messages, questions))
        return DecisionReply(
            decisions=tuple(
                Decision(
                    name=q.name,
                    probability=self.chances.get(q.instructions, 0.9),
                    refusal="" if self.chances.get(q.instructions, 0.9) is not None else "will not",
                )
                for q in questions
            ),
            usage=SPENT,
            model="decider-1",
            seconds=0.1,
        )


async def test_decisions_become_verdicts() -> None:
    chances = {"Question 0?": 0.2, "Question 1?": None, "Question 2?": 0.51}
    decider = Decider(chances)
    verdict = await RubricJudge(mode=ByDecisions(decider)).judge(PICTURE, RUBRIC)
    assert [v.answer for v in verdict.verdicts] == [
        "no",
        "cannot_tell",
        "cannot_tell",
        "yes",
        "yes",
    ]
    assert [v.probability for v in verdict.verdicts] == [0.2, None, 0.51, 0.9, 0.9]
    assert "will not" in verdict.verdicts[1].evidence
    assert (verdict.judge, verdict.usage) == ("decider-1", SPENT)
    ((messages, questions),) = decider.calls
    assert messages[0].parts[1].data == PICTURE.data
    assert len({q.name for q in questions}) == 5


async def test_decisions_over_the_limit_of_a_call_take_two() -> None:
    many = tuple(Criterion(name=f"c{i}", kind="object", question=f"Q{i}?") for i in range(401))
    decider = Decider({"Q17?": 0.0})
    mode = ByDecisions(decider)
    verdict = await RubricJudge(mode=mode).judge(PICTURE, Rubric(request="r", criteria=many))
    assert [len(questions) for _, questions in decider.calls] == [400, 1]
    assert [v.criterion for v in verdict.verdicts if v.answer == "no"] == ["c17"]
    assert mode.calls(401) == 2


async def test_a_decider_that_fails_or_mixes_up_gives_no_verdict() -> None:
    class Broken(Decider):
        async def decide(self, messages, questions) -> DecisionReply:
            raise failure("quota")

    class Mixed(Decider):
        async def decide(self, messages, questions) -> DecisionReply:
            return await super().decide(messages, questions[::-1])

    for decider in (Broken({}), Mixed({})):
        with pytest.raises(JudgeError) as caught:
            await RubricJudge(mode=ByDecisions(decider)).judge(PICTURE, RUBRIC)
        assert caught.value.usage == SPENT


# What a judge is


def test_fingerprints_tell_judges_apart() -> None:
    chat = ScriptedChat(lambda _: {})
    judges = [
        RubricJudge(chat),
        RubricJudge(chat, detail="low"),
        RubricJudge(chat, max_side=512),
        RubricJudge(chat, seed=1),
        RubricJudge(mode=OneCall(chat, temperature=None)),
        RubricJudge(mode=OneCall(chat, probability=True)),
        RubricJudge(mode=PerCriterion(chat)),
        RubricJudge(mode=ExtraVotes.of(chat)),
        RubricJudge(mode=ByDecisions(Decider({}, model="scripted"))),
    ]
    assert len({judge.fingerprint for judge in judges}) == len(judges)
    assert RubricJudge(chat).fingerprint == judges[0].fingerprint
    assert all(isinstance(judge, Judge) for judge in judges)
    assert {judge.name for judge in judges} == {"scripted"}


def test_modes_fit_the_protocol_and_settings_are_checked() -> None:
    chat = ScriptedChat(lambda _: {})
    modes = (OneCall(chat), PerCriterion(chat), ExtraVotes.of(chat), ByDecisions(Decider({})))
    assert all(isinstance(mode, JudgeMode) for mode in modes)
    with pytest.raises(LoopConfigError, match="Both"):
        RubricJudge(chat, mode=modes[0])
    with pytest.raises(LoopConfigError, match="max_side=0"):
        RubricJudge(chat, max_side=0)
