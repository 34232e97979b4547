"""Whoever asks a server waits for their own turn, not for everybody else's."""

import asyncio
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from PIL import Image

from lens_reasoner import FunctionGenerator, GenerationSettings
from lens_sdk.runtime import LensRuntime
from lens_sdk.server.config import ServerConfig, serving_parts
from lens_sdk.server.drawing import BatchingLensGenerator
from loopback_lens import Running, serving

HARD = {"request": "three red apples left of a blue cup"}
"""A request of which lens-nano writes many drafts."""


async def test_a_picture_does_not_wait_for_the_rewrites_of_others(running: Running) -> None:
    picture = {"prompt": "a star", "size": "64x64", "num_inference_steps": 3}
    async with httpx.AsyncClient(base_url=running.v1, timeout=120) as client:
        rewrites = [asyncio.create_task(client.post("rewrites", json=HARD)) for _ in range(12)]
        while running.services.admission.parts < len(rewrites):
            await asyncio.sleep(0.01)
        answer = await client.post("images/generations", json=picture)
        assert answer.status_code == 200
        assert sum(task.done() for task in rewrites) <= 1
        for task in rewrites:
            task.cancel()
        await asyncio.gather(*rewrites, return_exceptions=True)


async def test_many_short_steps_are_one_turn(runtime: LensRuntime) -> None:
    over, turns = threading.Event(), 0

    def write() -> None:
        nonlocal turns
        while not over.is_set():
            with runtime.exclusive():
                turns += 1
                time.sleep(0.02)

    generator = BatchingLensGenerator(runtime)
    writing = threading.Thread(target=write)
    writing.start()
    try:
        settings = GenerationSettings(width=64, height=64, num_inference_steps=40)
        await generator.generate("a star", seeds=[1], settings=settings)
    finally:
        over.set()
        writing.join()
        generator.close()
    assert turns < 20


async def test_a_generator_that_blocks_answers_one_caller_after_the_other(tmp_path: Path) -> None:
    drawn = 0

    def draw(prompt: str, seed: int) -> Image.Image:
        nonlocal drawn
        time.sleep(0.02)
        drawn += 1
        return Image.new("RGB", (8, 8))

    parts = serving_parts(FunctionGenerator(draw), reasoner="none", judge="none")
    server = serving(ServerConfig(parts, folder=tmp_path))
    async with httpx.AsyncClient(base_url=server.v1, timeout=60) as client:
        coroutines = [
            client.post("images/generations", json={"prompt": "a star"}) for _ in [0] * 24
        ]
        asked = [asyncio.create_task(coroutine) for coroutine in coroutines]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert drawn < len(asked) / 2
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
    await asyncio.to_thread(server.stop)


def test_no_more_rewrites_than_there_is_room_for(running: Running) -> None:
    admission, most = running.services.admission, running.services.config.limits.parts
    with ExitStack() as others:
        for _ in range(most):
            others.enter_context(admission.part(most))
        refused = httpx.post(f"{running.v1}/rewrites", json=HARD)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
    assert admission.parts == 0
