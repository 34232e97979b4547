"""Spans of runs and calls, as OpenTelemetry's own library exports them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from PIL import Image

from lens_reasoner import FunctionGenerator, GeneratorError, Rewrite, Usage
from lens_sdk import AsyncLens, ImageRequest, LoopLimits, tracing
from lens_sdk.errors import LensError

REQUEST = "a red apple"
SECRET = "a red apple of the secret orchard"
SPENT = Usage(input_tokens=10, output_tokens=5, cached_tokens=2, usd=0.25)


class Writer:
    async def rewrite(self, request: ImageRequest) -> Rewrite:
        return Rewrite(request=request.text, prompt=SECRET, model="writer", usage=SPENT, seconds=2)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Spans in memory; the process's own provider can be set only once."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", lambda *names: provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def lens(folder: Path | None = None) -> AsyncLens:
    painter = FunctionGenerator(lambda prompt, seed: Image.new("RGB", (8, 8)), name="painter")
    return AsyncLens(painter, base_url="", reasoner=Writer(), judge="nano", folder=folder)


def named(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_run_is_a_tree_of_spans_without_its_words(
    exporter: InMemorySpanExporter, tmp_path: Path
) -> None:
    client = lens(tmp_path)
    stream = client.stream(REQUEST, seed=7, limits=LoopLimits(max_rounds=1))
    await stream.result()
    spans = named(exporter)
    assert {"lens.run", "rewrite writer", "image_generation painter"} <= spans.keys()
    judge = spans["judge nano-detector"]
    root = spans.pop("lens.run")
    assert attributes(root) == {"lens.stop_reason": "max_rounds"}
    assert root.context is not None
    for span in spans.values():
        assert span.parent is not None
        assert span.parent.span_id == root.context.span_id
    assert attributes(spans["rewrite writer"]) == {
        "gen_ai.operation.name": "rewrite",
        "gen_ai.request.model": "writer",
        "lens.seconds": 2.0,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "lens.usage.usd": 0.25,
    }
    rewrite = spans["rewrite writer"]
    assert (rewrite.end_time or 0) - (rewrite.start_time or 0) == 2_000_000_000
    assert attributes(spans["image_generation painter"])["gen_ai.request.seed"] == 7
    told = {str((event.attributes or {})["gen_ai.evaluation.name"]) for event in judge.events}
    assert "score" in told
    assert len(told) > 1
    assert SECRET not in "".join(span.to_json() for span in exporter.get_finished_spans())

    exporter.clear()
    await client.runs.resume(str(stream.id))
    assert [span.name for span in exporter.get_finished_spans()] == ["lens.run"]


async def test_single_calls_have_spans_of_their_own(exporter: InMemorySpanExporter) -> None:
    client = lens()
    await client.rewrite(REQUEST)
    images = await client.images.generate(REQUEST, n=2, seed=3)
    await client.judge(images[0], REQUEST)
    spans = named(exporter)
    assert set(spans) == {"rewrite", "image_generation", "judge"}
    drawn = attributes(spans["image_generation"])
    assert (drawn["gen_ai.request.choice.count"], drawn["lens.usage.usd"]) == (2, 0.0)
    assert spans["judge"].events[-1].attributes == {
        "gen_ai.evaluation.name": "score",
        "gen_ai.evaluation.score.value": 0.0,
    }


async def test_failures_are_told(exporter: InMemorySpanExporter) -> None:
    def broken(prompt: str, seed: int) -> Image.Image:
        raise GeneratorError("no ink")

    client = AsyncLens(FunctionGenerator(broken), base_url="", reasoner=None, judge=None)
    with pytest.raises(LensError, match="no ink"):
        await client.images.generate(REQUEST)
    with pytest.raises(LensError, match="no ink"):
        await client.create(REQUEST)
    spans = named(exporter)
    for name in ("image_generation", "lens.run"):
        assert attributes(spans[name])["error.type"] == "GeneratorError"
        assert spans[name].status.status_code is StatusCode.ERROR
    # What did not end the run is told too.
    unjudged = lens()
    await unjudged.create("ein Drache", seed=1)
    failed = named(exporter)["rubric"]
    assert attributes(failed)["error.type"] == "JudgeError"
    assert failed.status.status_code is StatusCode.ERROR


async def test_nothing_happens_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    assert tracing.tracer() is None
    assert (await lens().create(REQUEST, seed=1)).best is not None
    assert await lens().images.generate(REQUEST)
