"""Calls of the proposer and its like: on disk before they are used, and on the account."""

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
"""A call that gives its result as JSON, what it consumed, and how long it took."""


class PaidCalls:
    """Makes a call once, whatever happens afterwards."""

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
        """The result of a call; None if it failed by itself, which is kept and noted as well.

        Args:
            stage: Where it is accounted.
            what: Short name of the call.
            parts: Everything its result depends on.
            call: The call.

        Raises:
            StudyInterruptedError: If the service is out, or the study was asked to stop.
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
                hint="What was paid for is kept; run it again with the same run_dir to go on.",
            ) from error
        return call_records.failed(error, time.perf_counter() - started)
    return {"value": value, "usage": usage.model_dump(mode="json"), "seconds": seconds}
