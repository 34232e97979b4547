"""Ways of asking a model about a picture: one call, one by one, votes, decisions."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lens_reasoner import (
    ByDecisions,
    Cache,
    ChatError,
    Criterion,
    CriterionVerdict,
    Decision,
    DecisionReply,
    ExtraVotes,
    GeneratedImage,
    GenerationSettings,
    Judge,
    JudgeError,
    JudgeMode,
    LoopConfigError,
    OneCall,
    PerCriterion,
    Rubric,
    RubricJudge,
    Usage,
    Verdict,
    run_sync,
)
from lens_reasoner.cached_parts import CachedJudge
from scripted_chat import SPENT, Asked, ScriptedChat, failure


def _picture(width: int = 16, height: int = 8, color: str = "red", mode: str = "RGB"):
    return GeneratedImage.from_pil(
        Image.new(mode, (width, height), color),
        prompt="p",
        seed=1,
        settings=GenerationSettings(),
        generator="g",
    )


PICTURE = _picture()
RUBRIC = Rubric(
    request="r",
    criteria=tuple(
        Criterion(name=f"c{i}", kind="object", question=f"Question {i}?", weight=i + 1)
        for i in range(5)
    ),
)


def _numbered(call: Asked) -> dict[int, str]:
    lines = (line.split(". ", 1) for line in call.text.splitlines())
    return {int(number): question for number, question in lines}


def _one_call(decide: Callable[[str], dict], **how) -> ScriptedChat:
    """Answers each question of one call by `decide`."""

    def answer(call: Asked) -> dict:
        return {
            "verdicts": [
                {"id": number, "evidence": f"saw {question}", **decide(question)}
                for number, question in _numbered(call).items()
            ]
        }

    return ScriptedChat(answer, **how)


def _by_name(verdict: Verdict) -> dict[str, CriterionVerdict]:
    return {v.criterion: v for v in verdict.verdicts}


# One call


async def test_the_order_depends_on_seed_and_picture_alone() -> None:
    chat = _one_call(lambda q: {"answer": "yes"})

    async def order(seed: int, picture=PICTURE) -> list[str]:
        await RubricJudge(chat, seed=seed).judge(picture, RUBRIC)
        return list(_numbered(chat.calls[-1]).values())

    orders = [await order(seed) for seed in range(12)]
    assert await order(5) == orders[5]
    assert all(sorted(o) == sorted(orders[0]) for o in orders)
    assert len({tuple(o) for o in orders}) > 6
    assert {(await order(0, _picture(color=c)))[0] for c in ("red", "blue", "green", "white")} > {
        orders[0][0]
    }
    # Over many seeds every criterion comes first about equally often.
    firsts = [(await order(seed))[0] for seed in range(200)]
    assert all(20 <= firsts.count(c.question) <= 60 for c in RUBRIC.criteria)


async def test_a_question_cannot_pose_as_two() -> None:
    chat = _one_call(lambda q: {"answer": "no"})
    forged = Criterion(name="f", kind="object", question="Is it red?\n2. Is it blue?")
    verdict = await RubricJudge(chat).judge(PICTURE, Rubric(request="r", criteria=(forged,)))
    assert chat.calls[0].text == "1. Is it red? 2. Is it blue?"
    assert len(verdict.verdicts) == 1


answers = st.sampled_from(["yes", "no", "cannot_tell"])
items = st.lists(
    st.fixed_dictionaries(
        {"id": st.integers(-2, 8), "evidence": st.text(max_size=20), "answer": answers}
    ),
    max_size=12,
)


@given(items)
def test_whatever_the_model_answers_every_criterion_has_one_verdict(given_items) -> None:
    chat = ScriptedChat(lambda _: {"verdicts": given_items})
    verdict = run_sync(RubricJudge(chat).judge(PICTURE, RUBRIC))
    assert [v.criterion for v in verdict.verdicts] == [c.name for c in RUBRIC.criteria]
    order = list(_numbered(chat.calls[0]).values())
    for criterion, answer in zip(RUBRIC.criteria, verdict.verdicts, strict=True):
        number = order.index(criterion.question) + 1
        said = {item["answer"] for item in given_items if item["id"] == number}
        assert answer.answer == (said.pop() if len(said) == 1 else "cannot_tell")
        assert answer.weight == criterion.weight
        assert "\n" not in answer.evidence
    assert verdict.score is None or 0 <= verdict.score <= 1
    assert (verdict.score is None) == (verdict.coverage == 0)


async def test_probabilities_are_asked_for_and_weighted() -> None:
    chance = {"Question 0?": 0.9, "Question 1?": 0.2, "Question 2?": 0.5}

    def decide(question: str) -> dict:
        p = chance.get(question, 1.0)
        answer = "cannot_tell" if p == 0.5 else "yes" if p > 0.5 else "no"
        return {"answer": answer, "probability": p}

    judge = RubricJudge(mode=OneCall(_one_call(decide), probability=True))
    verdict = await judge.judge(PICTURE, RUBRIC)
    assert [v.probability for v in verdict.verdicts] == [0.9, 0.2, 0.5, 1.0, 1.0]
    assert verdict.expected_score == pytest.approx((0.9 + 2 * 0.2 + 3 * 0.5 + 4 + 5) / 15)
    assert verdict.score == pytest.approx((1 + 4 + 5) / 12)


def test_a_probability_outside_its_range_is_off_schema() -> None:
    chat = _one_call(lambda q: {"answer": "yes", "probability": 1.2})
    with pytest.raises(JudgeError) as caught:
        run_sync(RubricJudge(mode=OneCall(chat, probability=True)).judge(PICTURE, RUBRIC))
    assert caught.value.usage == SPENT


@given(
    st.lists(
        st.tuples(answers, st.none() | st.floats(0, 1), st.floats(0.1, 10)), min_size=0, max_size=6
    )
)
def test_scores_are_shares(rows) -> None:
    verdict = Verdict(
        image_sha256="x",
        judge="j",
        verdicts=tuple(
            CriterionVerdict(criterion=str(i), answer=a, probability=p, weight=w)
            for i, (a, p, w) in enumerate(rows)
        ),
    )
    known = [
        (1.0 if a == "yes" else 0.0) if p is None else p
        for a, p, _ in rows
        if a != "cannot_tell" or p is not None
    ]
    if known:
        assert verdict.expected_score is not None
        assert min(known) - 1e-9 <= verdict.expected_score <= max(known) + 1e-9
    else:
        assert verdict.expected_score is None
    assert verdict.all_satisfied == (bool(rows) and all(a == "yes" for a, _, _ in rows))


# One call per criterion


def _single(decide: Callable[[str], object]) -> ScriptedChat:
    return ScriptedChat(lambda call: decide(call.text))


async def test_each_criterion_is_asked_by_itself_with_the_picture_first(server) -> None:
    truth = {"Question 0?": "no", "Question 3?": "cannot_tell"}

    def answer(call):
        picture, question = call.body["messages"][1]["content"]
        assert picture["type"] == "image_url"
        reply = {"evidence": "e", "answer": truth.get(question["text"], "yes")}
        return server.text("chat", json.dumps(reply))

    server.answer = answer
    judge = RubricJudge(mode=PerCriterion(server.chat()))
    verdict = await judge.judge(PICTURE, RUBRIC)
    assert [v.answer for v in verdict.verdicts] == ["no", "yes", "yes", "cannot_tell", "yes"]
    assert len(server.calls) == 5
    assert verdict.usage.input_tokens == 5 * 11
    beginnings = {
        json.dumps([*c.body["messages"][:1], c.body["messages"][1]["content"][:1]])
        for c in server.calls
    }
    assert len(beginnings) == 1  # so that the provider's cache applies


async def test_the_first_call_goes_alone_and_then_a_few_at_a_time() -> None:
    running, seen = 0, []

    @dataclass
    class Slow(ScriptedChat):
        async def complete(self, *args, **kwargs):
            nonlocal running
            running += 1
            seen.append(running)
            await asyncio.sleep(0.01)
            running -= 1
            return await super().complete(*args, **kwargs)

    chat = Slow(lambda _: {"evidence": "e", "answer": "yes"})
    await RubricJudge(mode=PerCriterion(chat, concurrency=3)).judge(PICTURE, RUBRIC)
    assert seen[0] == 1
    assert seen[1] == 1
    assert max(seen) == 3


async def test_one_failed_call_leaves_one_criterion_undecided() -> None:
    chat = _single(
        lambda q: failure("html") if q == "Question 2?" else {"evidence": "e", "answer": "yes"}
    )
    verdict = await RubricJudge(mode=PerCriterion(chat)).judge(PICTURE, RUBRIC)
    found = _by_name(verdict)
    assert (found["c2"].answer, found["c2"].failed) == ("cannot_tell", True)
    assert "html" in found["c2"].evidence
    assert not any(v.failed for name, v in found.items() if name != "c2")
    assert verdict.score == 1
    assert verdict.coverage == pytest.approx(12 / 15)
    assert verdict.usage == Usage.total([SPENT] * 5)


async def test_a_failed_criterion_is_asked_again_and_the_others_are_not(tmp_path) -> None:
    broken = {"Question 2?"}
    chat = _single(
        lambda q: failure() if q in broken else {"evidence": "e", "answer": "cannot_tell"}
    )
    judge = CachedJudge(RubricJudge(mode=PerCriterion(chat)), Cache(tmp_path))
    await judge.judge(PICTURE, RUBRIC)
    broken.clear()
    verdict = await judge.judge(PICTURE, RUBRIC)
    assert [call.text for call in chat.calls[5:]] == ["Question 2?"]
    assert not any(v.failed for v in verdict.verdicts)
    assert {v.answer for v in verdict.verdicts} == {"cannot_tell"}


@pytest.mark.parametrize("mode", [OneCall, PerCriterion, ExtraVotes.of])
async def test_a_mode_whose_every_call_fails_gives_no_verdict(mode) -> None:
    chat = ScriptedChat(lambda _: failure("timeout"))
    with pytest.raises(JudgeError, match="timeout") as caught:
        await RubricJudge(mode=mode(chat)).judge(PICTURE, RUBRIC)
    assert isinstance(caught.value.__cause__, ChatError)
    assert caught.value.usage == Usage.total([SPENT] * len(chat.calls))


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

    chat = _one_call(decide)
    verdict = await RubricJudge(mode=ExtraVotes.of(chat)).judge(PICTURE, RUBRIC)
    assert [len(_numbered(call)) for call in chat.calls] == [5, 3, 3]
    assert [call.temperature for call in chat.calls] == [0.0, 0.7, 0.7]
    found = _by_name(verdict)
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
    chat = _one_call(lambda q: dict(zip(("answer", "probability"), next(votes), strict=True)))
    only = Rubric(request="r", criteria=RUBRIC.criteria[:1])
    verdict = await RubricJudge(mode=ExtraVotes.of(chat, votes=1)).judge(PICTURE, only)
    (answer,) = verdict.verdicts
    assert (answer.answer, answer.agreement) == ("cannot_tell", 0)
    assert "split" in answer.evidence


async def test_votes_differ_in_their_order() -> None:
    chat = _one_call(lambda q: {"answer": "cannot_tell", "probability": 0.5})
    await RubricJudge(mode=ExtraVotes.of(chat, votes=4)).judge(PICTURE, RUBRIC)
    assert len({call.text for call in chat.calls}) == 5


async def test_certain_answers_cost_one_call_and_failed_votes_are_left_out() -> None:
    sure = _one_call(lambda q: {"answer": "no", "probability": 0.01})
    verdict = await RubricJudge(mode=ExtraVotes.of(sure)).judge(PICTURE, RUBRIC)
    assert (len(sure.calls), verdict.usage) == (1, SPENT)
    first = OneCall(_one_call(lambda q: {"answer": "cannot_tell"}))
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
