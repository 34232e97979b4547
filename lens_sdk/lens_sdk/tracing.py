"""OpenTelemetry spans for runs and calls, if the extra `otel` is installed.

Without it, or without a configured tracer provider, tracing does nothing. Spans carry names,
numbers, tokens, cost and seconds, but no requests, prompts or images. Attributes are named as in
OpenTelemetry's conventions for generative AI, or `lens.` plus a name if these have none.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lens_reasoner import Event, GeneratedImage, ReasonerError, Usage, Verdict
from lens_sdk.models import package_version

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

Attributes = dict[str, Any]


def tracer() -> Tracer | None:
    """Return the tracer; None without the extra."""
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.trace") is None:
        return None
    from opentelemetry import trace

    return trace.get_tracer("lens_sdk", package_version())


def traced(events: AsyncGenerator[Event], *, known: int = 0) -> AsyncGenerator[Event]:
    """Pass a run's events through, with a span for the run and for each step in it.

    Args:
        events: The events of the run.
        known: How many events are only repeated from a record; they get no spans.
    """
    found = tracer()
    return events if found is None else _traced(events, found, known)


@contextmanager
def call_span(operation: str) -> Iterator[CallSpan]:
    """Open a span around one call; pass the call's result to `CallSpan.tell`."""
    found = tracer()
    if found is None:
        yield CallSpan(None)
        return
    with found.start_as_current_span(operation, record_exception=False) as span:
        span.set_attribute("gen_ai.operation.name", operation)
        try:
            yield CallSpan(span)
        except ReasonerError as error:
            span.set_attribute("error.type", type(error).__name__)
            raise


class CallSpan:
    """Adds a call's result to its span; does nothing without a span."""

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def tell(self, value: Any) -> None:
        """Record a rewrite, refusal, verdict or images."""
        if self._span is None:
            return
        if isinstance(value, list):
            self._span.set_attributes(_drawn(value))
            return
        self._span.set_attributes(_done(value, getattr(value, "model", "")))
        if isinstance(value, Verdict):
            _evaluate(self._span, value)


async def _traced(
    events: AsyncGenerator[Event], found: Tracer, known: int
) -> AsyncGenerator[Event]:
    from opentelemetry.trace import Status, StatusCode, set_span_in_context

    root = found.start_span("lens.run")
    context, seen = set_span_in_context(root), 0
    try:
        async with aclosing(events):
            async for event in events:
                if event.type != "step":
                    seen += 1
                    if seen > known:
                        _note(found, root, context, event)
                yield event
    except Exception as error:
        root.set_attribute("error.type", type(error).__name__)
        root.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        root.end()


def _note(found: Tracer, root: Span, context: Context, event: Event) -> None:
    if event.type == "finished":
        root.set_attribute("lens.stop_reason", event.stop_reason)
        return
    told = _told(event)
    if told is None:
        return
    operation, model, seconds, attributes = told
    now = time.time_ns()
    span = found.start_span(
        f"{operation} {model}".strip(), context, start_time=now - int(seconds * 1e9)
    )
    span.set_attributes({"gen_ai.operation.name": operation, **attributes})
    if event.type == "judged":
        _evaluate(span, event.verdict)
    if event.type == "stage_failed":
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR))
    span.end(now)


def _told(event: Event) -> tuple[str, str, float, Attributes] | None:
    """Operation, model, seconds and attributes of the step an event reports."""
    match event.type:
        case "rewrite_done":
            done = event.outcome
            return "rewrite", done.model, done.seconds, _done(done, done.model)
        case "rubric_done" if event.written:
            rubric = event.rubric
            return "rubric", rubric.author, rubric.seconds, _done(rubric, rubric.author)
        case "fidelity_checked":
            report = event.report
            return "fidelity", report.checker, report.seconds, _done(report, report.checker)
        case "image_ready":
            image = event.image
            seconds = image.timings.get("generate", 0.0)
            return "image_generation", image.generator, seconds, _drawn([image])
        case "judged":
            verdict = event.verdict
            return "judge", verdict.judge, verdict.seconds, _done(verdict, verdict.judge)
        case "revised":
            revised = event.rewrite
            return "revise", revised.model, revised.seconds, _done(revised, revised.model)
        case "stage_failed":
            failure = event.failure
            attributes = {"error.type": failure.error, **_used(failure.usage)}
            return failure.stage, "", 0.0, attributes
        case _:
            return None


def _done(value: Any, model: str) -> Attributes:
    named: Attributes = {"gen_ai.request.model": model} if model else {}
    return {**named, "lens.seconds": value.seconds, **_used(value.usage)}


def _drawn(images: list[GeneratedImage]) -> Attributes:
    """Attributes of images generated by one call."""
    if not images:
        return {}
    first = images[0]
    found: Attributes = {
        "gen_ai.output.type": "image",
        "gen_ai.request.model": first.generator,
        "gen_ai.request.choice.count": len(images),
        "lens.seconds": sum(image.timings.get("generate", 0.0) for image in images),
        **_used(Usage.total(image.usage for image in images)),
    }
    if first.seed is not None:
        found["gen_ai.request.seed"] = first.seed
    return found


def _used(usage: Usage) -> Attributes:
    """Tokens and dollars; unknown values are left out."""
    known = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "lens.usage.usd": usage.usd,
    }
    return {name: value for name, value in known.items() if value is not None}


def _evaluate(span: Span, verdict: Verdict) -> None:
    """Add one event for each criterion, and one for the score."""
    for line in verdict.verdicts:
        span.add_event(
            "gen_ai.evaluation.result",
            {
                "gen_ai.evaluation.name": line.criterion,
                "gen_ai.evaluation.score.label": line.answer,
            },
        )
    if verdict.score is not None:
        span.add_event(
            "gen_ai.evaluation.result",
            {
                "gen_ai.evaluation.name": "score",
                "gen_ai.evaluation.score.value": verdict.score,
            },
        )
