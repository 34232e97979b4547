"""Clients of the load test: their requests, retries and checks."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from lens_reasoner import GeneratedImage

GENERATIONS = "/v1/images/generations"
COLORS = ("red", "blue", "green", "yellow", "purple", "orange")
THINGS = ("apple", "cup", "star", "house", "tree", "ball", "car")
AGAIN_SECONDS = 0.5
"""Delay after a broken connection before retrying with the same key."""


@dataclass(frozen=True)
class Wanted:
    """One request; no two of a test share a prompt or a seed."""

    number: int
    size: str = "64x64"
    steps: int = 3
    n: int = 1
    key: str | None = None
    url: bool = False
    stream: bool = False
    previews: int = 0

    @property
    def seed(self) -> int:
        return self.number * 100

    @property
    def prompt(self) -> str:
        color, thing = COLORS[self.number % 6], THINGS[self.number // 6 % 7]
        return f"a {color} {thing}, picture number {self.number}"

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt": self.prompt,
            "seed": self.seed,
            "size": self.size,
            "num_inference_steps": self.steps,
            "n": self.n,
        }
        if self.url:
            body["response_format"] = "url"
        if self.stream:
            body |= {"stream": True, "partial_images": self.previews}
        return body

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"idempotency-key": self.key}


@dataclass
class Outcome:
    """What became of a request.

    Attributes:
        wanted: The request.
        seconds: Duration of the successful call.
        total_seconds: Duration including all waiting and retries.
        refusals: Number of 429 responses.
        broken: Number of broken connections.
        error: Why there are no images; empty if there are.
        mistakes: What is wrong with the images or the rejections.
        pictures: PNG files.
    """

    wanted: Wanted
    seconds: float = 0.0
    total_seconds: float = 0.0
    refusals: int = 0
    broken: int = 0
    error: str = ""
    mistakes: list[str] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list, repr=False)


def new_client(url: str, **options: Any) -> httpx.AsyncClient:
    """Create a client without timeouts or connection limits."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    timeout = httpx.Timeout(600, connect=120)
    return httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, **options)


async def ask(client: httpx.AsyncClient, wanted: Wanted) -> Outcome:
    """Retry until answered: wait as told after a rejection, reuse the key after a broken call."""
    outcome, started = Outcome(wanted), time.perf_counter()
    while True:
        began = time.perf_counter()
        try:
            wait = await _once(client, wanted, outcome)
        except httpx.TransportError as error:
            outcome.broken += 1
            if wanted.key is None:
                outcome.error = f"{type(error).__name__}: {error}"
                break
            wait = AGAIN_SECONDS
        if wait is None:
            break
        await asyncio.sleep(wait)
    outcome.seconds = time.perf_counter() - began
    outcome.total_seconds = time.perf_counter() - started
    return outcome


async def ask_all(url: str, wanted: Sequence[Wanted], *, clients: int) -> list[Outcome]:
    """Send all requests, with `clients` at a time."""
    todo, done = list(reversed(wanted)), []
    async with new_client(url) as client:

        async def work() -> None:
            while todo:
                done.append(await ask(client, todo.pop()))

        await asyncio.gather(*(work() for _ in range(clients)))
    return done


async def _once(client: httpx.AsyncClient, wanted: Wanted, outcome: Outcome) -> float | None:
    """Make one call; return the seconds to wait before the next one, or None if finished."""
    answer = await client.post(GENERATIONS, json=wanted.body, headers=wanted.headers)
    if answer.status_code in {429, 503}:
        outcome.refusals += answer.status_code == 429
        after = answer.headers.get("retry-after", "")
        if not after.isdigit() or int(after) < 1:
            outcome.mistakes.append(f"{answer.status_code} with Retry-After {after!r}")
            return 1.0
        return float(after)
    if answer.status_code != 200:
        outcome.error = f"{answer.status_code} {answer.text[:200]}"
        return None
    data = finished(answer.text, outcome) if wanted.stream else answer.json()["data"]
    for datum in data:
        if wanted.url:
            fetched = await client.get(datum["url"])
            outcome.pictures.append(fetched.content)
            outcome.mistakes += _metadata_mistakes(fetched.content, datum)
        else:
            outcome.pictures.append(base64.b64decode(datum["b64_json"]))
    outcome.mistakes += mistakes(wanted, data, outcome.pictures)
    return None


def finished(text: str, outcome: Outcome) -> list[dict[str, Any]]:
    """Return the finished images of an event stream; record any error in the outcome."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    outcome.error = next((json.dumps(event) for event in events if "error" in event), "")
    return [event for event in events if str(event.get("type")).endswith(".completed")]


def mistakes(
    wanted: Wanted, data: Sequence[dict[str, Any]], pictures: Sequence[bytes]
) -> list[str]:
    """List how an answer differs from the request in number, seeds, prompt or size."""
    found = [] if len(data) == wanted.n else [f"{len(data)} pictures instead of {wanted.n}"]
    # Streams send images in order of completion.
    data = sorted(data, key=lambda datum: int(datum["seed"]))
    for index, datum in enumerate(data):
        told = datum["seed"], datum["prompt"]
        if told != (wanted.seed + index, wanted.prompt):
            found.append(f"{told} instead of {(wanted.seed + index, wanted.prompt)}")
    for picture in pictures:
        width, height = Image.open(io.BytesIO(picture)).size
        if f"{width}x{height}" != wanted.size:
            found.append(f"{width}x{height} instead of {wanted.size}")
    return found


def _metadata_mistakes(picture: bytes, datum: dict[str, Any]) -> list[str]:
    """List differences between the PNG file's metadata and the answer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        path.write_bytes(picture)
        image = GeneratedImage.load(path)
    if (image.seed, image.prompt) == (datum["seed"], datum["prompt"]):
        return []
    return [f"the file says {(image.seed, image.prompt)}, the answer {datum['seed']}"]


def pixels(picture: bytes) -> np.ndarray:
    """Return the pixels of an image file."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=int)


def difference(one: bytes, other: bytes) -> int:
    """Return the largest pixel difference of two images, of 255."""
    return int(np.abs(pixels(one) - pixels(other)).max())
