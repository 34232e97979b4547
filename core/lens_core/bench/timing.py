"""Timing with device events where available, and summary statistics."""

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Work = Callable[[], object]
"""Work to measure; its return value is discarded."""


@dataclass(frozen=True)
class Timing:
    """Samples of one piece of work.

    Attributes:
        first: Seconds of the first call, which compiles and fills caches.
        samples: Seconds of each measured call.
        clock: `cuda events`, `host` or `processor`.
    """

    first: float
    samples: tuple[float, ...]
    clock: str

    @property
    def median(self) -> float:
        """The middle sample, in seconds."""
        return statistics.median(self.samples)

    @property
    def p95(self) -> float:
        """The 95th percentile, in seconds."""
        ordered = sorted(self.samples)
        return ordered[math.ceil(0.95 * len(ordered)) - 1]


PATIENCE = 20.0
"""Time budget in seconds for a case's calls after the first; slower work is repeated less."""

FEWEST = 3
"""Minimum number of measured calls, unless fewer are requested."""


def measure(work: Work, device: torch.device, warmup: int, repeats: int) -> Timing:
    """Time work on a device: with events on CUDA, with the host's clock elsewhere.

    Args:
        work: Called `warmup + repeats` times, at least three times; less often if it takes long.
        device: Where it computes.
        warmup: Number of unmeasured calls.
        repeats: Number of measured calls.
    """
    first, repeats = _warm_up(work, device, warmup, repeats)
    if device.type != "cuda":
        samples = tuple(seconds_on_host(work, device) for _ in range(repeats))
        return Timing(first, samples, "host")
    pairs = []
    for _ in range(repeats):
        begin, end = _event(), _event()
        begin.record()
        work()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize(device)
    samples = tuple(begin.elapsed_time(end) / 1000 for begin, end in pairs)
    return Timing(first, samples, "cuda events")


def _warm_up(work: Work, device: torch.device, warmup: int, repeats: int) -> tuple[float, int]:
    """Return the seconds of the first call, and how many measured calls fit into the budget."""
    first = seconds_on_host(work, device)
    begin = time.perf_counter()
    # The first call compiles, so another call is needed to estimate the duration.
    for _ in range(max(1, warmup - 1)):
        latest = seconds_on_host(work, device)
        if time.perf_counter() - begin > PATIENCE:
            break
    affordable = int(PATIENCE / max(latest, 1e-9))
    return first, min(repeats, max(FEWEST, affordable))


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def measure_on_host(work: Work, device: torch.device, warmup: int, repeats: int) -> Timing:
    """Time work as its caller experiences it: from the call until the device is idle."""
    first, repeats = _warm_up(work, device, warmup, repeats)
    samples = tuple(seconds_on_host(work, device) for _ in range(repeats))
    return Timing(first, samples, "host")


def seconds_on_host(work: Work, device: torch.device) -> float:
    """Return the seconds of one call, until the device is idle."""
    synchronise(device)
    begin = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - begin


def synchronise(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Comparison:
    """Comparison of two paths by alternating calls.

    Attributes:
        base: Median seconds of the first path.
        other: Median seconds of the second.
        ratio: Median of `other / base` over pairs.
        interval: 95 % bootstrap interval of that median.
        pairs: Number of pairs.
        clock: `host`, or `processor` for the process's CPU time, which other programs on the
            machine affect little.
    """

    base: float
    other: float
    ratio: float
    interval: tuple[float, float]
    pairs: int
    clock: str


def compare(
    base: Work, other: Work, device: torch.device, pairs: int, warmup: int = 1
) -> Comparison:
    """Time two paths alternately (ABBA), so that drift affects both equally.

    Args:
        base: The path to compare with.
        other: The path under test.
        device: Where both compute.
        pairs: Number of measured calls of each.
        warmup: Number of unmeasured calls of each.
    """
    clock = "host" if device.type == "cuda" else "processor"
    for _ in range(warmup):
        base()
        other()
    found: list[tuple[float, float]] = []
    for index in range(pairs):
        order = (base, other) if index % 2 == 0 else (other, base)
        seconds = [_seconds(work, device, clock) for work in order]
        found.append((seconds[0], seconds[1]) if index % 2 == 0 else (seconds[1], seconds[0]))
    ratios = [second / first for first, second in found]
    return Comparison(
        base=statistics.median(first for first, _ in found),
        other=statistics.median(second for _, second in found),
        ratio=statistics.median(ratios),
        interval=median_interval(ratios),
        pairs=pairs,
        clock=clock,
    )


def median_interval(values: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a median; deterministic."""
    rng = random.Random(0)
    medians = sorted(
        statistics.median(rng.choices(values, k=len(values))) for _ in range(resamples)
    )
    return medians[int(0.025 * resamples)], medians[int(0.975 * resamples) - 1]


def _seconds(work: Work, device: torch.device, clock: str) -> float:
    if clock == "host":
        return seconds_on_host(work, device)
    begin = time.process_time()
    work()
    return time.process_time() - begin
