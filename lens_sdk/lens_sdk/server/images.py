"""`/v1/images/...`: image generation and editing for OpenAI's clients."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any

from lens_reasoner import GeneratedImage, GenerationSettings, Generator
from lens_reasoner.settings import check_settings, rules_of
from lens_reasoner.types import MAX_SEED
from lens_sdk.generators import editing_generator
from lens_sdk.server.admission import Admission
from lens_sdk.server.answers import completed, replayed, size_of
from lens_sdk.server.bodies import EditsBody, ImagesBody
from lens_sdk.server.drawing import PreviewingGenerator, SharingSteps
from lens_sdk.server.edits import Source
from lens_sdk.server.errors import ApiError
from lens_sdk.server.idempotency import Answer, Idempotency
from lens_sdk.server.jobs import EDITS, EVENTS, GENERATIONS, Job, Partials
from lens_sdk.server.limits import ServerLimits
from lens_sdk.server.metrics import Metrics
from lens_sdk.server.pictures import PictureStore, encode
from lens_sdk.server.shared import EventLog, SharedWork
from lens_sdk.tracing import call_span


class ImageService:
    """Generates images; requests with the same idempotency key share the work."""

    def __init__(
        self,
        generator: Generator,
        *,
        admission: Admission,
        limits: ServerLimits,
        pictures: PictureStore,
        keys: Idempotency,
        metrics: Metrics,
    ) -> None:
        self._generator = generator
        self._admission = admission
        self._limits = limits
        self._pictures = pictures
        self._keys = keys
        self._metrics = metrics
        self._calls: asyncio.Semaphore | None = None

    async def begin_edit(
        self, body: EditsBody, source: Source, *, caller: str, key: str | None, base_url: str
    ) -> SharedWork[Answer]:
        """Start an edit, or join the one started with the same key; see `begin`.

        Args:
            body: The request.
            source: The image, already checked.
            caller: Identifies the caller.
            key: The idempotency key.
            base_url: The address at which the caller reached the server.

        Raises:
            ApiError: The request is refused.
            UnsupportedSettingError: The generator cannot edit images or does not support a setting.
            ImageFileError: The mask does not fit the image.
        """
        self._admission.check(body.n or 1)
        generator = await asyncio.to_thread(
            editing_generator, self._generator, source.image, source.mask
        )
        fingerprint = f"{body.fingerprint} {source.fingerprint}"
        job = partial(self._job, body, base_url, generator, EDITS)
        return self._begin(job, fingerprint, (caller, EDITS, key))

    def begin(
        self, body: ImagesBody, *, caller: str, key: str | None, base_url: str
    ) -> SharedWork[Answer]:
        """Start generating images, or join the work started with the same key.

        Raises:
            ApiError: The request is refused.
            UnsupportedSettingError: The generator does not support a setting.
        """
        job = partial(self._job, body, base_url, self._generator, GENERATIONS)
        return self._begin(job, body.fingerprint, (caller, GENERATIONS, key))

    def _begin(
        self, checked: Callable[[], Job], fingerprint: str, place: tuple[str, str, str | None]
    ) -> SharedWork[Answer]:
        def start() -> SharedWork[Answer]:
            job = checked()
            room = self._admission.take(len(job.seeds), len(job.seeds) * job.work)

            async def work(log: EventLog) -> Answer:
                answer = await self._draw(job, log)
                self._keys.keep(place, fingerprint, answer)
                return answer

            patience = self._limits.retry_seconds if place[2] is not None else 0.0
            shared = SharedWork(
                work,
                patience=patience,
                on_abandoned=self._metrics.abandoned.inc,
                wanted=partial(self._keys.wanted, place),
            )
            shared.on_done(lambda finished: room.leave(finished=finished))
            return shared

        shared, again = self._keys.once(
            place, fingerprint, start, partial(replayed, events=EVENTS[place[1]])
        )
        if again:
            self._metrics.replayed.inc()
        return shared

    def _job(self, body: ImagesBody, base_url: str, generator: Generator, endpoint: str) -> Job:
        number = body.n or 1
        if body.model not in {None, generator.name}:
            raise ApiError(
                404,
                f"The model {body.model!r} does not exist; this server has {generator.name!r}.",
                param="model",
                code="model_not_found",
            )
        width, height = body.width_and_height
        self._limits.check_text("prompt", body.prompt)
        self._limits.check_text("negative_prompt", body.negative_prompt)
        drawn = (width, height)
        if width is None and endpoint == EDITS:
            # An edit keeps the size of the image, which the caller chose.
            drawn = generator.capabilities.native_size or drawn
        self._limits.check_drawing(
            images=number, width=drawn[0], height=drawn[1], steps=body.num_inference_steps
        )
        settings = GenerationSettings(
            width=width,
            height=height,
            num_inference_steps=body.num_inference_steps,
            guidance_scale=body.guidance_scale,
            negative_prompt=body.negative_prompt,
            extra=body.extra,
        )
        settings = check_settings(
            settings,
            generator.capabilities,
            backend=generator.name,
            rules=rules_of(generator),
        )
        if body.seed is not None and not generator.capabilities.seed:
            raise ApiError.bad_request(f"{generator.name!r} takes no seed.", param="seed")
        first = secrets.randbelow(2**31) if body.seed is None else body.seed
        seeds = tuple((first + index) % (MAX_SEED + 1) for index in range(number))
        return Job(body, generator, settings, seeds, base_url, endpoint)

    def _slot(self, job: Job) -> AbstractAsyncContextManager[object]:
        """Limits concurrent calls to the generator; the shared batch does its own queueing."""
        if isinstance(job.generator, SharingSteps):
            return nullcontext()
        if self._calls is None:
            # If calls waited in threads, they could occupy all of them and leave none for encoding.
            self._calls = asyncio.Semaphore(self._generator.capabilities.max_concurrency)
        return self._calls

    async def _draw(self, job: Job, log: EventLog) -> Answer:
        started, capabilities = time.monotonic(), job.generator.capabilities
        parts: list[asyncio.Task[list[dict[str, Any]]]] = []

        async def draw(first: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
            async with self._slot(job):
                with call_span("image_generation") as span:
                    images = await self._generate(job, first, seeds, log)
                    span.tell(images)
            self._metrics.images.inc(len(images))
            self._metrics.image_seconds.observe(time.monotonic() - started)
            told = []
            for index, image in enumerate(images, start=first):
                datum = await asyncio.to_thread(self._datum, job, image)
                told.append(datum)
                event = completed(datum, index, job.kind, time.time(), job.events)
                log.keep(event["type"], json.dumps(event))
            return told

        try:
            async with asyncio.TaskGroup() as tasks:
                for first in range(0, len(job.seeds), capabilities.max_images):
                    seeds = job.seeds[first : first + capabilities.max_images]
                    parts.append(tasks.create_task(draw(first, seeds)))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0]  # noqa: B904 - its own cause says more than the group
        data = [datum for part in parts for datum in part.result()]
        return {
            "created": int(time.time()),
            "model": self._generator.name,
            "output_format": job.kind,
            "size": size_of(data[0]),
            "data": data,
        }

    async def _generate(
        self, job: Job, first: int, seeds: Sequence[int], log: EventLog
    ) -> list[GeneratedImage]:
        generator, previews = job.generator, job.body.partial_images or 0
        if not (job.body.stream and previews and isinstance(generator, PreviewingGenerator)):
            return await generator.generate(job.body.prompt, seeds=seeds, settings=job.settings)
        async with Partials(job, first, log) as partials:
            return await generator.generate_with_previews(
                job.body.prompt,
                seeds=seeds,
                settings=job.settings,
                on_preview=partials.show,
                previews=previews,
            )

    def _datum(self, job: Job, image: GeneratedImage) -> dict[str, Any]:
        """One image of the answer: OpenAI's fields and everything needed to reproduce the image."""
        quality = 100 if job.body.output_compression is None else job.body.output_compression
        data = encode(image, job.kind, quality)
        made = image.model_dump(mode="json", exclude={"data"})
        if job.body.response_format == "url":
            name = self._pictures.put(image, data, job.kind)
            return {"url": f"{job.base_url}files/{name}", **made}
        return {"b64_json": base64.b64encode(data).decode(), **made}
