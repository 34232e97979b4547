"""Numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from starlette.types import Scope


class Metrics:
    """Counters of one server; several servers in a process count apart."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lens_requests", "Requests answered", ["route", "status"], registry=registry
        )
        self.images = Counter("lens_images", "Pictures drawn for callers", registry=registry)
        self.image_seconds = Histogram(
            "lens_image_seconds",
            "Seconds from asking to the picture",
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
        """Add a number that is read when it is asked for."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def answered(self, scope: Scope, status: int) -> None:
        """Count an answer under the route's pattern, so that made-up paths add no lines."""
        route = getattr(scope.get("route"), "path", "unmatched")
        self.requests.labels(route, str(status)).inc()

    def text(self) -> bytes:
        """All numbers in Prometheus's text format."""
        return generate_latest(self._registry)
