"""Scale and reports of the load test."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from load_client import Outcome, Wanted
from load_server import Server

DRAWN = "lens_images_total"
"""The metric that counts generated images."""


@dataclass(frozen=True)
class Scale:
    """Scale of the load test.

    Attributes:
        batches: Numbers of concurrent clients, and so the largest batches.
        per_batch: Number of images for each of those.
        size: Size of these images.
        steps: Sampler steps of these images.
        clients: Number of clients that send requests at once.
        slow: Number of slow readers.
        leavers: Number of clients that disconnect midway.
        killed: Number of requests running or waiting when the server is killed.
        requests: Number of cheap requests while memory is monitored.
        warm: How many of these precede the point from which memory should be stable.
    """

    batches: tuple[int, ...] = (1, 2, 4, 8)
    per_batch: int = 16
    size: str = "128x128"
    steps: int = 20
    clients: int = 200
    slow: int = 8
    leavers: int = 24
    killed: int = 40
    requests: int = 2000
    warm: int = 500


QUICK = Scale((1, 2), 2, "64x64", 2, 12, 2, 4, 8, 32, 16)


@dataclass
class Load:
    """A server, the scale of the load, and the counter that makes requests unique."""

    server: Server
    scale: Scale = field(default_factory=Scale)
    asked: int = 0

    def wanted(self, count: int, **options: Any) -> list[Wanted]:
        """Create `count` requests that have not been made before."""
        first, self.asked = self.asked + 1, self.asked + count
        return [Wanted(number, **options) for number in range(first, first + count)]


@dataclass
class Report:
    """Figures of a case, and the results of its checks."""

    figures: dict[str, Any]
    checks: dict[str, bool]
    notes: list[str] = field(default_factory=list)


def with_key(wanted: Wanted) -> Wanted:
    """Return the same request with an idempotency key."""
    return replace(wanted, key=str(uuid.uuid4()))


def sound(outcomes: Sequence[Outcome]) -> dict[str, bool]:
    return {
        "no request lost": all(not one.error for one in outcomes),
        "no pictures mixed up": not any(one.mistakes for one in outcomes),
    }


def notes(outcomes: Sequence[Outcome]) -> list[str]:
    errors = [f"{one.wanted.number}: {one.error}" for one in outcomes if one.error]
    return (errors + [f"{o.wanted.number}: {m}" for o in outcomes for m in o.mistakes])[:20]


def latency(seconds: Sequence[float]) -> dict[str, float]:
    middle, late = np.percentile(seconds, [50, 95])
    return {"p50_seconds": round(float(middle), 3), "p95_seconds": round(float(late), 3)}


def idle(server: Server) -> bool:
    return server.metric("lens_images_admitted") == 0


async def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > end:
            raise TimeoutError("the server does not get there")
        await asyncio.sleep(0.1)
