"""Servers that share a folder: keys and runs of one are those of the others."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from lens_sdk.server import shared
from lens_sdk.server.app import create_app
from lens_sdk.server.claims import Claims
from lens_sdk.server.errors import ApiError
from lens_sdk.server.idempotency import Answer, Idempotency
from lens_sdk.server.metrics import Metrics
from lens_sdk.server.shared import EventLog, SharedWork
from painting_replica import KEY, configure

PLACE = ("somebody", "/v1/somewhere", "a key")
ANSWER = {"data": [], "output_format": "png", "created": 1}


class Kitchen:
    """Work under one key in one of several processes."""

    def __init__(self, folder: Path) -> None:
        self.keys = Idempotency(folder)
        self.begun = 0
        self.done = asyncio.Event()
        self.failure: Exception | None = None

    def order(self, fingerprint: str = "soup") -> SharedWork[Answer]:
        return self.keys.once(PLACE, fingerprint, self._begin, self._replay)[0]

    def _begin(self) -> SharedWork[Answer]:
        async def work(log: EventLog) -> Answer:
            self.begun += 1
            await self.done.wait()
            if self.failure is not None:
                raise self.failure
            log.keep("served", "{}")
            self.keys.keep(PLACE, "soup", ANSWER)
            return ANSWER

        return SharedWork(work, patience=0.0, wanted=lambda: self.keys.wanted(PLACE))

    def _replay(self, answer: Answer) -> SharedWork[Answer]:
        async def work(log: EventLog) -> Answer:
            log.keep("served", "{}")
            return answer

        return SharedWork(work)


async def told(work: SharedWork[Answer]) -> tuple[list[str], Answer]:
    with work.joined():
        kinds = [entry.kind async for entry in work.log.follow() if entry is not None]
        return kinds, await work.result()


async def test_a_key_is_worked_on_once_by_all(tmp_path: Path) -> None:
    here, there = Kitchen(tmp_path), Kitchen(tmp_path)
    first = asyncio.create_task(told(here.order()))
    second = asyncio.create_task(told(there.order()))
    await asyncio.sleep(0.05)
    here.done.set()
    assert await first == await second == (["served"], ANSWER)
    assert (here.begun, there.begun) == (1, 0)
    assert await told(there.order()) == (["served"], ANSWER)
    with pytest.raises(ApiError, match="another request"):
        there.order("stew")
    assert there.keys._claims.taken(next(tmp_path.glob("*.json")).stem) is False


async def test_whoever_waits_begins_anew_when_the_first_fails(tmp_path: Path) -> None:
    here, there = Kitchen(tmp_path), Kitchen(tmp_path)
    here.failure = ApiError(502, "burnt")
    here.done.set()
    there.done.set()
    first, second = here.order(), there.order()
    with pytest.raises(ApiError, match="burnt"):
        await told(first)
    assert await told(second) == (["served"], ANSWER)
    assert (here.begun, there.begun) == (1, 1)


async def test_work_that_somebody_wants_elsewhere_goes_on(tmp_path: Path) -> None:
    here, there = Kitchen(tmp_path), Kitchen(tmp_path)
    work = here.order()
    second = asyncio.create_task(told(there.order()))
    await asyncio.sleep(0.05)
    with work.joined():
        pass
    await asyncio.sleep(0.1)
    assert not work.done
    here.done.set()
    assert await second == (["served"], ANSWER)
    assert there.begun == 0


async def test_an_answer_that_cannot_be_kept_is_handed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = hashlib.sha256(json.dumps(PLACE).encode()).hexdigest()
    (tmp_path / f"{name}.json" / "in the way").mkdir(parents=True)
    kitchen = Kitchen(tmp_path)
    kitchen.done.set()
    assert (await told(kitchen.order()))[1] == ANSWER
    assert "cannot be kept" in caplog.text


async def test_work_that_nobody_ever_waited_for_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "NOBODY_YET", 0.01)
    abandoned = asyncio.Event()
    work = SharedWork(lambda log: asyncio.sleep(30), on_abandoned=abandoned.set)
    async with asyncio.timeout(5):
        await abandoned.wait()
        while not work.done:
            await asyncio.sleep(0)


def test_a_claim_is_one_processs_at_a_time(tmp_path: Path) -> None:
    here, there = Claims(tmp_path), Claims(tmp_path)
    assert not there.taken("x")
    claim = here.take("x")
    assert claim is not None
    assert there.take("x") is None
    assert there.taken("x")
    claim.let_go()
    assert not there.taken("x")
    here.mark("x", "end")
    assert there.marked("x", "end")
    assert there.freshly_marked("x", "end")
    there.unmark("x", "end")
    assert not here.marked("x", "end")


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        clients = [
            httpx.AsyncClient(
                transport=httpx.ASGITransport(create_app(configure(tmp_path))),
                base_url="http://127.0.0.1",
                headers={"authorization": f"Bearer {KEY}"},
            )
            for _ in range(2)
        ]
        yield [await stack.enter_async_context(client) for client in clients]


def test_numbers_of_all_are_told_by_each(tmp_path: Path) -> None:
    here, there = Metrics(), Metrics()
    for metrics, name, images in ((here, "here", 2), (there, "there", 3)):
        metrics.share(tmp_path, name)
        metrics.images.inc(images)
        metrics.answered({"type": "http"}, 200)
        metrics.image_seconds.observe(3)
        metrics.watch("lens_busy", "Whether it is busy", lambda: 1)
        metrics.publish()
    (tmp_path / "gone.prom").write_bytes(here.text().replace(b"here", b"gone"))
    os.utime(tmp_path / "gone.prom", (1, 1))
    lines = there.text().decode().splitlines()
    assert lines == here.text().decode().splitlines()
    for wanted in (
        "# TYPE lens_images_total counter",
        'lens_images_total{replica="here"} 2.0',
        'lens_images_total{replica="there"} 3.0',
        'lens_image_seconds_bucket{le="5.0",replica="here"} 1.0',
        'lens_requests_total{replica="there",route="unmatched",status="200"} 1.0',
        'lens_busy{replica="here"} 1.0',
    ):
        assert lines.count(wanted) == 1, wanted
    assert not any("gone" in line for line in lines)


async def begin(client: httpx.AsyncClient, steps: int) -> str:
    request = {"text": "a red ball", "seed": 1, "num_inference_steps": steps}
    answer = await client.post("/v1/runs", json={"request": request})
    assert answer.status_code == 201, answer.text
    return f"/v1/runs/{answer.json()['id']}"


async def test_a_run_is_followed_elsewhere(servers: list[httpx.AsyncClient]) -> None:
    here, there = servers
    path = await begin(here, steps=10)
    assert (await there.get(path)).json()["status"] == "running"
    texts = [(await client.get(f"{path}/events")).text for client in (there, here)]
    numbered = [[line for line in t.splitlines() if line.startswith("id: ")] for t in texts]
    assert numbered[0] == numbered[1] == [f"id: {n}" for n in range(1, len(numbered[0]) + 1)]
    assert "event: finished" in texts[0]
    assert (await there.get(f"{path}/events?after=2")).text.startswith("id: 3\n")
    results = [(await client.get(f"{path}/result")).json() for client in servers]
    assert results[0] == results[1]


async def test_a_run_is_cancelled_and_resumed_elsewhere(servers: list[httpx.AsyncClient]) -> None:
    here, there = servers
    path = await begin(here, steps=40)
    # Whoever asks to go on with what goes on changes nothing.
    assert (await there.post(f"{path}/resume")).json()["status"] == "running"
    assert (await there.post(f"{path}/cancel")).json()["status"] == "cancelled"
    assert (await here.get(path)).json()["status"] == "cancelled"
    assert (await there.post(f"{path}/resume")).json()["status"] == "running"
    assert (await here.get(path)).json()["status"] == "running"
    assert "event: finished" in (await here.get(f"{path}/events")).text
