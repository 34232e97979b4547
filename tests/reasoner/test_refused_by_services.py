"""Pictures that an image service refuses or takes out of its answers, in the loop."""

import pytest

from image_answers import image_server, picture_bytes, pictures_reply
from lens_reasoner import (
    AgentLoop,
    GenerationRefusedError,
    LoopLimits,
)
from lens_reasoner.record import EVENTS
from redness import REQUEST, RUBRIC, RednessJudge


async def test_a_refused_picture_takes_no_other_away(server, tmp_path) -> None:
    """One refusal ended the drawing of the round, and of all rounds after it."""

    def answer(call):
        if call.body["seed"] == 1:
            return server.error(400, "safety system", code="moderation_blocked")
        return pictures_reply(server, picture_bytes(size=(8, 8)), usage=None)

    server.answer = answer
    loop = AgentLoop(
        generator=image_server(server, "vllm-omni"),
        judge=RednessJudge(300),
        limits=LoopLimits(max_rounds=2),
    )
    request = REQUEST.model_copy(update={"seed": 0, "num_images": 3})
    result = await loop.run(request, rubric=RUBRIC, record=tmp_path)
    assert [c.image.seed for c in result.candidates] == [0, 2, 3, 4, 5]
    assert all(c.verdict is not None for c in result.candidates)
    assert result.stop_reason == "max_rounds"
    assert [f.error for f in result.failures] == ["GenerationRefusedError"]

    # Killed after the first round was judged: nothing of it is asked for again.
    lines = (tmp_path / EVENTS).read_bytes().splitlines(keepends=True)
    second = next(n for n, line in enumerate(lines) if b'"image_ready", "round": 1' in line)
    (tmp_path / EVENTS).write_bytes(b"".join(lines[:second]))
    assert [c.image.seed for c in (await loop.resume(tmp_path)).candidates] == [0, 2, 3, 4, 5]
    assert [call.body["seed"] for call in server.calls] == [0, 1, 2, 3, 4, 5, 3, 4, 5]


async def test_a_round_that_is_refused_ends_the_run(server) -> None:
    def answer(call):
        if call.body["seed"] > 1:
            return server.error(400, "safety system", code="moderation_blocked")
        return pictures_reply(server, picture_bytes(size=(8, 8)), usage=None)

    server.answer = answer
    loop = AgentLoop(
        generator=image_server(server, "vllm-omni"),
        judge=RednessJudge(300),
        limits=LoopLimits(max_rounds=9),
    )
    result = await loop.run(REQUEST.model_copy(update={"seed": 0}), rubric=RUBRIC)
    assert [c.image.seed for c in result.candidates] == [0, 1]
    assert result.stop_reason == "generator_failed"
    assert len(server.calls) == 4
    with pytest.raises(GenerationRefusedError, match="safety system"):
        await loop.run(REQUEST.model_copy(update={"seed": 7}), rubric=RUBRIC)


async def test_pictures_that_moderation_took_out_of_an_answer_are_done_without(
    server, caplog
) -> None:
    taken = {"b64_json": "", "respect_moderation": False}
    server.answer = lambda call: pictures_reply(
        server, picture_bytes(size=(8, 8)), taken, usage=None
    )
    loop = AgentLoop(
        generator=image_server(server, "plain"),
        judge=RednessJudge(300),
        limits=LoopLimits(max_rounds=2),
    )
    result = await loop.run(REQUEST.model_copy(update={"seed": None}), rubric=RUBRIC)
    assert [c.score for c in result.candidates] == [0.5, 0.5]
    assert result.stop_reason == "max_rounds"
    assert ["returned 1 images for 2" in f.message for f in result.failures] == [True, True]
    assert "moderation" in result.failures[0].hint
    assert "left out: The server's moderation removed it." in caplog.text
