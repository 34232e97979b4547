"""Asking a model about a picture: all criteria in one call, or one by one."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judged_picture import PICTURE, RUBRIC, by_name, numbered, one_call, picture
from lens_reasoner import (
    Cache,
    ChatError,
    Criterion,
    CriterionVerdict,
    ExtraVotes,
    JudgeError,
    OneCall,
    PerCriterion,
    Rubric,
    RubricJudge,
    Usage,
    Verdict,
    run_sync,
)
from lens_reasoner.cached_parts import CachedJudge
from scripted_chat import SPENT, ScriptedChat, failure

# One call


async def test_the_order_depends_on_seed_and_picture_alone() -> None:
    chat = one_call(lambda q: {"answer": "yes"})

    async def order(seed: int, picture=PICTURE) -> list[str]:
        await RubricJudge(chat, seed=seed).judge(picture, RUBRIC)
        return list(numbered(chat.calls[-1]).values())

    orders = [await order(seed) for seed in range(12)]
    assert await order(5) == orders[5]
    assert all(sorted(o) == sorted(orders[0]) for o in orders)
    assert len({tuple(o) for o in orders}) > 6
    assert {(await order(0, picture(color=c)))[0] for c in ("red", "blue", "green", "white")} > {
        orders[0][0]
    }
    # Over many seeds every criterion comes first about equally often.
    firsts = [(await order(seed))[0] for seed in range(200)]
    assert all(20 <= firsts.count(c.question) <= 60 for c in RUBRIC.criteria)


async def test_a_question_cannot_pose_as_two() -> None:
    chat = one_call(lambda q: {"answer": "no"})
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
    order = list(numbered(chat.calls[0]).values())
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

    judge = RubricJudge(mode=OneCall(one_call(decide), probability=True))
    verdict = await judge.judge(PICTURE, RUBRIC)
    assert [v.probability for v in verdict.verdicts] == [0.9, 0.2, 0.5, 1.0, 1.0]
    assert verdict.expected_score == pytest.approx((0.9 + 2 * 0.2 + 3 * 0.5 + 4 + 5) / 15)
    assert verdict.score == pytest.approx((1 + 4 + 5) / 12)


def test_a_probability_outside_its_range_is_off_schema() -> None:
    chat = one_call(lambda q: {"answer": "yes", "probability": 1.2})
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
    found = by_name(verdict)
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
