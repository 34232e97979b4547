"""Metrics for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from lens_reasoner.atomic import write_atomically

if TYPE_CHECKING:
    from starlette.types import Scope

PUBLISH_SECONDS = 2.0
"""Seconds between the writes of a process that shares its metrics."""

_LOST_SECONDS = 10 * PUBLISH_SECONDS


class Metrics:
    """Metrics of one server; several servers in one process count separately."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._shared: tuple[Path, str] | None = None
        self.requests = Counter(
            "lens_requests", "Requests answered", ["route", "status"], registry=registry
        )
        self.images = Counter("lens_images", "Images generated for callers", registry=registry)
        self.image_seconds = Histogram(
            "lens_image_seconds",
            "Seconds from request to image",
            buckets=(0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320),
            registry=registry,
        )
        self.refused = Counter(
            "lens_refused", "Requests refused because of load", registry=registry
        )
        self.abandoned = Counter(
            "lens_abandoned", "Pieces of work ended because nobody waited", registry=registry
        )
        self.replayed = Counter(
            "lens_replayed", "Requests answered by earlier work of the same key", registry=registry
        )
        self.runs = Counter("lens_runs", "Runs ended", ["status"], registry=registry)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read when the metrics are requested."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def answered(self, scope: Scope, status: int) -> None:
        """Count an answer under its route's pattern, so that arbitrary paths do not add metrics."""
        route = getattr(scope.get("route"), "path", "unmatched")
        self.requests.labels(route, str(status)).inc()

    def share(self, folder: Path, name: str) -> None:
        """From now on, report the metrics of all processes that share a folder.

        Args:
            folder: Folder to which each process writes its metrics.
            name: Name of this process, used as the label `replica` of its metrics.
        """
        self._shared = folder, name

    def publish(self) -> None:
        """Write this process's metrics for the others; see `share`."""
        if self._shared is not None:
            folder, name = self._shared
            write_atomically(folder / f"{name}.prom", generate_latest(self._registry))

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        if self._shared is None:
            return generate_latest(self._registry)
        self.publish()
        together = CollectorRegistry()
        together.register(_Together(self._shared[0]))
        return generate_latest(together)


class _Together(Collector):
    """The metrics of all processes that published recently, labelled by process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        families: dict[str, Metric] = {}
        for path in sorted(self._folder.glob("*.prom")):
            try:
                old = time.time() - path.stat().st_mtime > _LOST_SECONDS
                text = path.read_text(encoding="utf-8")
            except FileNotFoundError:
                continue
            if old:
                path.unlink(missing_ok=True)
                continue
            for family in text_string_to_metric_families(text):
                known = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                known.samples += [
                    sample._replace(labels={**sample.labels, "replica": path.stem})
                    for sample in family.samples
                ]
        yield from families.values()
