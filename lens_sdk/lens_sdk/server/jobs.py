"""A checked request for pictures, and how its unfinished ones are told."""

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
    """One request, checked.

    Attributes:
        body: As it was sent.
        generator: Who draws.
        settings: How to draw.
        seeds: One for each picture.
        base_url: Where the server was asked, for addresses of pictures.
        endpoint: Which one was asked.
    """

    body: ImagesBody
    generator: Generator
    settings: GenerationSettings
    seeds: tuple[int, ...]
    base_url: str
    endpoint: str

    @property
    def kind(self) -> str:
        """Kind of picture file."""
        return self.body.output_format or "png"

    @property
    def events(self) -> str:
        """What the names of its events begin with."""
        return EVENTS[self.endpoint]

    @property
    def work(self) -> float:
        """Pixel steps of one picture."""
        settings = self.settings
        own = self.generator.capabilities.native_size or (1024, 1024)
        pixels = (settings.width or own[0]) * (settings.height or own[1])
        return pixels * float(settings.num_inference_steps or 20)


class Partials:
    """Tells a call's unfinished pictures in order, encoding them while the model goes on.

    Leaving it waits until all are told; where the call failed, those that are left are dropped.

    Args:
        job: The request.
        first: Number of the call's first picture in it.
        log: Where to tell.
    """

    def __init__(self, job: Job, first: int, log: EventLog) -> None:
        self._job, self._first, self._log = job, first, log
        self._loop = asyncio.get_running_loop()
        self._in_turn = asyncio.Lock()
        self._telling: list[asyncio.Task[None]] = []
        self._told: dict[int, int] = {}

    def show(self, preview: Preview, index: int) -> None:
        """Take an unfinished picture; called from the drawing thread."""
        self._loop.call_soon_threadsafe(self._begin, preview, index)

    async def __aenter__(self) -> Partials:
        """Begin."""
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        """Wait for what is being encoded."""
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
