"""Runs of the loop over HTTP: events, resuming, cancelling, shutdown."""

import base64
import io
import json
import threading
from typing import Any

import httpx
import pytest
from PIL import Image

from lens_reasoner import fold_events
from lens_reasoner.events import read_event
from lens_sdk.server.limits import ServerLimits
from loopback_lens import SMALL, Running, Start, until

REQUEST = {"text": "two red apples left of a blue cup", "num_images": 2, "seed": 5, **SMALL}
SLOW = {**REQUEST, "width": 128, "height": 128, "num_inference_steps": 200}


def events_of(text: str) -> list[tuple[int | None, str, dict[str, Any]]]:
    """Number, kind and data of each event."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if fields:
            number = int(fields["id"]) if "id" in fields else None
            found.append((number, fields["event"], json.loads(fields["data"])))
    return found


def create(running: Running, request: Any = REQUEST, **more: Any) -> dict[str, Any]:
    headers = more.pop("headers", {})
    body = {"request": request, **more}
    answer = httpx.post(f"{running.v1}/runs", json=body, headers=headers, timeout=60)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_run_tells_what_happens_and_can_be_followed_again(running: Running) -> None:
    run = create(running, limits={"max_rounds": 2})
    assert run["status"] == "running"
    url = f"{running.v1}/runs/{run['id']}"
    told = events_of(httpx.get(f"{url}/events", timeout=60).text)
    kept = [event for event in told if event[0] is not None]
    assert [number for number, _, _ in kept] == list(range(1, len(kept) + 1))
    assert {kind for number, kind, _ in told if number is None} == {"step"}
    assert (kept[0][1], kept[-1][1]) == ("started", "finished")
    assert {"rewrite_done", "rubric_done", "image_ready", "judged"} <= {e[1] for e in kept}

    after = events_of(httpx.get(f"{url}/events", headers={"Last-Event-ID": "3"}).text)
    assert after == kept[3:]
    assert events_of(httpx.get(f"{url}/events?after=3").text) == kept[3:]

    result = httpx.get(f"{url}/result").json()
    folded = fold_events(read_event(data) for _, _, data in kept)
    assert result == folded.model_dump(mode="json")
    picture = base64.b64decode(result["candidates"][0]["image"]["data"])
    assert Image.open(io.BytesIO(picture)).size == (64, 64)
    described = httpx.get(url).json()
    assert described["status"] == "finished"
    assert described["events"] == len(kept)
    assert described in httpx.get(f"{running.v1}/runs").json()["data"]


def test_a_lost_connection_misses_nothing(running: Running) -> None:
    run = create(running)
    url = f"{running.v1}/runs/{run['id']}/events"
    text = ""
    with httpx.stream("GET", url, timeout=60) as answer:
        for part in answer.iter_text():
            text += part
            if "id: 2\n" in text:
                break
    first = [e for e in events_of(text.rpartition("\n\n")[0]) if e[0] is not None]
    known = first[-1][0]
    rest = events_of(httpx.get(url, headers={"Last-Event-ID": str(known)}, timeout=60).text)
    numbers = [e[0] for e in [*first, *rest] if e[0] is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    assert rest[-1][1] == "finished"


def test_the_same_key_begins_one_run(running: Running) -> None:
    headers = {"Idempotency-Key": "run-1"}
    first = create(running, headers=headers)
    assert create(running, headers=headers)["id"] == first["id"]
    other = httpx.post(f"{running.v1}/runs", json={"request": "a cup"}, headers=headers)
    assert other.status_code == 409
    httpx.post(f"{running.v1}/runs/{first['id']}/cancel")


def test_a_cancelled_run_stops_drawing_and_can_be_resumed(start: Start) -> None:
    running = start()
    run = create(running, SLOW)
    url = f"{running.v1}/runs/{run['id']}"
    until(lambda: running.generator.scheduler.in_work == 2)
    assert httpx.post(f"{url}/cancel").json()["status"] == "cancelled"
    until(lambda: running.generator.scheduler.in_work == 0)
    kind, data = events_of(httpx.get(f"{url}/events").text)[-1][1:]
    assert (kind, data["status"]) == ("ended", "cancelled")
    assert httpx.get(f"{url}/result").json()["stop_reason"] == "interrupted"
    assert httpx.post(f"{url}/resume").json()["status"] == "running"
    until(lambda: running.generator.scheduler.in_work == 2)
    httpx.post(f"{url}/cancel")


def test_who_follows_a_run_is_told_of_its_end_though_that_cannot_be_written(start: Start) -> None:
    running = start()
    run = create(running, SLOW)
    (running.services.config.folder / "runs" / run["id"] / "outcome.json" / "in the way").mkdir(
        parents=True
    )
    with httpx.stream("GET", f"{running.v1}/runs/{run['id']}/events", timeout=10) as answer:
        assert httpx.post(f"{running.v1}/runs/{run['id']}/cancel", timeout=10).status_code == 200
        assert events_of(answer.read().decode())[-1][1] == "ended"
    assert httpx.get(f"{running.v1}/runs/{run['id']}").json()["status"] == "interrupted"


def test_a_stopped_server_leaves_a_run_that_another_goes_on_with(start: Start) -> None:
    running = start()
    run = create(running, {**REQUEST, "width": 128, "height": 128, "num_inference_steps": 60})
    text: list[str] = []

    def follow() -> None:
        with httpx.stream("GET", url, timeout=60) as answer:
            text.extend(answer.iter_text())

    url = f"{running.v1}/runs/{run['id']}/events"
    thread = threading.Thread(target=follow)
    thread.start()
    until(lambda: bool(text) and running.generator.scheduler.in_work == 2)
    running.server.handle_exit(15, None)
    running.stop()
    thread.join()
    assert events_of("".join(text))[-1][2]["status"] == "running"
    again = start(running.services.config.folder)
    url = f"{again.v1}/runs/{run['id']}"
    described = httpx.get(url).json()
    assert described["status"] == "interrupted"
    assert httpx.post(f"{url}/resume").json()["status"] == "running"
    known = described["events"]
    told = events_of(httpx.get(f"{url}/events?after={known}", timeout=60).text)
    assert next(e[0] for e in told if e[0] is not None) == known + 1
    assert told[-1][1] == "finished"


def test_a_run_without_pictures_says_why(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start()

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no light")

    monkeypatch.setattr(running.generator, "generate", broken)
    run = create(running)
    url = f"{running.v1}/runs/{run['id']}"
    kind, data = events_of(httpx.get(f"{url}/events", timeout=60).text)[-1][1:]
    assert (kind, data["status"]) == ("ended", "failed")
    assert "no light" in data["error"]["message"]
    assert httpx.get(url).json()["status"] == "failed"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"request": ""}, "request"),
        ({"request": "a cup", "limits": {"max_rounds": 11}}, "max_rounds"),
        ({"request": {"text": "a cup", "extra": {"date": "2026-01-02"}}}, "extra"),
        ({"request": {"text": "a cup", "num_images": 11}}, "n"),
        ({"request": {"text": "a cup", "width": 65, "height": 64}}, "size"),
        ({"request": "a cup", "wish": 1}, "wish"),
        ({"request": {"text": "a cup", "guidance_scale": -1}}, "guidance_scale"),
        ({"request": {"text": "a cup", "guidance_scale": 0.5}}, "guidance_scale"),
    ],
)
def test_a_run_that_cannot_be_is_refused(running: Running, body: Any, param: str) -> None:
    before = len(httpx.get(f"{running.v1}/runs?limit=200").json()["data"])
    answer = httpx.post(f"{running.v1}/runs", json=body, timeout=60)
    assert answer.status_code == 400, answer.text
    assert param in (answer.json()["error"]["param"] or "")
    assert len(httpx.get(f"{running.v1}/runs?limit=200").json()["data"]) == before


@pytest.mark.parametrize("name", ["nothing", "..", "20260101T000000-aaaaaa", "%2e%2e%2ffiles"])
def test_there_is_no_other_run(running: Running, name: str) -> None:
    for path in ("", "/events", "/result"):
        assert httpx.get(f"{running.v1}/runs/{name}{path}").status_code == 404
    assert httpx.post(f"{running.v1}/runs/{name}/cancel").status_code == 404


def test_no_more_runs_than_there_is_room_for(start: Start) -> None:
    running = start(limits=ServerLimits(runs=1))
    run = create(running, SLOW)
    refused = httpx.post(f"{running.v1}/runs", json={"request": "a cup"})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    httpx.post(f"{running.v1}/runs/{run['id']}/cancel")


def test_rewriting_and_judging_by_themselves(running: Running) -> None:
    rewrite = httpx.post(f"{running.v1}/rewrites", json={"request": "two red apples"}, timeout=60)
    assert rewrite.json()["prompt"]
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(buffer, "PNG")
    body = {"image": base64.b64encode(buffer.getvalue()).decode(), "request": "two red apples"}
    answer = httpx.post(f"{running.v1}/judgements", json=body, timeout=60).json()
    assert answer["rubric"]["criteria"]
    assert {line["answer"] for line in answer["verdict"]["verdicts"]} == {"no"}
    unknown = httpx.post(f"{running.v1}/judgements", json={**body, "request": "xyzzy"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (422, "not_judged")


def bomb() -> bytes:
    """A small file that says it is 60000 pixels square."""
    buffer = io.BytesIO()
    Image.new("1", (16, 16)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    return bytes(data)


@pytest.mark.parametrize(
    "image", ["@@@", base64.b64encode(b"%PDF-1.4").decode(), base64.b64encode(bomb()).decode(), ""]
)
def test_uploads_are_checked_before_they_are_decoded(running: Running, image: str) -> None:
    body = {"image": image, "request": "two red apples"}
    answer = httpx.post(f"{running.v1}/judgements", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_image")
