"""`Lens` and `AsyncLens`: the same calls in this process and on a server."""

import asyncio
import pickle
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from lens_reasoner import (
    FunctionGenerator,
    GeneratorError,
    LoopLimits,
    UnsupportedSettingError,
    fold_events,
)
from lens_sdk.client.errors import (
    AuthenticationError,
    LensServerError,
    RequestRefusedError,
    RunEndedError,
    ServerBusyError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from lens_sdk.client.lens import AsyncLens
from lens_sdk.client.plain import Lens
from lens_sdk.client.types import Timeouts
from lens_sdk.errors import PartlyDrawnError, SettingsError
from lens_sdk.local import LocalLensGenerator
from lens_sdk.runtime import LensRuntime
from lens_sdk.server.guard import ApiKeys
from lens_sdk.server.limits import ServerLimits
from loopback_lens import SMALL, Running, Start, until

TEXT = "two red apples left of a blue cup"
LONG = {"width": 128, "height": 128, "num_inference_steps": 200}


@pytest.fixture(params=["here", "server"])
async def lens(
    request: pytest.FixtureRequest, runtime: LensRuntime, running: Running, tmp_path: Path
) -> AsyncIterator[AsyncLens]:
    if request.param == "here":
        client = AsyncLens(LocalLensGenerator(runtime), folder=tmp_path / "runs")
    else:
        client = AsyncLens(base_url=running.url)
    async with client:
        yield client


async def test_pictures(lens: AsyncLens, runtime: LensRuntime) -> None:
    images = await lens.images.generate(TEXT, n=2, seed=3, guidance_scale=2, **SMALL)
    direct = await AsyncLens(LocalLensGenerator(runtime)).images.generate(
        TEXT, n=2, seed=3, guidance_scale=2, **SMALL
    )
    for image, expected in zip(images, direct, strict=True):
        # The recipe names the batch, which is another one on a server.
        varying = {"data", "timings", "recipe"}
        assert image.model_dump(exclude=varying) == expected.model_dump(exclude=varying)
        near = np.abs(np.asarray(image.image, int) - np.asarray(expected.image, int))
        assert near.max() <= 1


async def test_a_run_event_by_event_and_its_record(lens: AsyncLens) -> None:
    stream = lens.stream(TEXT, num_images=2, seed=3, limits=LoopLimits(max_rounds=2), **SMALL)
    events = [event async for event in stream]
    assert events[0].type == "started"
    assert events[-1].type == "finished"
    assert "step" in {event.type for event in events}
    result = fold_events(events)
    assert result.best is not None
    assert result.best.verdict is not None
    assert stream.id is not None
    info = await lens.runs.get(stream.id)
    assert (info.status, info.request, info.limits.max_rounds) == ("finished", result.request, 2)
    assert info in await lens.runs.list()
    assert await lens.runs.result(stream.id) == result
    assert await lens.runs.resume(stream.id) == result


async def test_a_run_whose_judge_was_away_is_judged_when_it_goes_on(
    lens: AsyncLens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server left it as it was, and its client stopped reading at the first end of two."""

    async def away(*_: Any) -> None:
        raise RuntimeError("away")

    with monkeypatch.context() as patched:
        patched.setattr("lens_sdk.nano_judge.NanoJudge.judge", away)
        stream = lens.stream(TEXT, **SMALL)
        result = await stream.result()
        assert (result.stop_reason, result.best.score) == ("unjudged", None)
    name = str(stream.id)
    for _ in range(2):
        judged = await lens.runs.resume(name)
        assert judged.stop_reason != "unjudged"
        assert judged.best.score is not None
        assert judged.best.image.data == result.best.image.data
        assert judged == await lens.runs.result(name)


async def test_rewriting_and_judging(lens: AsyncLens) -> None:
    rewrite = await lens.rewrite(TEXT)
    assert rewrite.type if hasattr(rewrite, "type") else rewrite.prompt
    image = (await lens.images.generate(TEXT, seed=3, **SMALL))[0]
    judgement = await lens.judge(image, TEXT)
    assert judgement.verdict.image_sha256 == image.sha256
    assert judgement.score == judgement.verdict.score is not None
    again = await lens.judge(image.data, TEXT, rubric=judgement.rubric)
    assert again.verdict.verdicts == judgement.verdict.verdicts


async def test_what_is_wrong_is_told(lens: AsyncLens) -> None:
    with pytest.raises((UnsupportedSettingError, RequestRefusedError), match="multiples of 16"):
        await lens.images.generate(TEXT, width=65, height=64)
    with pytest.raises((UnsupportedSettingError, RequestRefusedError), match="multiples of 16"):
        await lens.create(TEXT, width=65, height=64)
    with pytest.raises(ValidationError, match="wish"):
        await lens.create(TEXT, wish=1)


async def test_a_run_left_early_stops_drawing(start: Start) -> None:
    running = start()
    async with AsyncLens(base_url=running.url) as lens:
        stream = lens.stream(TEXT, **LONG)
        async with stream:
            async for event in stream:
                if event.type == "step":
                    break
        until(lambda: running.generator.scheduler.in_work == 0)
        assert (await lens.runs.get(str(stream.id))).status == "cancelled"

        task = asyncio.create_task(lens.create(TEXT, **LONG))
        while not running.generator.scheduler.in_work:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while running.generator.scheduler.in_work:
            await asyncio.sleep(0.01)


async def test_a_run_ended_by_others_says_so(start: Start) -> None:
    running = start()
    async with AsyncLens(base_url=running.url) as lens:
        stream = lens.stream(TEXT, **LONG)
        with pytest.raises(RunEndedError, match="cancelled") as caught:  # noqa: PT012
            async for event in stream:
                if event.type == "step":
                    await running_cancel(running, str(stream.id))
        assert caught.value.run_id == stream.id


async def running_cancel(running: Running, name: str) -> None:
    future = asyncio.run_coroutine_threadsafe(
        running.services.runs.cancel(name), loop_of_server(running)
    )
    await asyncio.wrap_future(future)


def loop_of_server(running: Running) -> asyncio.AbstractEventLoop:
    return running.server.servers[0].get_loop()


async def test_a_run_outlives_its_server(start: Start) -> None:
    """A server is stopped in mid-run, another one takes its address and its folder."""
    running = start()
    port = int(running.url.rpartition(":")[2])
    lens = AsyncLens(base_url=running.url, max_retries=8)
    replaced = False
    kinds = []
    async for event in lens.stream(TEXT, **{**LONG, "num_inference_steps": 60}):
        kinds.append(event.type)
        if event.type == "step" and not replaced:
            replaced = True
            running.server.handle_exit(15, None)
            await asyncio.to_thread(running.stop)
            await asyncio.to_thread(start, running.services.config.folder, port=port)
    assert [kind for kind in kinds if kind != "step"] == ["started", "image_ready", "finished"]
    await lens.close()


async def test_the_total_time_is_kept(start: Start) -> None:
    running = start()
    lens = AsyncLens(base_url=running.url, timeouts=Timeouts(total=0.5))
    with pytest.raises(ServerTimeoutError, match=r"more than 0\.5 s"):
        await lens.create(TEXT, **LONG)
    with pytest.raises(ServerTimeoutError, match=r"more than 0\.5 s"):
        await lens.images.generate(TEXT, **LONG)
    await lens.close()


async def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    lens = AsyncLens(base_url=url, max_retries=1)
    with pytest.raises(ServerUnreachableError, match="cannot be reached") as caught:
        await lens.rewrite(TEXT)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), type(copy)) == (str(caught.value), ServerUnreachableError)
    await lens.close()


async def test_pictures_drawn_before_one_failed_are_not_lost() -> None:
    seen: list[int] = []

    def draw(prompt: str, seed: int) -> Image.Image:
        seen.append(seed)
        if len(seen) == 3:
            raise GeneratorError("The machine is on fire.")
        return Image.new("RGB", (8, 8))

    lens = AsyncLens(FunctionGenerator(draw), base_url="", reasoner=None, judge=None)
    with pytest.raises(GeneratorError, match="2 of 4 pictures were drawn, then: The m") as caught:
        await lens.images.generate(TEXT, n=4, seed=1)
    assert isinstance(caught.value, PartlyDrawnError)
    assert [image.seed for image in caught.value.images] == [1, 2]


def test_one_client_serves_one_event_loop_after_the_other(running: Running) -> None:
    lens = AsyncLens(base_url=running.url, max_retries=0)

    async def draw(times: int) -> None:
        for _ in range(times):
            assert await lens.images.generate(TEXT, **SMALL)
            await lens.close()

    for times in (1, 2, 1):
        asyncio.run(draw(times))
        asyncio.run(_list(lens))


async def _list(lens: AsyncLens) -> None:
    await lens.runs.list()


def test_an_address_without_a_scheme_is_refused_at_once() -> None:
    with pytest.raises(SettingsError, match="not a server address") as caught:
        AsyncLens(base_url="localhost:8000")
    assert "http://localhost:8000" in caught.value.hint


async def test_names_of_runs_lead_nowhere_else(running: Running) -> None:
    async with AsyncLens(base_url=running.url, max_retries=0) as lens:
        with pytest.raises(RequestRefusedError):
            await lens.runs.get("../models")


async def test_a_wrong_key_and_a_full_queue(start: Start) -> None:
    key = "a-key-of-more-than-16-characters"
    running = start(keys=ApiKeys([key]), limits=ServerLimits(waiting_images=1))
    with pytest.raises(AuthenticationError):
        await AsyncLens(base_url=running.url, api_key="wrong").runs.list()
    lens = AsyncLens(base_url=f"{running.url}/v1/", api_key=key, max_retries=0)
    first = asyncio.create_task(lens.images.generate(TEXT, **LONG))
    while not running.services.admission.images:
        await asyncio.sleep(0.01)
    with pytest.raises(ServerBusyError) as caught:
        await lens.images.generate(TEXT, **SMALL)
    assert caught.value.retry_after is not None
    assert isinstance(caught.value, LensServerError)
    first.cancel()
    await lens.close()


class Cutting:
    """A proxy that loses connections: `keep` says how many bytes of each answer get through."""

    def __init__(self, url: str, keep: Callable[[int], int | None]) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._target = host, int(port)
        self._keep = keep
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(
                    target=self._carry, args=(near, self.connections), daemon=True
                ).start()

    def _carry(self, near: socket.socket, number: int) -> None:
        with near, socket.create_connection(self._target) as far, suppress(OSError):
            threading.Thread(target=self._forward, args=(near, far), daemon=True).start()
            left = self._keep(number)
            while data := far.recv(1024):
                if left is not None:
                    data, left = data[:left], left - len(data)
                near.sendall(data)
                if left is not None and left <= 0:
                    break
            near.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _forward(near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(1 << 16):
                far.sendall(data)

    def close(self) -> None:
        self._listener.close()


async def test_a_lost_answer_is_fetched_and_not_drawn_again(start: Start) -> None:
    running = start()
    proxy = Cutting(running.url, lambda number: 0 if number < 3 else None)
    async with AsyncLens(base_url=proxy.url, max_retries=2) as lens:
        images = await lens.images.generate(TEXT, n=2, **SMALL)
    assert proxy.connections == 3
    assert len(images) == 2
    assert running.metric("lens_images_total") == 2
    assert running.metric("lens_replayed_total") == 2
    proxy.close()


async def test_lost_connections_lose_no_event(start: Start) -> None:
    running = start()
    proxy = Cutting(running.url, lambda number: 3000 * number if number < 5 else None)
    async with AsyncLens(base_url=proxy.url, max_retries=5) as lens:
        stream = lens.stream(TEXT, num_images=2, **SMALL)
        events = [event async for event in stream if event.type != "step"]
        assert fold_events(events) == await lens.runs.result(str(stream.id))
    assert proxy.connections > 2
    assert [event.type for event in events].count("image_ready") == 2
    proxy.close()


def test_the_plain_client(start: Start, runtime: LensRuntime, tmp_path: Path) -> None:
    running = start()
    clients: list[Any] = [
        Lens(base_url=running.url),
        Lens(LocalLensGenerator(runtime), folder=tmp_path, reasoner="none", judge="none"),
    ]
    for lens in clients:
        with lens:
            assert [image.seed for image in lens.images.generate(TEXT, n=2, seed=8, **SMALL)] == [
                8,
                9,
            ]
            finished = lens.stream(TEXT, seed=1, **SMALL)
            assert next(finished).type == "started"
            assert finished.result().best is not None
            assert finished.id == lens.runs.list(1)[0].id
            with lens.stream(TEXT, seed=1, **LONG) as events:
                assert next(events).type == "started"
            assert events.so_far.request.text == TEXT
            newest = lens.runs.list(2)
            assert [info.status for info in newest][1] == "finished"
            assert newest[0].status in {"cancelled", "interrupted"}
            assert lens.runs.result(newest[1].id).best is not None


async def test_the_plain_client_works_inside_a_running_loop(running: Running) -> None:
    """As in a notebook."""
    with Lens(base_url=running.url) as lens:
        assert lens.images.generate(TEXT, **SMALL)
