"""The family of errors: one base, kinds, pickling, and a table that is complete."""

import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lens_sdk
from lens_reasoner import ImageRequest, LoopResult, Usage
from lens_reasoner.errors import (
    ChatError,
    GenerationRefusedError,
    GeneratorError,
    ImageServiceError,
    JudgeError,
    LoopConfigError,
    MissingKeyError,
    MissingPackagesError,
    QuotaError,
    RateLimitedError,
    ReasonerError,
    UnsupportedSettingError,
)
from lens_reasoner.judging.mode import no_verdict
from lens_sdk import FunctionGenerator, Lens, LensError, LimitReachedError, LoopLimits, error_kind
from lens_sdk.client.errors import (
    RequestRefusedError,
    ServerBusyError,
    ServerFailedError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from lens_sdk.error_kinds import may_work_later
from lens_sdk.errors import MissingExtraError, NothingDrawnError, SettingsError

DOCS = Path(__file__).parents[2] / "docs" / "errors.md"
RESULT = LoopResult(
    request=ImageRequest(text="a cup"),
    rewrite=None,
    rubric=None,
    candidates=(),
    best_index=None,
    stop_reason="max_cost",
    failures=(),
    timings={},
    usage=Usage.zero(),
)


def _classes(base: type[ReasonerError] = ReasonerError) -> Iterator[type[ReasonerError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _classes(kind)


def family() -> list[type[ReasonerError]]:
    """Every error class there is in our packages, also in modules nobody has imported yet."""
    for package in ("lens_sdk", "lens_reasoner", "lens_prompt_opt"):
        for found in pkgutil.walk_packages(
            importlib.import_module(package).__path__, f"{package}."
        ):
            if "error" in found.name or found.name in {
                "lens_sdk.server.config",
                "lens_sdk.server.guard",
            }:
                importlib.import_module(found.name)
    ours = {kind for kind in _classes() if kind.__module__.startswith("lens_")}
    return sorted(ours, key=lambda kind: kind.__name__)


KNOWN: dict[str, Any] = {
    "message": "It went wrong.",
    "what": "This",
    "extra": "local",
    "packages": ("torch",),
    "stop_reason": "deadline",
    "result": RESULT,
    "fault": "timeout",
    "setting": "size",
    "value": "1x1",
    "backend": "painter",
    "model": "m",
    "parts": ("vae",),
    "run_id": "r",
    "run_status": "failed",
}


def example(kind: type[ReasonerError]) -> ReasonerError:
    needed = [
        parameter
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    positional = [KNOWN[p.name] for p in needed if p.kind is not p.KEYWORD_ONLY]
    return kind(*positional, **{p.name: KNOWN[p.name] for p in needed if p.kind is p.KEYWORD_ONLY})


@pytest.mark.parametrize("kind", family(), ids=lambda kind: kind.__name__)
def test_every_error_is_of_the_family_travels_and_is_documented(kind: type[ReasonerError]) -> None:
    error = example(kind)
    assert isinstance(error, LensError)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == str(error)
    assert back.__dict__ == error.__dict__
    text = DOCS.read_text(encoding="utf-8")
    assert f"| `{error_kind(error)}` |" in text
    if kind.__module__.startswith(("lens_reasoner", "lens_sdk.client")):
        assert f"`{kind.__name__}`" in text


@pytest.mark.parametrize(
    ("error", "kind", "later"),
    [
        (SettingsError("x"), "configuration", False),
        (MissingKeyError("x"), "configuration", False),
        (LoopConfigError("x"), "configuration", False),
        (MissingExtraError("local", ("torch",)), "missing_extra", False),
        (MissingPackagesError("x", ("y",), extra="ocr"), "missing_extra", False),
        (UnsupportedSettingError("x", setting="s", value=1, backend="b"), "unsupported", False),
        (RequestRefusedError("x", status=400, code="unsupported_value"), "unsupported", False),
        (GenerationRefusedError("x"), "refused", False),
        (ChatError("x", fault="filtered"), "refused", False),
        (RequestRefusedError("x", status=400, code="moderation_blocked"), "refused", False),
        (JudgeError("x"), "judge", False),
        (no_verdict(ChatError("x", fault="server")), "judge", True),
        (no_verdict(ChatError("x", fault="refused")), "judge", False),
        (GeneratorError("x"), "generator", False),
        (NothingDrawnError("deadline"), "budget", False),
        (RateLimitedError("x", fault="rate_limited"), "rate_limit", True),
        (QuotaError("x", fault="quota"), "rate_limit", False),
        (ServerBusyError("x", status=429), "rate_limit", True),
        (ChatError("x", fault="timeout"), "timeout", True),
        (ImageServiceError("x", fault="timeout"), "timeout", True),
        (ServerTimeoutError("x"), "timeout", True),
        (ServerUnreachableError("x"), "server", True),
        (ServerFailedError("x", status=502), "server", True),
        (ServerFailedError("x", status=500, code="generator_failed"), "generator", False),
        (ImageServiceError("x", fault="malformed"), "server", False),
    ],
)
def test_errors_are_sorted_by_what_can_be_done(
    error: ReasonerError, kind: str, later: bool
) -> None:
    assert error_kind(error) == kind
    assert may_work_later(error) is later


def test_a_limit_can_be_an_error_that_keeps_the_best() -> None:
    from PIL import Image

    painter = FunctionGenerator(lambda prompt, seed: Image.new("RGB", (8, 8), (seed, 0, 0)))
    lens = Lens(painter, reasoner=None, judge="nano", folder=None)
    limits = LoopLimits(max_rounds=1)
    assert lens.create("a red apple", seed=1, limits=limits).stop_reason == "max_rounds"
    with pytest.raises(
        LimitReachedError, match=r"by max rounds; the best score is 0\.00"
    ) as caught:
        lens.create("a red apple", seed=1, limits=limits, raise_on_limit=True)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.best.image.seed == 1
    assert error.result.usage.usd == 0
    assert lens_sdk.LensError is ReasonerError
