"""`/v1/images/generations`: pictures from prompts, as OpenAI's clients ask for them."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lens_reasoner import GeneratedImage, GenerationSettings, Generator, Usage
from lens_reasoner.settings import check_settings
from lens_reasoner.types import MAX_SEED
from lens_sdk.server.admission import Admission
from lens_sdk.server.bodies import ImagesBody
from lens_sdk.server.drawing import PreviewingGenerator
from lens_sdk.server.errors import ApiError, api_error
from lens_sdk.server.idempotency import Answer, Idempotency
from lens_sdk.server.limits import ServerLimits
from lens_sdk.server.metrics import Metrics
from lens_sdk.server.pictures import PictureStore, encode, encode_pil
from lens_sdk.server.shared import EventLog, SharedWork
from lens_sdk.server.sse import frame

if TYPE_CHECKING:
    from PIL.Image import Image

ENDPOINT = "/v1/images/generations"
PARTIAL = "image_generation.partial_image"
COMPLETED = "image_generation.completed"


@dataclass(frozen=True)
class Job:
    """One request, checked.

    Attributes:
        body: As it was sent.
        settings: How to draw.
        seeds: One for each picture.
        base_url: Where the server was asked, for addresses of pictures.
    """

    body: ImagesBody
    settings: GenerationSettings
    seeds: tuple[int, ...]
    base_url: str

    @property
    def kind(self) -> str:
        """Kind of picture file."""
        return self.body.output_format or "png"


class ImageService:
    """Draws for callers, sharing what is asked for twice under one idempotency key."""

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

    def begin(
        self, body: ImagesBody, *, caller: str, key: str | None, base_url: str
    ) -> SharedWork[Answer]:
        """Begin to draw, or join what the same key began.

        Raises:
            ApiError: The request is refused.
            UnsupportedSettingError: The generator cannot honour it.
        """
        fingerprint, place = body.fingerprint, (caller, ENDPOINT, key)

        def start() -> SharedWork[Answer]:
            job = self._job(body, base_url)
            room = self._admission.take(len(job.seeds), len(job.seeds) * self._work(job.settings))

            async def work(log: EventLog) -> Answer:
                answer = await self._draw(job, log)
                self._keys.keep(place, fingerprint, answer)
                return answer

            patience = self._limits.retry_seconds if key is not None else 0.0
            shared = SharedWork(work, patience=patience, on_abandoned=self._metrics.abandoned.inc)
            shared.on_done(lambda finished: room.leave(finished=finished))
            return shared

        try:
            shared, again = self._keys.once(place, fingerprint, start, _replayed)
        except ApiError as error:
            if error.status == 429:
                self._metrics.refused.inc()
            raise
        if again:
            self._metrics.replayed.inc()
        return shared

    def _job(self, body: ImagesBody, base_url: str) -> Job:
        generator, number = self._generator, body.n or 1
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
        self._limits.check_drawing(
            images=number, width=width, height=height, steps=body.num_inference_steps
        )
        settings = GenerationSettings(
            width=width,
            height=height,
            num_inference_steps=body.num_inference_steps,
            guidance_scale=body.guidance_scale,
            negative_prompt=body.negative_prompt,
        )
        settings = check_settings(settings, generator.capabilities, backend=generator.name)
        if body.seed is not None and not generator.capabilities.seed:
            raise ApiError.bad_request(f"{generator.name!r} takes no seed.", param="seed")
        first = secrets.randbelow(2**31) if body.seed is None else body.seed
        seeds = tuple((first + index) % (MAX_SEED + 1) for index in range(number))
        return Job(body, settings, seeds, base_url)

    def _work(self, settings: GenerationSettings) -> float:
        own = self._generator.capabilities.native_size or (1024, 1024)
        pixels = (settings.width or own[0]) * (settings.height or own[1])
        return pixels * float(settings.num_inference_steps or 20)

    async def _draw(self, job: Job, log: EventLog) -> Answer:
        started, capabilities = time.monotonic(), self._generator.capabilities
        slots = asyncio.Semaphore(capabilities.max_concurrency)
        parts: list[asyncio.Task[list[dict[str, Any]]]] = []

        async def draw(first: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
            async with slots:
                images = await self._generate(job, first, seeds, log)
            self._metrics.images.inc(len(images))
            self._metrics.image_seconds.observe(time.monotonic() - started)
            told = []
            for index, image in enumerate(images, start=first):
                datum = await asyncio.to_thread(self._datum, job, image)
                told.append(datum)
                event = _completed(datum, index, job.kind, time.time())
                log.keep(COMPLETED, json.dumps(event))
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
            "size": _size(data[0]),
            "data": data,
        }

    async def _generate(
        self, job: Job, first: int, seeds: Sequence[int], log: EventLog
    ) -> list[GeneratedImage]:
        generator, previews = self._generator, job.body.partial_images or 0
        if not (job.body.stream and previews and isinstance(generator, PreviewingGenerator)):
            return await generator.generate(job.body.prompt, seeds=seeds, settings=job.settings)
        loop = asyncio.get_running_loop()
        shown: dict[int, int] = {}

        def tell(index: int, data: bytes) -> None:
            shown[index] = shown.get(index, -1) + 1
            event = {
                "type": PARTIAL,
                "partial_image_index": shown[index],
                "index": first + index,
                **_picture_fields(job, data, time.time()),
            }
            log.keep(PARTIAL, json.dumps(event))

        def on_preview(picture: Image, index: int) -> None:
            data = encode_pil(picture, job.kind)
            loop.call_soon_threadsafe(tell, index, data)

        return await generator.generate_with_previews(
            job.body.prompt,
            seeds=seeds,
            settings=job.settings,
            on_preview=on_preview,
            previews=previews,
        )

    def _datum(self, job: Job, image: GeneratedImage) -> dict[str, Any]:
        """One picture of the answer; beside OpenAI's fields it has all that made it."""
        quality = 100 if job.body.output_compression is None else job.body.output_compression
        data = encode(image, job.kind, quality)
        made = image.model_dump(mode="json", exclude={"data"})
        if job.body.response_format == "url":
            name = self._pictures.put(image, data, job.kind)
            return {"url": f"{job.base_url}files/{name}", **made}
        return {"b64_json": base64.b64encode(data).decode(), **made}


async def frames(work: SharedWork[Answer]) -> AsyncIterator[str]:
    """The events of a streamed answer; leaving them counts as leaving the work."""
    with work.joined():
        async for entry in work.log.follow():
            yield frame(entry)
        try:
            await work.result()
        except Exception as error:
            yield f"event: error\ndata: {json.dumps(api_error(error).body)}\n\n"


def _replayed(answer: Answer) -> SharedWork[Answer]:
    """Work that is done already: an answer that was kept."""

    async def work(log: EventLog) -> Answer:
        for index, datum in enumerate(answer["data"]):
            kind, created = answer["output_format"], answer["created"]
            log.keep(COMPLETED, json.dumps(_completed(datum, index, kind, created)))
        return answer

    return SharedWork(work)


def _completed(datum: dict[str, Any], index: int, kind: str, created: float) -> dict[str, Any]:
    return {
        **datum,
        "type": COMPLETED,
        "index": index,
        "created_at": int(created),
        "output_format": kind,
        "size": _size(datum),
        "quality": "auto",
        "background": "opaque",
        "usage": _usage(Usage.model_validate(datum["usage"])),
    }


def _picture_fields(job: Job, data: bytes, now: float) -> dict[str, Any]:
    return {
        "b64_json": base64.b64encode(data).decode(),
        "created_at": int(now),
        "output_format": job.kind,
        "size": job.body.size or "auto",
        "quality": "auto",
        "background": "opaque",
    }


def _size(datum: dict[str, Any]) -> str:
    settings = datum["settings"]
    return f"{settings['width']}x{settings['height']}" if settings["width"] else "auto"


def _usage(usage: Usage) -> dict[str, Any] | None:
    """Tokens in OpenAI's shape; None where they are not known."""
    read, written = usage.input_tokens, usage.output_tokens
    if read is None or written is None:
        return None
    return {
        "input_tokens": read,
        "output_tokens": written,
        "total_tokens": read + written,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": read},
    }
