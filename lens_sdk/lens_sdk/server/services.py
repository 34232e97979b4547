"""The services behind the endpoints."""

from __future__ import annotations

from dataclasses import dataclass

from lens_reasoner import RunStore
from lens_sdk.server.admission import Admission
from lens_sdk.server.claims import Claims
from lens_sdk.server.config import ServerConfig
from lens_sdk.server.drawing import BatchingLensGenerator
from lens_sdk.server.idempotency import Idempotency
from lens_sdk.server.images import ImageService
from lens_sdk.server.metrics import Metrics
from lens_sdk.server.pictures import PictureStore
from lens_sdk.server.runs import RunService


@dataclass
class Services:
    """The services behind the endpoints.

    Attributes:
        config: The server's configuration.
        admission: Limits how much work may wait.
        images: Generates and edits single images.
        runs: Runs of the loop.
        pictures: Images that are served at URLs.
        metrics: Metrics for Prometheus.
        ready: Whether the model is loaded.
    """

    config: ServerConfig
    admission: Admission
    images: ImageService
    runs: RunService
    pictures: PictureStore
    metrics: Metrics
    ready: bool = False

    @classmethod
    def of(cls, config: ServerConfig) -> Services:
        """Create the services of a new server."""
        metrics, limits = Metrics(), config.limits
        admission = Admission(limits.waiting_images)
        keys = Idempotency(config.folder / "answers")
        pictures = PictureStore(config.folder / "files")
        images = ImageService(
            config.parts.generator,
            admission=admission,
            limits=limits,
            pictures=pictures,
            keys=keys,
            metrics=metrics,
        )
        store = RunStore(config.folder / "runs")
        runs = RunService(
            store,
            config.parts,
            claims=Claims(config.folder / "live"),
            admission=admission,
            limits=limits,
            keys=keys,
            metrics=metrics,
        )
        services = cls(config, admission, images, runs, pictures, metrics)
        services._watch()
        return services

    def drain(self) -> None:
        """Accept no new work, and release clients that follow runs so that they can reconnect."""
        self.admission.draining = True
        self.runs.wake()

    def _watch(self) -> None:
        metrics, generator = self.metrics, self.config.parts.generator
        metrics.watch(
            "lens_images_admitted",
            "Images being generated or waiting",
            lambda: self.admission.images,
        )
        metrics.watch("lens_runs_active", "Runs under way", lambda: self.runs.running)
        if isinstance(generator, BatchingLensGenerator):
            scheduler = generator.scheduler
            metrics.watch("lens_batch_images", "Images in the batch", lambda: scheduler.in_work)
            metrics.watch(
                "lens_batch_waiting", "Images waiting for the batch", lambda: scheduler.waiting
            )
            metrics.watch("lens_batch_steps", "Batched steps done", lambda: scheduler.steps)
