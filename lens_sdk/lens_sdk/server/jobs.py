"""A checked request for images, and the previews it streams."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass
from typing import Any

from lens_reasoner import GenerationSettings, Generator
from lens_sdk.server.bodies import ImagesBody
from lens_sdk.server.pictures import encode_pil
from lens_sdk.server.scheduler import Preview
from lens_sdk.server.shared import EventLog

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
EVENTS = {GENERATIONS: "image_generation", EDITS: "image_edit"}


@dataclass(frozen=True)
class Job:
    """One checked request.

    Attributes:
        body: The body as it was sent.
        generator: The generator to use.
        settings: The generation settings.
        seeds: One seed per image.
        base_url: The address at which the caller reached the server, for image URLs.
        endpoint: Path of the endpoint.
    """

    body: ImagesBody
    generator: Generator
    settings: GenerationSettings
    seeds: tuple[int, ...]
    base_url: str
    endpoint: str

    @property
    def kind(self) -> str:
        """Image file format."""
        return self.body.output_format or "png"

    @property
    def events(self) -> str:
        """Prefix of the names of the events."""
        return EVENTS[self.endpoint]

    @property
    def work(self) -> float:
        """Pixel steps of one image: width times height times steps."""
        settings = self.settings
        own = self.generator.capabilities.native_size or (1024, 1024)
        pixels = (settings.width or own[0]) * (settings.height or own[1])
        return pixels * float(settings.num_inference_steps or 20)


class Partials:
    """Sends a call's previews in order, encoding them while the model continues.

    Leaving the context waits until all are sent; if the call failed, the rest is dropped.

    Args:
        job: The request.
        first: Index of the call's first image in the request.
        log: Log that receives the events.
    """

    def __init__(self, job: Job, first: int, log: EventLog) -> None:
        self._job, self._first, self._log = job, first, log
        self._loop = asyncio.get_running_loop()
        self._in_turn = asyncio.Lock()
        self._telling: list[asyncio.Task[None]] = []
        self._told: dict[int, int] = {}

    def show(self, preview: Preview, index: int) -> None:
        """Accept a preview; called from the scheduler's thread."""
        self._loop.call_soon_threadsafe(self._begin, preview, index)

    async def __aenter__(self) -> Partials:
        """Return the object."""
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        """Wait for the previews that are still being encoded."""
        if error is not None:
            for task in self._telling:
                task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=error is not None)

    def _begin(self, preview: Preview, index: int) -> None:
        self._telling.append(self._loop.create_task(self._tell(preview, index)))

    async def _tell(self, preview: Preview, index: int) -> None:
        async with self._in_turn:
            data = await asyncio.to_thread(self._encoded, preview)
            number = self._told[index] = self._told.get(index, -1) + 1
            event = {
                "type": f"{self._job.events}.partial_image",
                "partial_image_index": number,
                "index": self._first + index,
                **self._fields(data, preview.size),
            }
            self._log.keep(str(event["type"]), json.dumps(event))

    def _encoded(self, preview: Preview) -> bytes:
        return encode_pil(preview.enlarged(), self._job.kind)

    def _fields(self, data: bytes, size: tuple[int, int]) -> dict[str, Any]:
        return {
            "b64_json": base64.b64encode(data).decode(),
            "created_at": int(time.time()),
            "output_format": self._job.kind,
            "size": f"{size[0]}x{size[1]}",
            "quality": "auto",
            "background": "opaque",
        }
