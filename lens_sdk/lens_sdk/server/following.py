"""Follows a run that another process executes, by reading its record while it is written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from lens_reasoner import RunRecord
from lens_sdk.server.claims import POLL_SECONDS
from lens_sdk.server.shared import Entry

OUTCOME = "outcome.json"
"""File in a run's folder that says how the run ended if its events do not."""

_BEAT = 15.0


async def follow_record(
    folder: Path, after: int, going_on: Callable[[], bool]
) -> AsyncIterator[Entry | None]:
    """A run's recorded events after number `after`, then new ones while it continues.

    Args:
        folder: Folder of the run.
        after: Number of the last event already known.
        going_on: Whether more may be added.

    Yields:
        Events, and None after 15 seconds without one.
    """
    silent, size = 0.0, -1
    while True:
        # Ask before reading the record, so that nothing written in between is missed.
        more = await asyncio.to_thread(going_on)
        now = (folder / "events.jsonl").stat().st_size
        if now != size:
            size, silent = now, 0.0
            for entry in await asyncio.to_thread(_recorded, folder, after):
                after += 1
                yield entry
        if not more:
            return
        await asyncio.sleep(POLL_SECONDS)
        silent += POLL_SECONDS
        if silent >= _BEAT:
            silent = 0.0
            yield None


def outcome(folder: Path) -> dict[str, Any]:
    """How a run ended; empty if its events say so or it has not ended."""
    try:
        told = json.loads((folder / OUTCOME).read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _recorded(folder: Path, after: int) -> list[Entry]:
    record = RunRecord(folder)
    # The images of events already known need not be read again.
    del record.lines[1 : after + 1]
    return [
        Entry(event.type, event.model_dump_json(), number)
        for number, event in enumerate(record.events, start=after + 1)
    ]
