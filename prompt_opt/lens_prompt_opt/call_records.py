"""Results of calls as JSON, and what happens to a block when some calls fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from lens_prompt_opt.errors import PromptOptError, StudyInterruptedError
from lens_prompt_opt.journal import JsonRecord
from lens_prompt_opt.outages import is_outage
from lens_reasoner.errors import ReasonerError
from lens_reasoner.redaction import without_keys
from lens_reasoner.types import Usage
from lens_reasoner.verdict import CriterionVerdict

T = TypeVar("T")


def record(usage: Usage, seconds: float, **fields: object) -> JsonRecord:
    """The record of a call: its result and what it consumed."""
    return {"usage": usage.model_dump(mode="json"), "seconds": seconds, **fields}


def failed(error: ReasonerError, seconds: float) -> JsonRecord:
    """The record of a call that failed because of its input; a retry would not help."""
    usage = getattr(error, "usage", None) or Usage()
    failure = without_keys(f"{type(error).__name__}: {error.message}")
    return record(usage, seconds, failure=failure)


async def attempt(call: Callable[[], Awaitable[JsonRecord]]) -> JsonRecord:
    """Make a call and return its record, or the record of a failure caused by its input.

    Raises:
        ReasonerError: A service is down.
    """
    started = time.perf_counter()
    try:
        return await call()
    except ReasonerError as error:
        if is_outage(error):
            raise
        return failed(error, time.perf_counter() - started)


def answer(verdict: CriterionVerdict) -> JsonRecord:
    """What is recorded of the verdict on one criterion."""
    disputed = verdict.agreement is not None and verdict.agreement < 1
    return {"answer": verdict.answer, "evidence": verdict.evidence, "disputed": disputed}


def interruption(error: Exception) -> StudyInterruptedError:
    """The error that ends a study because of `error`."""
    if isinstance(error, StudyInterruptedError):
        return error
    stopped = StudyInterruptedError(
        without_keys(f"The study stopped at {type(error).__name__}: {error}"),
        hint="Finished calls are recorded; run it again with the same run_dir to continue.",
    )
    stopped.__cause__ = error
    return stopped


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order. If any call failed, raise, but only after the others have ended.

    Raises:
        StudyInterruptedError: A service is down, or a part raised an unexpected error.
    """
    done = await asyncio.gather(*work, return_exceptions=True)
    failures = [result for result in done if isinstance(result, BaseException)]
    for failure in failures:
        if isinstance(failure, PromptOptError) or not isinstance(failure, Exception):
            raise failure
        raise interruption(failure)
    return [result for result in done if not isinstance(result, BaseException)]
