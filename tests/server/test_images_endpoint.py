"""OpenAI's own client against `lens serve`."""

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image

from lens_reasoner import GenerationSettings
from lens_reasoner.image import GeneratedImage
from lens_sdk.local import LocalLensGenerator
from lens_sdk.runtime import LensRuntime
from lens_sdk.server.guard import ApiKeys
from lens_sdk.server.limits import ServerLimits
from lens_sdk.server.pictures import encode_pil
from loopback_lens import QUICK, Running, Start, until

PROMPT = "two red apples left of a blue cup"
KEY = "a-key-of-more-than-16-characters"


@pytest.fixture
def client(running: Running) -> OpenAI:
    return OpenAI(base_url=running.v1, api_key="none", max_retries=0)


def decoded(text: str | None) -> np.ndarray:
    assert text is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))), dtype=int)


@pytest.mark.parametrize("extra", [{}, {"solver": "ab2", "shift": 3.0}])
async def test_pictures_are_those_of_the_model(
    client: OpenAI, runtime: LensRuntime, extra: dict[str, Any]
) -> None:
    answer = client.images.generate(
        prompt=PROMPT,
        model="lens-nano",
        n=2,
        size="64x64",
        extra_body={"seed": 7, "num_inference_steps": 3, "guidance_scale": 2, **extra},
    )
    settings = GenerationSettings(
        width=64, height=64, num_inference_steps=3, guidance_scale=2, extra=extra
    )
    direct = await LocalLensGenerator(runtime).generate(PROMPT, seeds=[7, 8], settings=settings)
    assert answer.data is not None
    for datum, image in zip(answer.data, direct, strict=True):
        assert np.abs(decoded(datum.b64_json) - np.asarray(image.image, dtype=int)).max() <= 1
        told = datum.model_extra
        assert told is not None
        assert (told["seed"], told["prompt"]) == (image.seed, PROMPT)
        assert told["settings"] == image.settings.model_dump()


async def test_the_async_client_streams_unfinished_pictures_first(running: Running) -> None:
    async with AsyncOpenAI(base_url=running.v1, api_key="none") as client:
        stream = await client.images.generate(prompt=PROMPT, stream=True, partial_images=2, **QUICK)
        events = [event async for event in stream]
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    shapes = {decoded(event.b64_json).shape for event in events}
    assert shapes == {(64, 64, 3)}
    assert events[-1].usage.total_tokens == 0
    assert events[-1].size == "64x64"


async def test_the_model_goes_on_while_unfinished_pictures_are_encoded(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = running.generator.scheduler
    before = scheduler.steps

    def encode(picture: Image.Image, kind: str) -> bytes:
        until(lambda: scheduler.steps == before + 3, 20)
        return encode_pil(picture, kind)

    monkeypatch.setattr("lens_sdk.server.jobs.encode_pil", encode)
    async with AsyncOpenAI(base_url=running.v1, api_key="none", max_retries=0) as client:
        stream = await client.images.generate(prompt=PROMPT, stream=True, partial_images=1, **QUICK)
        events = [event async for event in stream]
    assert [event.type.rpartition(".")[2] for event in events] == ["partial_image", "completed"]
    assert decoded(events[0].b64_json).shape == (64, 64, 3)


def test_the_sync_client_streams_several_pictures(client: OpenAI) -> None:
    events = list(client.images.generate(prompt=PROMPT, n=2, stream=True, **QUICK))
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    assert len({event.b64_json for event in events}) == 2


def test_addresses_of_pictures_work(client: OpenAI, tmp_path: Any) -> None:
    answer = client.images.generate(prompt=PROMPT, response_format="url", **QUICK)
    assert answer.data is not None
    url = answer.data[0].url
    assert url is not None
    fetched = httpx.get(url)
    assert fetched.headers["content-type"] == "image/png"
    asked = httpx.head(url)
    assert (asked.status_code, asked.headers["content-length"]) == (200, str(len(fetched.content)))
    (tmp_path / "picture.png").write_bytes(fetched.content)
    assert GeneratedImage.load(tmp_path / "picture.png").prompt == PROMPT


@pytest.mark.parametrize(("kind", "found"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_other_kinds_of_files(client: OpenAI, kind: Any, found: str) -> None:
    answer = client.images.generate(
        prompt=PROMPT, output_format=kind, output_compression=80, **QUICK
    )
    assert answer.data is not None
    assert answer.output_format == kind
    data = base64.b64decode(answer.data[0].b64_json or "")
    assert Image.open(io.BytesIO(data)).format == found


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"prompt": " "}, "prompt", "invalid_value"),
        ({"prompt": "x" * 8001}, "prompt", "invalid_value"),
        ({"prompt": "\ud800"}, "prompt", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 11}, "n", "invalid_value"),
        ({"size": "65x64"}, "size", "unsupported_value"),
        ({"size": "16x160"}, "size", "unsupported_value"),
        ({"size": "9920x9920"}, "size", "invalid_value"),
        ({"size": "big"}, "size", "invalid_value"),
        ({"quality": "hd"}, "quality", "invalid_value"),
        ({"style": "vivid"}, "style", "unknown_parameter"),
        ({"num_inference_steps": 201}, "num_inference_steps", "invalid_value"),
        ({"guidance_scale": 0.5}, "guidance_scale", "invalid_value"),
        ({"solver": "heun"}, "solver", "unsupported_value"),
        ({"shift": 0}, "shift", "invalid_value"),
        ({"seed": -1}, "seed", "invalid_value"),
        ({"seed": 2**53}, "seed", "invalid_value"),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_named(
    running: Running, options: dict[str, Any], param: str | None, code: str
) -> None:
    body = json.dumps({"prompt": PROMPT, "size": "64x64", **options})
    answer = httpx.post(
        f"{running.v1}/images/generations",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert error["message"]


def test_an_address_without_v1_is_told_what_it_lacks(running: Running) -> None:
    client = OpenAI(base_url=running.url, api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError, match="ends with /v1"):
        client.images.generate(prompt=PROMPT)


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(prompt=PROMPT, model="dall-e-3", **QUICK)
    assert caught.value.code == "model_not_found"
    assert caught.value.request_id


def test_the_model_is_listed(client: OpenAI, running: Running) -> None:
    assert [model.id for model in client.models.list()] == ["lens-nano"]
    assert client.models.retrieve("lens-nano").id == "lens-nano"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/model")
    assert httpx.get(f"{running.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{running.v1}/nothing").json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused(running: Running, chunked: bool) -> None:
    def pieces() -> Any:
        for _ in range(40):
            yield b" " * 65536

    body = pieces() if chunked else b" " * (2 << 20)
    answer = httpx.post(
        f"{running.v1}/images/generations",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_requests_that_dawdle_are_refused(start: Start) -> None:
    running = start(limits=ServerLimits(body_seconds=0.3))

    def pieces() -> Any:
        yield b"{"
        time.sleep(1)
        yield b"}"

    with socket.create_connection(("127.0.0.1", urlsplit(running.url).port or 0)) as dawdling:
        dawdling.settimeout(10)
        dawdling.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        answer = httpx.post(
            f"{running.v1}/runs", content=pieces(), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 408
        assert dawdling.recv(100) == b""


def test_a_form_of_another_site_is_refused(running: Running) -> None:
    """Browsers send this without asking; only JSON makes them ask first."""
    answer = httpx.post(
        f"{running.v1}/images/generations",
        content=b'{"prompt": "a cup"}',
        headers={"content-type": "text/plain"},
    )
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["evil.example", "10.0.0.1:80", "[2001:db8::1]:80"])
def test_other_names_of_this_machine_are_refused(running: Running, host: str) -> None:
    answer = httpx.get(f"{running.v1}/models", headers={"host": host})
    assert answer.status_code == 403
    for own in ("localhost", "127.0.0.1:1", "[::1]:1"):
        assert httpx.get(f"{running.v1}/models", headers={"host": own}).status_code == 200


def test_keys_are_asked_for(start: Start, tmp_path: Any) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{KEY}\nanother-key-1234567\n")
    running = start(keys=ApiKeys.read(path))
    for wrong in ("", "Bearer", f"Bearer {KEY}x", f"Basic {KEY}", "Bearer \xff"):
        answer = httpx.get(f"{running.v1}/models", headers={"authorization": wrong.encode("latin")})
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{running.url}/metrics").status_code == 401
    for path in ("", "/healthz", "/readyz"):
        assert httpx.get(running.url + path, headers={"host": "lens.example"}).status_code == 200
    client = OpenAI(base_url=running.v1, api_key="another-key-1234567")
    assert client.models.list().data[0].id == "lens-nano"
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=running.v1, api_key="wrong").models.list()


def in_threads(count: int, call: Callable[[int], Any]) -> list[Any]:
    results: list[Any] = [None] * count

    def work(index: int) -> None:
        try:
            results[index] = call(index)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_callers_share_a_batch_and_get_their_own_pictures(running: Running) -> None:
    words = ("red apple", "blue cup", "green star", "yellow ball", "red car", "blue tree")

    def call(index: int) -> Any:
        client = OpenAI(base_url=running.v1, api_key="none")
        extra = {"seed": 100 + index, "num_inference_steps": 3 + index}
        prompt = f"one {words[index]}"
        return client.images.generate(prompt=prompt, size="64x64", extra_body=extra).data[0]

    answers = in_threads(len(words), call)
    alone = [call(index) for index in range(len(words))]
    assert running.generator.scheduler.largest_batch > 1
    for index, (answer, single) in enumerate(zip(answers, alone, strict=True)):
        assert answer.seed == 100 + index
        assert answer.prompt == f"one {words[index]}"
        assert np.abs(decoded(answer.b64_json) - decoded(single.b64_json)).max() <= 1


def test_a_full_queue_says_when_to_come_back(start: Start) -> None:
    running = start(limits=ServerLimits(waiting_images=2))
    client = OpenAI(base_url=running.v1, api_key="none", max_retries=0)
    slow = {"size": "64x64", "extra_body": {"num_inference_steps": 40}}
    thread = threading.Thread(target=lambda: client.images.generate(prompt=PROMPT, n=2, **slow))
    thread.start()
    until(lambda: running.services.admission.images == 2)
    with pytest.raises(openai.RateLimitError) as caught:
        client.images.generate(prompt=PROMPT, **QUICK)
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 600
    assert caught.value.code == "rate_limit_exceeded"
    assert running.metric("lens_refused_total") == 1
    thread.join()
    assert client.images.generate(prompt=PROMPT, **QUICK).data
    patient = OpenAI(base_url=running.v1, api_key="none", max_retries=5)
    answers = in_threads(3, lambda _: patient.images.generate(prompt=PROMPT, **QUICK))
    assert all(answer.data for answer in answers)


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_frees_the_model(running: Running, stream: bool) -> None:
    scheduler = running.generator.scheduler
    abandoned = running.metric("lens_abandoned_total")
    body = {"prompt": PROMPT, "size": "64x64", "num_inference_steps": 200, "stream": stream}
    body |= {"partial_images": 3} if stream else {}
    url = f"{running.v1}/images/generations"
    if stream:
        with httpx.stream("POST", url, json=body, timeout=60) as answer:
            assert "event: image_generation.partial_image" in next(answer.iter_text())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, timeout=0.5)
    until(lambda: scheduler.in_work == 0, 5)
    before = scheduler.steps
    time.sleep(0.2)
    assert scheduler.steps == before
    assert running.services.admission.images == 0
    assert running.metric("lens_abandoned_total") == abandoned + 1


def test_a_retry_with_its_key_is_not_drawn_twice(start: Start) -> None:
    running = start()
    client = OpenAI(base_url=running.v1, api_key="none", max_retries=0)
    headers = {"Idempotency-Key": "one"}

    def ask(_: int = 0, prompt: str = PROMPT, client: OpenAI = client) -> Any:
        return client.images.generate(prompt=prompt, extra_headers=headers, **QUICK)

    answers = [*in_threads(3, ask), ask()]
    assert len({answer.data[0].b64_json for answer in answers}) == 1
    assert len({answer.data[0].seed for answer in answers}) == 1
    assert running.metric("lens_images_total") == 1
    assert running.metric("lens_replayed_total") == 3
    with pytest.raises(openai.ConflictError) as caught:
        ask(prompt="another")
    assert caught.value.code == "idempotency_key_reused"
    stopped = running.services.config.folder
    running.stop()
    again = start(stopped)
    after = ask(client=OpenAI(base_url=again.v1, api_key="none"))
    assert after.data[0].b64_json == answers[0].data[0].b64_json
    assert again.metric("lens_images_total") == 0


def test_a_retry_after_a_lost_connection_joins_what_is_under_way(start: Start) -> None:
    running = start()
    body = {"prompt": PROMPT, "size": "64x64", "num_inference_steps": 100}
    url, headers = f"{running.v1}/images/generations", {"Idempotency-Key": "lost"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json=body, headers=headers, timeout=0.3)
    answer = httpx.post(url, json=body, headers=headers, timeout=60)
    assert answer.status_code == 200
    assert running.metric("lens_images_total") == 1
    assert running.generator.scheduler.steps <= 101
    streamed = httpx.post(
        url, json={**body, "stream": True}, headers={"Idempotency-Key": "s"}, timeout=60
    )
    again = httpx.post(url, json={**body, "stream": True}, headers={"Idempotency-Key": "s"})
    assert streamed.text.count("event: image_generation.completed") == 1
    assert again.text.partition("data: ")[2] == streamed.text.partition("data: ")[2]
    assert running.metric("lens_images_total") == 2


def test_work_under_way_is_finished_at_shutdown(start: Start) -> None:
    running = start()
    client = OpenAI(base_url=running.v1, api_key="none", max_retries=0)
    results: list[Any] = []
    slow = {"size": "64x64", "extra_body": {"num_inference_steps": 40}}
    thread = threading.Thread(
        target=lambda: results.append(client.images.generate(prompt=PROMPT, **slow))
    )
    thread.start()
    until(lambda: running.generator.scheduler.in_work == 1)
    running.services.drain()
    refused = httpx.post(f"{running.v1}/images/generations", json={"prompt": PROMPT})
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "10"
    assert httpx.get(f"{running.url}/readyz").status_code == 503
    running.stop()
    thread.join()
    assert results[0].data[0].b64_json
