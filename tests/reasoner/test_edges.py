"""What happens at the edges: odd inputs, odd answers, other threads and processes."""

import asyncio
import multiprocessing
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from lens_reasoner import (
    STRUCTURE,
    AgentLoop,
    Capabilities,
    FunctionGenerator,
    GenerationSettings,
    GeneratorError,
    ImageFileError,
    ImageRequest,
    JudgeError,
    LoopConfigError,
    PerCriterion,
    Rubric,
    RubricJudge,
    RunRecordError,
    RunStore,
    ServerDialect,
    run_sync,
)
from lens_reasoner.generators.download import download
from lens_reasoner.generators.images_wire import check_picture, decode
from lens_reasoner.openai_errors import retry_after
from scripted_chat import ScriptedChat

RED = Image.new("RGB", (8, 8), "red")


def draw(function: Any) -> Any:
    generator = FunctionGenerator(function)
    work = generator.generate("x", seeds=[1], settings=GenerationSettings())
    return asyncio.run(asyncio.wait_for(work, 5))


@pytest.mark.parametrize("mode", ["CMYK", "F", "I", "YCbCr", "RGBa", "HSV", "LAB", "P", "I;16"])
def test_a_function_may_return_pictures_of_any_mode(mode: str) -> None:
    (image,) = draw(lambda prompt, seed: Image.new(mode, (8, 6)))
    assert image.image.size == (8, 6)


def test_a_function_that_runs_out_of_pictures_fails_and_does_not_hang() -> None:
    pictures = iter([RED])
    draw(lambda prompt, seed: next(pictures))
    with pytest.raises(GeneratorError, match="StopIteration"):
        draw(lambda prompt, seed: next(pictures))


def _answer(results: Any) -> None:
    async def seven() -> int:
        return 7

    results.put(run_sync(seven()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_plain_code_works_in_a_forked_process_too() -> None:
    async def nothing() -> None:
        pass

    run_sync(nothing())
    forking = multiprocessing.get_context("fork")
    results = forking.SimpleQueue()
    child = forking.Process(target=_answer, args=(results,))
    child.start()
    child.join(20)
    child.kill()
    assert child.exitcode == 0
    assert results.get() == 7


@pytest.mark.parametrize("field", ["text", "negative_prompt"])
def test_half_a_character_is_refused_before_it_breaks_a_record(field: str) -> None:
    with pytest.raises(ValidationError, match="character 3 is half"):
        ImageRequest(**{"text": "a cat", field: "a \ud83d b"})


@pytest.mark.parametrize("text", ["é===", "AAA", "data:image/png;base64,%%%", "data:,", "=" * 9])
def test_what_is_no_base64_is_a_typed_error(text: str) -> None:
    with pytest.raises(ImageFileError):
        check_picture(decode(text))


@pytest.mark.parametrize(
    "url", ["http://[::1", "ftp://a/b.png", "file:///etc/passwd", "http://", "http://a:99999/b.png"]
)
async def test_what_is_no_address_is_a_typed_error(url: str) -> None:
    with pytest.raises(ImageFileError):
        await download(url, base_url="http://127.0.0.1:9/v1", most_bytes=10, timeout=1)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone cannot be changed here")
@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"])
def test_dates_to_retry_after_are_those_of_greenwich(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        date = (datetime.now(UTC) + timedelta(seconds=30)).strftime(form)
        assert 25 < (retry_after({"retry-after": date}) or 0) <= 31
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_judge_that_may_make_no_call_is_refused() -> None:
    with pytest.raises(LoopConfigError, match="concurrency=0"):
        PerCriterion(ScriptedChat(lambda asked: {}), concurrency=0)


@pytest.mark.parametrize(
    ("able", "fields", "said"),
    [
        (Capabilities(negative_prompt=True), {}, "never sent"),
        (Capabilities(), {"steps": "steps"}, "unknown settings"),
        (Capabilities(seed=True, max_images=4), {"seed": "seed"}, "one seed is sent"),
    ],
)
def test_a_dialect_claims_only_what_it_sends(
    able: Capabilities, fields: dict[str, str], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        ServerDialect(name="mine", capabilities=able, fields=fields)


@pytest.mark.parametrize("name", ["", "..", "../other", "/etc", "..\\other", "a/../../b"])
def test_runs_are_opened_by_name_and_not_by_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunRecordError, match="not the name of a run"):
        RunStore(tmp_path / "runs").open(name)


def test_a_disk_that_is_full_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        if path.parent.name == "images":
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr("lens_reasoner.record.write_atomically", full)
    loop = AgentLoop(generator=FunctionGenerator(lambda prompt, seed: RED))
    with pytest.raises(OSError, match="No space left"):
        loop.run_sync("a red square", record=tmp_path / "run")


def test_a_key_in_somebody_elses_error_stays_out_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-users-own-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)

    def second_fails(prompt: str, seed: int) -> Image.Image:
        if seed:
            raise RuntimeError(f"401 for Bearer {key}")
        return RED

    loop = AgentLoop(generator=FunctionGenerator(second_fails))
    request = ImageRequest(text="two", seed=0, num_images=2)
    result = loop.run_sync(request, record=tmp_path / "run")
    assert result.stop_reason == "generator_failed"
    assert "Bearer [secret]" in result.failures[0].message
    assert key not in (tmp_path / "run" / "events.jsonl").read_text()


async def test_a_damaged_picture_has_no_verdict() -> None:
    (whole,) = await FunctionGenerator(lambda prompt, seed: RED).generate(
        "red", seeds=[1], settings=GenerationSettings()
    )
    half = whole.model_copy(update={"data": whole.data[:50]})
    judge = RubricJudge(ScriptedChat(lambda asked: {"verdicts": []}))
    with pytest.raises(JudgeError, match="cannot be shown") as caught:
        await judge.judge(half, Rubric(request="red", criteria=(STRUCTURE,)))
    assert caught.value.usage is not None
    assert caught.value.usage.usd == 0
