"""The cache: identical requests pay nothing, and nothing else is ever found."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from lens_reasoner import (
    AgentLoop,
    Cache,
    Capabilities,
    Criterion,
    FunctionGenerator,
    GenerationSettings,
    LLMFidelity,
    LLMReasoner,
    LLMReviser,
    LLMRubricWriter,
    LoopLimits,
    OneCall,
    OpenAIChat,
    PerCriterion,
    RubricJudge,
    Usage,
)
from served_world import REQUEST as SERVED_REQUEST
from served_world import answer, served_loop
from word_world import (
    REQUEST,
    RUBRIC,
    WordChecker,
    WordJudge,
    WordReasoner,
    WordReviser,
    WordRubricWriter,
    paint,
)

PRICE = Usage(input_tokens=1, output_tokens=1, cached_tokens=0, usd=0.5)
TEXT = TypeAdapter(str)


class Counting(FunctionGenerator):
    """Counts what it draws."""

    def __init__(self, **options) -> None:
        super().__init__(self._paint, **options)
        self.drawn: list[tuple[str, int]] = []

    def _paint(self, prompt: str, seed: int):
        self.drawn.append((prompt, seed))
        return paint(prompt, seed)


class Parts:
    """A loop of parts that count their calls."""

    def __init__(self, cache: Path, *, fingerprint: str = "", **generator) -> None:
        self.generator = Counting(**{"name": "painter", **generator})
        if fingerprint:
            self.generator.fingerprint = fingerprint
        self.reasoner = WordReasoner("red", PRICE)
        self.writer = WordRubricWriter()
        self.judge = WordJudge(usage=PRICE)
        self.checker = WordChecker()
        self.reviser = WordReviser()
        self.loop = AgentLoop(
            generator=self.generator,
            reasoner=self.reasoner,
            judge=self.judge,
            rubric_writer=self.writer,
            fidelity_checker=self.checker,
            reviser=self.reviser,
            limits=LoopLimits(max_rounds=4),
            cache=cache,
        )

    @property
    def calls(self) -> tuple[int, ...]:
        """Rewrites, rubrics, pictures, verdicts, checks, revisions."""
        return (
            self.reasoner.calls,
            self.writer.calls,
            len(self.generator.drawn),
            len(self.judge.calls),
            self.checker.calls,
            len(self.reviser.asked),
        )


async def test_an_identical_request_makes_no_call(server, tmp_path: Path) -> None:
    server.answer = lambda call: answer(server, call)
    first = await served_loop(server.url, cache=tmp_path).run(SERVED_REQUEST)
    paid = len(server.calls)
    assert paid > 10
    assert first.usage.input_tokens
    second = await served_loop(server.url, cache=tmp_path).run(SERVED_REQUEST)
    assert len(server.calls) == paid
    assert second.usage == Usage.zero()
    assert [c.image.sha256 for c in second.candidates] == [c.image.sha256 for c in first.candidates]
    assert [c.score for c in second.candidates] == [c.score for c in first.candidates]
    assert [p.prompt for p in second.prompts] == [p.prompt for p in first.prompts]


async def test_every_kind_of_result_is_found_again(tmp_path: Path) -> None:
    first, again = Parts(tmp_path), Parts(tmp_path)
    result = await first.loop.run(REQUEST)
    assert first.calls == (1, 1, 6, 6, 3, 2)
    assert result.usage.usd == pytest.approx(7 * 0.5)
    cached = await again.loop.run(REQUEST)
    assert again.calls == (0, 0, 0, 0, 0, 0)
    assert cached.usage == Usage.zero()
    assert cached.best.image.data == result.best.image.data
    assert cached.best.verdict.verdicts == result.best.verdict.verdicts
    assert cached.best.verdict.judge == result.best.verdict.judge


async def test_other_seeds_and_settings_share_the_words_alone(tmp_path: Path) -> None:
    await Parts(tmp_path).loop.run(REQUEST)
    more = Parts(tmp_path)
    await more.loop.run(REQUEST.model_copy(update={"num_images": 3}))
    # Of seeds 0 to 5 the first two were drawn from the first prompt before, and seed 2 from the
    # second one was not.
    assert more.calls[:2] == (0, 0)
    assert ("red", 0) not in more.generator.drawn
    assert ("red", 2) in more.generator.drawn


async def test_what_is_told_apart_is_drawn_anew(tmp_path: Path) -> None:
    await Parts(tmp_path).loop.run(REQUEST)
    named = Parts(tmp_path, name="other painter")
    await named.loop.run(REQUEST)
    assert named.calls == (0, 0, 6, 0, 0, 0)
    printed = Parts(tmp_path, fingerprint="weights 2")
    await printed.loop.run(REQUEST)
    assert len(printed.generator.drawn) == 6
    judged = Parts(tmp_path)
    judged.judge.fingerprint = "stricter"
    await judged.loop.run(REQUEST)
    assert judged.calls == (0, 0, 0, 6, 0, 0)


async def test_generators_that_take_no_seed_are_never_cached(tmp_path: Path) -> None:
    request = REQUEST.model_copy(update={"seed": None})
    for _ in range(2):
        parts = Parts(tmp_path, seed=False)
        result = await parts.loop.run(request)
        assert len(parts.generator.drawn) == len(result.candidates) > 0
    assert not (tmp_path / "image").exists()


async def test_a_judge_is_asked_only_what_it_has_not_answered(tmp_path: Path) -> None:
    def judged_by(judge: WordJudge) -> AgentLoop:
        generator = FunctionGenerator(paint, name="painter")
        return AgentLoop(generator=generator, judge=judge, cache=Cache(tmp_path))

    request = REQUEST.model_copy(update={"num_images": 1})
    await judged_by(WordJudge()).run(request, rubric=RUBRIC)
    fourth = Criterion(name="red", kind="color", question="Is there a lot of red?", weight=2)
    _, green, blue = RUBRIC.criteria
    heavy = blue.model_copy(update={"weight": 3.0})
    changed = RUBRIC.model_copy(update={"criteria": (fourth, heavy, green)})
    judge = WordJudge()
    result = await judged_by(judge).run(request, rubric=changed)
    assert judge.calls == [("red",)]
    verdicts = result.candidates[0].verdict.verdicts
    assert [(v.criterion, v.weight) for v in verdicts] == [("red", 2), ("blue", 3), ("green", 1)]
    assert result.candidates[0].verdict.score == pytest.approx(2 / 6)


async def test_parts_without_a_fingerprint_are_not_cached(tmp_path: Path) -> None:
    class Nameless:
        def __init__(self) -> None:
            self.inner = WordReasoner("red green vivid blue")

        async def rewrite(self, request):
            return await self.inner.rewrite(request)

    for _ in range(2):
        reasoner = Nameless()
        generator = FunctionGenerator(paint)
        await AgentLoop(generator=generator, reasoner=reasoner, cache=tmp_path).run(REQUEST)
        assert reasoner.inner.calls == 1


def test_damaged_entries_count_as_missing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put("rewrite", ["a", 1], "text", TEXT)
    assert cache.get("rewrite", ["a", 1], TEXT) == "text"
    assert cache.get("rubric", ["a", 1], TEXT) is None
    assert cache.get("rewrite", ["a", 2], TEXT) is None
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(path.read_bytes()[:3])
    assert cache.get("rewrite", ["a", 1], TEXT) is None
    cache.put("rewrite", ["a", 1], "text", TEXT)
    assert cache.get("rewrite", ["a", 1], TEXT) == "text"


def test_two_processes_never_see_half_an_entry(tmp_path: Path) -> None:
    code = """
import sys
from pydantic import TypeAdapter
from lens_reasoner import Cache
cache, text = Cache(sys.argv[1]), TypeAdapter(str)
for n in range(150):
    cache.put("rewrite", ["k", n % 3], sys.argv[2] * 20000, text)
    found = cache.get("rewrite", ["k", n % 3], text)
    assert found is not None and len(set(found)) == 1 and len(found) == 20000, found and len(found)
"""
    writers: Sequence[subprocess.Popen[bytes]] = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), letter]) for letter in "ab"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert not list(tmp_path.rglob("*.part"))
    assert all(len(set(json.loads(p.read_text()))) == 1 for p in tmp_path.rglob("*.json"))


def test_capabilities_are_those_of_the_generator(tmp_path: Path) -> None:
    from lens_reasoner.cached_parts import CachedGenerator

    inner = FunctionGenerator(paint, name="painter")
    assert CachedGenerator(inner, Cache(tmp_path)).capabilities == Capabilities(seed=True)


async def test_steps_are_those_of_the_pictures_that_are_drawn(tmp_path: Path) -> None:
    from lens_reasoner.cached_parts import CachedGenerator

    class Pair(FunctionGenerator):
        capabilities = Capabilities(seed=True, max_images=3)

    generator = CachedGenerator(Pair(paint, name="painter"), Cache(tmp_path))
    settings, told = GenerationSettings(), []
    await generator.generate("red", seeds=[5], settings=settings)
    await generator.generate(
        "red", seeds=[5, 6, 7], settings=settings, on_step=lambda step: told.append(step.index)
    )
    assert told == [1, 2]


@pytest.mark.parametrize(
    "other",
    [
        {"reasoning_effort": "high"},
        {"base_url": "http://127.0.0.1:2/v1"},
        {"api": "responses"},
    ],
)
def test_what_shapes_answers_tells_parts_apart(other: dict[str, str]) -> None:
    def keys(**options: str) -> list[str]:
        chat = OpenAIChat("m", **{"base_url": "http://127.0.0.1:1/v1", "api_key": "x", **options})
        parts = (LLMReasoner(chat), LLMReviser(chat), LLMRubricWriter(chat), LLMFidelity(chat))
        judges = [RubricJudge(mode=mode) for mode in (OneCall(chat), PerCriterion(chat))]
        return [part.fingerprint for part in (*parts, *judges)]

    assert keys() == keys()
    assert not set(keys()) & set(keys(**other))


def test_models_without_settings_keep_their_plain_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    assert OpenAIChat("gpt-5.5").fingerprint == "gpt-5.5"
    chat = OpenAIChat("m", base_url="http://me:hidden@localhost:1/v1?key=hidden", api_key="x")
    assert chat.fingerprint == "m at http://localhost:1/v1"
    assert "hidden" not in f"{chat!r} {LLMReasoner(chat).fingerprint}"


async def test_a_cache_that_cannot_be_written_loses_nothing(tmp_path: Path, caplog) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    parts = Parts(tmp_path / "cache")
    result = await parts.loop.run(REQUEST)
    assert result.stop_reason == "target_reached"
    assert parts.calls == (1, 1, 6, 6, 3, 2)
    assert "could not store" in caplog.text
