"""Calls of the proposer and the clusterer: recorded before use, and entered in the ledger."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from lens_prompt_opt import call_records
from lens_prompt_opt.budget import Ledger, Stage
from lens_prompt_opt.errors import StudyInterruptedError
from lens_prompt_opt.history import History
from lens_prompt_opt.journal import Journal, JsonRecord, call_key
from lens_prompt_opt.outages import is_outage
from lens_prompt_opt.stopping import StopSwitch
from lens_reasoner.errors import ReasonerError
from lens_reasoner.types import Usage

Call = Callable[[], Awaitable[tuple[JsonRecord, Usage, float]]]
"""A call that returns its result as JSON, what it consumed, and its duration in seconds."""


class PaidCalls:
    """Makes every call only once, even across resumed runs."""

    def __init__(
        self, journal: Journal, ledger: Ledger, history: History, stop: StopSwitch
    ) -> None:
        self._journal = journal
        self._ledger = ledger
        self._history = history
        self._stop = stop
        self._entered: set[str] = set()

    async def make(
        self, stage: Stage, what: str, parts: Sequence[object], call: Call
    ) -> JsonRecord | None:
        """The result of a call; None if it failed because of its input, which is recorded too.

        Args:
            stage: The stage it is entered under.
            what: Short name of the call.
            parts: Everything its result depends on.
            call: The call.

        Raises:
            StudyInterruptedError: The service is down, or the study was asked to stop.
        """
        key = call_key(what, *parts)
        kept = self._journal.get(key)
        if kept is None:
            self._stop.check()
            kept = await _attempt(call)
            self._journal.put(key, kept)
        failed = "failure" in kept
        if key not in self._entered:
            self._entered.add(key)
            usage = Usage.model_validate(kept["usage"])
            self._ledger.add(stage, usage, kept["seconds"], failed=failed)
            self._ledger.wall_seconds += kept["seconds"]
        if failed:
            self._history.note(f"{what} failed: {kept['failure']}")
            return None
        result: JsonRecord = kept["value"]
        return result


async def _attempt(call: Call) -> JsonRecord:
    started = time.perf_counter()
    try:
        value, usage, seconds = await call()
    except ReasonerError as error:
        if is_outage(error):
            raise StudyInterruptedError(
                f"The study stopped while improving the prompt: {error}",
                hint="Finished calls are recorded; run it again with the same run_dir to continue.",
            ) from error
        return call_records.failed(error, time.perf_counter() - started)
    return {"value": value, "usage": usage.model_dump(mode="json"), "seconds": seconds}
