"""Runs on disk: what is written, and that killed runs go on without paying twice."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lens_reasoner import (
    AgentLoop,
    FunctionGenerator,
    ImageReady,
    ImageRequest,
    LoopLimits,
    LoopResult,
    RunRecord,
    RunRecordError,
    RunStore,
    fold_events,
)
from lens_reasoner.record import EVENTS
from redness import RUBRIC as RED
from redness import RednessJudge
from redness import paint as paint_red
from served_world import PAID, REQUEST, answer, served_loop
from word_world import RUBRIC, WordJudge, paint

TESTS = Path(__file__).parents[1]
CALLS = 1 + 1 + 3 + 6 + 6 + 2
"""Rewrite, rubric, three prompts checked, six pictures drawn and judged, two revisions."""


@pytest.fixture
def world(server):
    server.answer = lambda call: answer(server, call)
    return server


def _timeless(result: LoopResult) -> Any:
    """The result without how long things took."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in {"seconds", "timings"}}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return strip(result.model_dump(mode="json"))


def _killed(url: str, folder: Path, after: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, str(TESTS / "reasoner" / "killed_run.py"), url, str(folder)]
    done = subprocess.run([*command, str(after)], env=environment, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


def _paid(folder: Path) -> int:
    return sum(event.type in PAID for event in RunRecord(folder).events)


async def test_a_stopped_run_finishes_its_calls_and_goes_on_without_paying_again(
    world, tmp_path: Path
) -> None:
    whole = await served_loop(world.url).run(REQUEST)
    assert len(world.calls) == CALLS
    for last in range(1, CALLS):
        world.calls.clear()
        folder, loop, seen = tmp_path / str(last), served_loop(world.url), 0
        async for event in loop.stream(REQUEST, record=folder, stop=lambda: seen >= last):  # noqa: B023
            seen += event.type in PAID
        # At most the rubric, two pictures and what they lead to were under way.
        assert last <= seen <= last + 4
        assert len(world.calls) == _paid(folder) == seen
        assert RunRecord(folder).finished == (seen == CALLS)
        assert _timeless(await loop.resume(folder)) == _timeless(whole)
        assert len(world.calls) == CALLS


@pytest.mark.parametrize("away", ["sight", "words"])
async def test_a_judge_that_was_away_is_asked_when_the_run_goes_on(
    world, tmp_path: Path, away: str
) -> None:
    """The run was finished for good, and its pictures had to be paid for again to be judged."""
    whole = await served_loop(world.url).run(REQUEST)
    world.calls.clear()

    def asks(call) -> bool:
        schema = call.body.get("response_format", {}).get("json_schema", {}).get("schema", {})
        return away in schema.get("properties", {})

    def without_judge(call):
        return world.error(401, "no") if asks(call) else answer(world, call)

    world.answer = without_judge
    result = await served_loop(world.url).run(REQUEST, record=tmp_path)
    assert (result.stop_reason, len(result.candidates)) == ("unjudged", 2)
    assert RunRecord(tmp_path).result() == result
    known = len(world.calls)

    # Away still: the end is the same, and asking is all that is done.
    again = await served_loop(world.url).run(REQUEST, record=tmp_path)
    assert again.stop_reason == "unjudged"
    assert all(asks(call) for call in world.calls[known:])
    assert not RunRecord(tmp_path).state().failed[1:]

    world.answer = lambda call: answer(world, call)
    result = await served_loop(world.url).resume(tmp_path)
    assert RunRecord(tmp_path).result() == result
    spent = {"usage", "usage_by_stage"}  # what failed is unknown
    assert {k: v for k, v in _timeless(result).items() if k not in spent} == {
        k: v for k, v in _timeless(whole).items() if k not in spent
    }
    pictures = [call.raw for call in world.calls if call.path.endswith("/images/generations")]
    assert len(pictures) == len(set(pictures)) == 6
    known = len(world.calls)
    assert (await served_loop(world.url).resume(tmp_path)) == result
    assert len(world.calls) == known


async def test_a_judge_that_cannot_judge_a_request_is_not_asked_again(tmp_path: Path) -> None:
    loop = AgentLoop(generator=FunctionGenerator(paint_red), judge=RednessJudge(0, broken=(1,)))
    result = await loop.run("red", seed=1, rubric=RED, record=tmp_path)
    assert result.stop_reason == "unjudged"
    lines = (tmp_path / EVENTS).read_bytes()
    assert await loop.resume(tmp_path) == result
    assert (tmp_path / EVENTS).read_bytes() == lines


async def test_a_whole_run_is_on_disk(world, tmp_path: Path, secret: str) -> None:
    events = [e async for e in served_loop(world.url).stream(REQUEST, record=tmp_path / "run")]
    result = fold_events(events)
    assert (result.stop_reason, len(result.candidates), len(result.prompts)) == (
        *("target_reached", 6),
        3,
    )
    assert len(world.calls) == CALLS
    record = RunRecord(tmp_path / "run")
    assert record.finished
    assert record.result() == result
    assert record.events == [e for e in events if e.type != "step"]
    names = {path.stem: path for path in (tmp_path / "run" / "images").iterdir()}
    assert set(names) == {c.image.sha256 for c in result.candidates}
    assert all(names[c.image.sha256].read_bytes() == c.image.data for c in result.candidates)
    text = (tmp_path / "run" / "events.jsonl").read_text()
    assert json.loads(text.splitlines()[0])["schema_version"] == 1
    assert "sk-" not in text
    # Read again, it costs nothing.
    assert await served_loop(world.url).resume(tmp_path / "run") == result
    assert await served_loop(world.url).run(REQUEST, record=tmp_path / "run") == result
    assert len(world.calls) == CALLS


@pytest.mark.parametrize("after", [1, 4, 7, 13, 20, 24])
async def test_a_killed_run_goes_on_without_paying_twice(world, tmp_path: Path, after: int) -> None:
    whole = await served_loop(world.url).run(REQUEST, record=tmp_path / "whole")
    assert len(world.calls) == CALLS
    folder = tmp_path / "killed"
    _killed(world.url, folder, after)
    received = len(world.calls) - CALLS
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b'{"clock": {"total": 1.0}, "event": {"type": "jud')
    # A call without a result in the record was under way when the run was killed.
    in_flight = received - _paid(folder)
    assert 0 <= in_flight <= 4
    resumed = await served_loop(world.url).resume(folder)
    assert _timeless(resumed) == _timeless(whole)
    assert len(world.calls) - CALLS == CALLS + in_flight
    assert RunRecord(folder).result() == resumed
    kinds = Counter(event.type for event in RunRecord(folder).events)
    assert kinds == Counter(event.type for event in RunRecord(tmp_path / "whole").events)


@pytest.mark.parametrize("call", [1, 5, 9, 14])
async def test_a_call_in_flight_at_the_kill_is_the_only_one_repeated(
    world, tmp_path: Path, call: int
) -> None:
    """The server kills its client while it answers."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    script = str(TESTS / "reasoner" / "killed_run.py")
    child = subprocess.Popen(
        [sys.executable, script, world.url, str(tmp_path / "run"), "999"], env=environment
    )

    def answer_or_kill(received):
        if len(world.calls) >= call and child.poll() is None:
            child.kill()
            child.wait()
        return answer(world, received)

    world.answer = answer_or_kill
    assert child.wait(60) == -signal.SIGKILL
    in_flight = len(world.calls) - _paid(tmp_path / "run")
    assert in_flight >= 1
    result = await served_loop(world.url).resume(tmp_path / "run")
    assert (result.stop_reason, len(result.candidates)) == ("target_reached", 6)
    assert len(world.calls) == CALLS + in_flight


async def test_a_closed_run_keeps_what_is_there_and_goes_on(tmp_path: Path) -> None:
    drawn: list[int] = []

    def painter(prompt: str, seed: int):
        drawn.append(seed)
        return paint(prompt, seed)

    loop = AgentLoop(generator=FunctionGenerator(painter), judge=WordJudge())
    request = REQUEST.model_copy(update={"num_images": 20})
    async for event in (stream := loop.stream(request, rubric=RUBRIC, record=tmp_path)):
        if isinstance(event, ImageReady) and event.index == 2:
            await stream.aclose()
            break
    kept = RunRecord(tmp_path)
    assert not kept.finished
    assert kept.result().stop_reason == "interrupted"
    assert 3 <= len(kept.result().candidates) <= len(drawn) < 20
    result = await loop.resume(tmp_path)
    assert [c.image.seed for c in result.candidates] == list(range(20))
    # One may have been in the drawing thread when the run was closed.
    assert len(drawn) <= 21
    assert RunRecord(tmp_path).result() == result
    assert result.timings["total"] > kept.clock["total"]


async def _tiny(folder: Path, **options: Any) -> LoopResult:
    parts = {"generator": FunctionGenerator(paint, name="painter"), "judge": WordJudge()}
    return await AgentLoop(**{**parts, **options}).run(REQUEST, rubric=RUBRIC, record=folder)


async def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    await _tiny(tmp_path)
    other = REQUEST.model_copy(update={"seed": 5})
    loop = AgentLoop(generator=FunctionGenerator(paint, name="painter"), judge=WordJudge())
    with pytest.raises(RunRecordError, match=r"request.seed was 0 and is now 5\."):
        await loop.run(other, rubric=RUBRIC, record=tmp_path)
    with pytest.raises(RunRecordError, match=r"parts.generator was 'painter' and is now 'brush'"):
        await _tiny(tmp_path, generator=FunctionGenerator(paint, name="brush"))
    with pytest.raises(RunRecordError, match=r"limits.max_rounds was 1 and is now 2"):
        await _tiny(tmp_path, limits=LoopLimits(max_rounds=2))
    brush = AgentLoop(generator=FunctionGenerator(paint, name="brush"), judge=WordJudge())
    with pytest.raises(RunRecordError, match="brush"):
        await brush.resume(tmp_path)


async def test_two_cannot_write_one_run(tmp_path: Path) -> None:
    loop = AgentLoop(generator=FunctionGenerator(paint), judge=WordJudge())
    stream = loop.stream(REQUEST, rubric=RUBRIC, record=tmp_path)
    await anext(stream)
    with pytest.raises(RunRecordError, match="being written"):
        await loop.resume(tmp_path)
    await stream.aclose()
    assert (await loop.resume(tmp_path)).stop_reason == "max_rounds"


@pytest.mark.skipif(os.name != "posix", reason="needs a limit for the size of files")
async def test_a_run_goes_on_when_a_full_disk_has_room_again(tmp_path: Path) -> None:
    import resource

    red = Image.new("RGB", (8, 8), "red")
    loop = AgentLoop(generator=FunctionGenerator(lambda prompt, seed: red))
    request = ImageRequest(text="a red square", seed=1, num_images=3)
    events = tmp_path / "run" / "events.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1300, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            await loop.run(request, record=tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert events.read_bytes().endswith(b"\n"), "no half of a line stays"
    result = await loop.run(request, record=tmp_path / "run")
    assert len(result.candidates) == 3


async def test_unreadable_records_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(RunRecordError, match="does not hold a run"):
        RunRecord(tmp_path)
    await _tiny(tmp_path / "run")
    path = tmp_path / "run" / "events.jsonl"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"schema_version": 1', b'"schema_version": 99', 1))
    with pytest.raises(RunRecordError, match="99"):
        RunRecord(tmp_path / "run")
    path.write_bytes(b"[1]\n")
    with pytest.raises(RunRecordError, match="header"):
        RunRecord(tmp_path / "run")
    lines = good.split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], b"{]", *lines[3:]]))
    with pytest.raises(RunRecordError, match="Line 3"):
        _ = RunRecord(tmp_path / "run").events
    path.write_bytes(good)
    picture = next((tmp_path / "run" / "images").iterdir())
    picture.write_bytes(picture.read_bytes() + b"x")
    with pytest.raises(RunRecordError, match="not the one"):
        RunRecord(tmp_path / "run").result()


@pytest.mark.parametrize(
    "line", [b"", b'{"event": 5, "clock": {}}\n', b'{"event": {}, "clock": 5}\n']
)
async def test_a_record_with_a_line_lost_or_changed_is_read_or_refused(
    tmp_path: Path, line: bytes
) -> None:
    """It ended with a KeyError of the fold where a verdict had lost its picture."""
    await _tiny(tmp_path)
    path = tmp_path / EVENTS
    lines = path.read_bytes().splitlines(keepends=True)
    refused = 0
    for number in range(1, len(lines)):
        path.write_bytes(b"".join([*lines[:number], line, *lines[number + 1 :]]))
        try:
            RunRecord(tmp_path).result()
        except RunRecordError:
            refused += 1
            with pytest.raises(RunRecordError):
                await _tiny(tmp_path)
    assert refused


async def test_a_store_lists_runs_by_age(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    assert store.runs() == []
    folders = [store.new(), store.new()]
    for folder in reversed(folders):
        await _tiny(folder)
    (tmp_path / "runs" / "other").mkdir()
    assert [run.folder for run in store.runs()] == folders[::-1]
    assert store.open(folders[0].name).result().best is not None
    with pytest.raises(RunRecordError, match="not hold a run"):
        store.open("other")
