"""The whole loop: real LLM parts over loopback, drawing by a function."""

import asyncio
import json

import pytest
from PIL import Image
from pydantic import ValidationError

from lens_reasoner import (
    AgentLoop,
    ChatError,
    Finished,
    FunctionGenerator,
    ImageReady,
    ImageRequest,
    LLMReasoner,
    LLMRubricWriter,
    LoopConfigError,
    LoopLimits,
    RewriteDone,
    RubricJudge,
    Started,
    UnsupportedSettingError,
    Usage,
    fold_events,
    run_sync,
)
from redness import PROMPT, REQUEST, RUBRIC, RednessJudge, paint


def _llm(server, refuse: bool = False):
    """Serves rewriting, rubric and judging by the schema that is asked for."""

    def answer(call):
        properties = call.body["response_format"]["json_schema"]["schema"]["properties"]
        if "decision" in properties:
            reply = {
                "decision": "refuse" if refuse else "rewrite",
                "prompt": "" if refuse else PROMPT,
                "reason": "No." if refuse else "",
                "category": "hate" if refuse else "none",
            }
        elif "criteria" in properties:
            item = {"name": "red", "kind": "color", "question": "Is it red?", "source": "red"}
            reply = {"criteria": [item]}
        else:
            questions = call.body["messages"][1]["content"][0]["text"].splitlines()
            reply = {
                "verdicts": [
                    {"id": i + 1, "evidence": "seen", "answer": "yes"}
                    for i in range(len(questions))
                ]
            }
        return server.text("chat", json.dumps(reply))

    server.answer = answer
    return server.chat()


async def test_from_request_to_best_picture_over_the_wire(server, secret) -> None:
    chat = _llm(server)
    loop = AgentLoop(
        generator=FunctionGenerator(paint),
        reasoner=LLMReasoner(chat),
        judge=RubricJudge(chat),
        rubric_writer=LLMRubricWriter(chat),
    )
    events = [event async for event in loop.stream(REQUEST)]
    kinds = [type(event).__name__ for event in events]
    drawing = [kind for kind in kinds if kind not in {"RubricDone", "Judged"}]
    assert drawing == [
        *["Started", "RewriteDone", "Step", "ImageReady", "Step", "ImageReady", "Finished"]
    ]
    # Judged as soon as picture and rubric are there, whatever is being drawn meanwhile.
    assert kinds.count("Judged") == 2
    assert kinds.index("Judged") > max(kinds.index("RubricDone"), kinds.index("ImageReady"))
    result = fold_events(events)
    assert result.rewrite.prompt == PROMPT
    assert [c.image.prompt for c in result.candidates] == [PROMPT, PROMPT]
    assert [c.image.seed for c in result.candidates] == [40, 41]
    assert [c.verdict.all_satisfied for c in result.candidates] == [True, True]
    assert result.best_index == 0
    assert result.stop_reason == "target_reached"
    assert len(server.calls) == 4
    assert result.usage.input_tokens == 4 * 11
    assert result.usage.usd is None
    assert {"rewrite", "rubric", "generate", "judge", "total"} == set(result.timings)
    assert result.timings["total"] >= result.timings["generate"] > 0
    assert secret not in result.model_dump_json()


async def test_run_gives_what_the_stream_tells() -> None:
    loop = AgentLoop(generator=FunctionGenerator(paint), judge=RednessJudge(41))
    result = await loop.run(REQUEST, rubric=RUBRIC)
    folded = fold_events([event async for event in loop.stream(REQUEST, rubric=RUBRIC)])
    assert result.candidates[1].verdict == folded.candidates[1].verdict
    assert [c.score for c in result.candidates] == [0.5, 1.0]
    assert result.best.image.seed == 41
    assert result.rewrite is None
    assert result.rubric == RUBRIC
    assert result.usage == Usage.zero()


async def test_rounds_go_on_with_new_seeds_until_the_target() -> None:
    loop = AgentLoop(
        generator=FunctionGenerator(paint), judge=RednessJudge(44), limits=LoopLimits(max_rounds=5)
    )
    result = await loop.run(REQUEST, rubric=RUBRIC)
    assert [(c.round, c.image.seed) for c in result.candidates] == [
        *[(0, 40), (0, 41), (1, 42), (1, 43), (2, 44), (2, 45)]
    ]
    assert result.best.image.seed == 44
    assert result.stop_reason == "target_reached"
    never = AgentLoop(
        generator=FunctionGenerator(paint), judge=RednessJudge(99), limits=LoopLimits(max_rounds=2)
    )
    result = await never.run(REQUEST, rubric=RUBRIC)
    assert len(result.candidates) == 4
    assert (result.stop_reason, result.best_index) == ("max_rounds", 0)
    easy = AgentLoop(
        generator=FunctionGenerator(paint),
        judge=RednessJudge(99),
        limits=LoopLimits(max_rounds=5, target_score=0.5),
    )
    assert len((await easy.run(REQUEST, rubric=RUBRIC)).candidates) == 2


async def test_a_refusal_draws_nothing(server) -> None:
    chat = _llm(server, refuse=True)
    loop = AgentLoop(
        generator=FunctionGenerator(paint),
        reasoner=LLMReasoner(chat),
        judge=RubricJudge(chat),
        rubric_writer=LLMRubricWriter(chat),
    )
    result = await loop.run(REQUEST)
    assert result.stop_reason == "refused"
    assert (result.refused.category, result.refused.reason) == ("hate", "No.")
    assert (result.candidates, result.best) == ((), None)
    assert len(server.calls) == 1


async def test_without_reasoner_and_judge_the_words_are_drawn_once() -> None:
    result = await AgentLoop(
        generator=FunctionGenerator(paint), limits=LoopLimits(max_rounds=3)
    ).run(REQUEST)
    assert len(result.candidates) == 2
    assert result.best.image.prompt == REQUEST.text
    assert result.best.score is None
    assert (result.stop_reason, result.rubric) == ("unjudged", None)


async def test_a_failing_judge_is_a_missing_score_and_loses_no_picture() -> None:
    loop = AgentLoop(
        generator=FunctionGenerator(paint),
        judge=RednessJudge(99, broken=(40,)),
        limits=LoopLimits(max_rounds=1),
    )
    result = await loop.run(REQUEST, rubric=RUBRIC)
    first, second = result.candidates
    assert (first.score, first.verdict) == (None, None)
    assert (first.failure.error, first.failure.message) == ("JudgeError", "blind to 40")
    assert second.score == 0.5
    assert result.best_index == 1
    assert result.usage == Usage.zero()


async def test_a_judge_outage_is_recorded_and_ends_the_rounds(server) -> None:
    server.answer = lambda _: server.error(503, "overloaded")
    loop = AgentLoop(
        generator=FunctionGenerator(paint),
        judge=RubricJudge(server.chat()),
        limits=LoopLimits(max_rounds=4),
    )
    result = await loop.run(REQUEST, rubric=RUBRIC)
    assert len(result.candidates) == 2
    assert result.stop_reason == "unjudged"
    assert result.best.image.seed == 40
    assert all("503" in c.failure.message and c.failure.hint for c in result.candidates)
    # What failed calls cost is unknown, so the sum is.
    assert result.usage == Usage()


async def test_a_rubric_that_cannot_be_written_leaves_pictures_unjudged(server) -> None:
    server.answer = lambda _: server.text("chat", "no rubric")
    loop = AgentLoop(
        generator=FunctionGenerator(paint),
        judge=RednessJudge(0),
        rubric_writer=LLMRubricWriter(server.chat()),
        limits=LoopLimits(max_rounds=3),
    )
    result = await loop.run(REQUEST)
    assert len(result.candidates) == 2
    assert result.stop_reason == "unjudged"
    assert [(f.stage, f.error) for f in result.failures] == [("rubric", "JudgeError")]
    assert result.usage.output_tokens == 7 * len(server.calls)


async def test_a_failing_reasoner_ends_the_run_before_anything_is_drawn(server) -> None:
    server.answer = lambda _: server.raw(b"<html>", "text/html")
    drawn = []
    loop = AgentLoop(
        generator=FunctionGenerator(lambda p, s: drawn.append(s)),
        reasoner=LLMReasoner(server.chat()),
    )
    with pytest.raises(ChatError):
        await loop.run(REQUEST)
    assert not drawn


async def test_what_cannot_be_drawn_is_told_before_anything_is_paid_for(server) -> None:
    loop = AgentLoop(generator=FunctionGenerator(paint), reasoner=LLMReasoner(_llm(server)))
    with pytest.raises(UnsupportedSettingError, match="num_inference_steps"):
        await loop.run(ImageRequest(text="a", num_inference_steps=3))
    assert not server.calls


@pytest.mark.parametrize(
    "limits",
    [
        {"max_rounds": 0},
        {"target_score": 1.5},
        {"max_images": 0},
        {"max_usd": 0},
        {"deadline": 0},
        {"deadline": float("nan")},
        {"budget": 1},
    ],
)
def test_limits_are_checked(limits) -> None:
    with pytest.raises(ValidationError, match=next(iter(limits))):
        LoopLimits(**limits)


async def test_criteria_need_a_source() -> None:
    loop = AgentLoop(generator=FunctionGenerator(paint), judge=RednessJudge(0))
    with pytest.raises(LoopConfigError, match="no criteria"):
        await loop.run(REQUEST)


async def test_an_unseeded_request_gets_a_recorded_seed() -> None:
    loop = AgentLoop(generator=FunctionGenerator(lambda p, s: Image.new("L", (2, 2))))
    events = [event async for event in loop.stream("a cup")]
    assert isinstance(events[0], Started)
    (ready,) = [e for e in events if isinstance(e, ImageReady)]
    assert ready.image.seed == events[0].seed
    other = [event async for event in loop.stream("a cup")]
    assert other[0].seed != events[0].seed


async def test_seeds_past_the_largest_begin_again() -> None:
    loop = AgentLoop(generator=FunctionGenerator(lambda p, s: Image.new("L", (2, 2))))
    request = ImageRequest(text="a", seed=2**53 - 1, num_images=2)
    result = await loop.run(request)
    assert [c.image.seed for c in result.candidates] == [2**53 - 1, 0]


def test_plain_code_can_run_it_many_times(server) -> None:
    loop = AgentLoop(generator=FunctionGenerator(paint), reasoner=LLMReasoner(_llm(server)))
    for _ in range(2):
        assert loop.run_sync(REQUEST).rewrite.prompt == PROMPT


async def test_a_notebook_can_run_it_inside_its_own_loop() -> None:
    result = AgentLoop(generator=FunctionGenerator(paint)).run_sync(REQUEST)
    assert len(result.candidates) == 2


def test_run_sync_hands_on_errors_and_refuses_to_wait_for_itself() -> None:
    async def fail() -> None:
        raise KeyError("x")

    async def nested() -> None:
        run_sync(asyncio.sleep(0))

    with pytest.raises(KeyError):
        run_sync(fail())
    with pytest.raises(RuntimeError, match="await"):
        run_sync(nested())


async def test_types_of_the_last_and_first_events() -> None:
    events = [e async for e in AgentLoop(generator=FunctionGenerator(paint)).stream(REQUEST)]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert not any(isinstance(e, RewriteDone) for e in events)
    assert events[-1].best == 0


def test_a_request_is_given_as_words_and_options() -> None:
    """It was a TypeError that said nothing of what to do instead."""
    loop = AgentLoop(generator=FunctionGenerator(paint))
    result = loop.run_sync("a red square", seed=7, num_images=2)
    assert result.request == ImageRequest(text="a red square", seed=7, num_images=2)
    assert [c.image.seed for c in result.candidates] == [7, 8]
    with pytest.raises(ValidationError, match=r"Did you mean num_inference_steps\?"):
        loop.run_sync("a red square", steps=3)
