"""Makes each call once, however many cells need it: from the journal, in flight, or new."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from lens_prompt_opt import call_records
from lens_prompt_opt.budget import Stage
from lens_prompt_opt.evaluation import EvaluationContext
from lens_prompt_opt.journal import JsonRecord
from lens_reasoner.types import Usage

Call = Callable[[], Awaitable[JsonRecord]]


@dataclass
class Account:
    """The calls that one cell used, in order; entered in the ledger after its block."""

    calls: list[tuple[Stage, str, JsonRecord]] = field(default_factory=list)


class SharedCalls:
    """Makes calls concurrently and records their results."""

    def __init__(self, context: EvaluationContext, concurrency: int) -> None:
        """Start without any calls.

        Args:
            context: The study.
            concurrency: Maximum concurrent calls per stage, or per generator.
        """
        self._context = context
        self._concurrency = concurrency
        self._flights: dict[str, asyncio.Future[JsonRecord]] = {}
        self._entered: set[str] = set()
        self._gates: dict[str, asyncio.Semaphore] = {}

    async def once(
        self,
        stage: Stage,
        key: str,
        call: Call,
        account: Account,
        *,
        gate: str = "",
        most: int | None = None,
    ) -> JsonRecord:
        """The result under `key`.

        Args:
            stage: The stage it is entered under.
            key: Everything the result depends on.
            call: Makes the call.
            account: Where its use is noted.
            gate: Name of the concurrency limit; empty means the stage.
            most: A lower limit on concurrent calls for this gate.

        Raises:
            StudyInterruptedError: The study was asked to stop before the call started.
        """
        record = self._context.journal.get(key)
        if record is None:
            if key not in self._flights:
                slots = self._slots(gate or stage, most)
                flight = asyncio.ensure_future(self._pay(slots, key, call))
                flight.add_done_callback(lambda _: self._flights.pop(key, None))
                self._flights[key] = flight
            record = await asyncio.shield(self._flights[key])
        account.calls.append((stage, key, record))
        if key not in self._entered:
            usd = record["usage"].get("usd")
            self._context.listener.called(key, usd, int("picture" in record))
        return record

    def enter(self, accounts: Sequence[Account]) -> None:
        """Enter a block in the ledger, in the order of its cells; each call counts once."""
        for account in accounts:
            for stage, key, record in account.calls:
                if key not in self._entered:
                    self._entered.add(key)
                    usage = Usage.model_validate(record["usage"])
                    images = int("picture" in record)
                    failed = "failure" in record
                    self._context.ledger.add(
                        stage, usage, record["seconds"], images=images, failed=failed
                    )
        self._context.listener.settled()

    async def abandon(self) -> None:
        """Cancel the calls in flight, because nothing waits for them any more."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _slots(self, gate: str, most: int | None) -> asyncio.Semaphore:
        limit = min(self._concurrency, most or self._concurrency)
        return self._gates.setdefault(gate, asyncio.Semaphore(limit))

    async def _pay(self, slots: asyncio.Semaphore, key: str, call: Call) -> JsonRecord:
        stop = self._context.stop
        async with slots:
            stop.check()
            try:
                record = await call()
                self._context.journal.put(key, record)
            except Exception as error:
                stop.press(call_records.interruption(error))
                raise
        return record
