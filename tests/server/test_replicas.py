"""Two replicas on a local Ray: whichever is asked, the answer is the same."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

from lens_sdk.server.guard import ApiKeys
from lens_sdk.server.on_ray import (
    REPLICA_HEADER,
    RayChoices,
    ReplicasError,
    gpus_each,
    replicas_running,
)
from painting_replica import KEY, configure

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="the ray extra is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

GENERATIONS = "/v1/images/generations"
AUTHORISED = {"authorization": f"Bearer {KEY}"}
TRIES = 200


class Cluster:
    """Two replicas behind one address."""

    def __init__(self, port: int, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        self.client = httpx.Client(base_url=self.url, headers=AUTHORISED, timeout=30)

    def drawn(self, prompt: str) -> list[int]:
        """The processes that began to draw this."""
        try:
            lines = (self.folder / "drawn.txt").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [int(line.split(" ", 1)[0]) for line in lines if line.endswith(f" {prompt}")]

    def replicas(self, number: int) -> set[str]:
        """The names of those that answer, once there are so many."""
        names: set[str] = set()
        end = time.monotonic() + 60
        while len(names) < number:
            assert time.monotonic() < end, names
            answer = self.client.get("/healthz")
            if answer.status_code == 200:
                names.add(answer.headers[REPLICA_HEADER])
        return names

    @contextmanager
    def other(self, replica: str, method: str, path: str, **body: Any) -> Iterator[httpx.Response]:
        """A streamed answer of another than this replica."""
        for _ in range(TRIES):
            with self.client.stream(method, path, **body) as answer:
                if answer.headers[REPLICA_HEADER] != replica:
                    yield answer
                    return
        raise AssertionError(f"only {replica} answers")

    def other_json(self, replica: str, method: str, path: str) -> dict[str, Any]:
        with self.other(replica, method, path) as answer:
            return json.loads(answer.read())

    def last_picture(self, busy: str) -> list[str]:
        """The events of a picture that is drawn by another than the busy one."""
        body = {"prompt": "the last", "num_inference_steps": 20, "stream": True}
        with self.other(busy, "POST", GENERATIONS, json=body) as answer:
            return [kind for kind, _ in kinds(answer)]

    def begin_run(self, text: str, steps: int) -> tuple[str, str]:
        """Begin a run; its path, and the replica that plays it."""
        request = {"text": text, "seed": 1, "num_inference_steps": steps}
        answer = self.client.post("/v1/runs", json={"request": request})
        assert answer.status_code == 201, answer.text
        return f"/v1/runs/{answer.json()['id']}", answer.headers[REPLICA_HEADER]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("replicas")
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        # A busy machine needs longer to start Ray than its 30 seconds.
        patch.setenv("RAY_agent_register_timeout_ms", "100000")
        # Replicas are processes of their own, and find the painter there.
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        running = replicas_running(
            partial(configure, folder),
            folder,
            host="127.0.0.1",
            port=0,
            keys=ApiKeys([KEY]),
            choices=RayChoices(replicas=2, grace=5),
        )
        with ThreadPoolExecutor(2) as callers:
            with running as port:
                cluster = Cluster(port, folder)
                yield cluster
                path, player = cluster.begin_run("interrupted", steps=10_000)
                follower = callers.submit(cluster.client.get, f"{path}/events")
                picture = callers.submit(cluster.last_picture, player)
                until(lambda: cluster.drawn("the last"))
            assert picture.result() == ["image_generation.completed"]
            assert "event: ended" in follower.result().text
    assert not (folder / "stopping").exists()


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def kinds(answer: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and data of server-sent events."""
    kind = ""
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def test_both_answer_and_both_ask_for_the_key(cluster: Cluster) -> None:
    names = cluster.replicas(2)
    assert len(names) == 2
    until(lambda: all(f'replica="{name}"' in cluster.client.get("/metrics").text for name in names))
    assert cluster.client.get("/readyz").json() == {"status": "ready"}
    assert httpx.get(f"{cluster.url}/v1/models").status_code == 401


def test_openais_client_streams(cluster: Cluster) -> None:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=KEY, max_retries=0) as client:
        events = list(
            client.images.generate(prompt="streamed", n=2, stream=True, extra_body={"seed": 7})
        )
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    assert sorted(event.model_extra["seed"] for event in events) == [7, 8]


def test_a_run_is_followed_and_cancelled_through_another_replica(cluster: Cluster) -> None:
    path, player = cluster.begin_run("followed", steps=2000)
    assert cluster.other_json(player, "GET", path)["status"] == "running"
    with cluster.other(player, "GET", f"{path}/events") as answer:
        assert next(kinds(answer))[0] == "started"
    assert cluster.other_json(player, "POST", f"{path}/cancel")["status"] == "cancelled"
    with cluster.other(player, "GET", f"{path}/events") as answer:
        told = list(kinds(answer))
    assert (told[0][0], told[-1]) == ("started", ("ended", {"status": "cancelled", "error": None}))
    assert cluster.client.get(path).json()["status"] == "cancelled"


def test_what_happens_elsewhere_is_told_as_it_happens(cluster: Cluster) -> None:
    path, player = cluster.begin_run("watched", steps=20)
    with cluster.other(player, "GET", f"{path}/events") as answer:
        told = [kind for kind, _ in kinds(answer)]
    assert (told[0], told[-1]) == ("started", "finished")
    assert "image_ready" in told
    assert cluster.other_json(player, "GET", f"{path}/result")["candidates"]


def test_a_key_is_honoured_by_all_replicas(cluster: Cluster) -> None:
    body = {
        "prompt": "once",
        "seed": 3,
        "num_inference_steps": 30,
        "stream": True,
    }
    asked = {"json": body, "headers": {"idempotency-key": "the-same"}}
    with cluster.client.stream("POST", GENERATIONS, **asked) as first:
        with cluster.other(first.headers[REPLICA_HEADER], "POST", GENERATIONS, **asked) as second:
            again = [data for _, data in kinds(second)]
        once = [data for _, data in kinds(first)]
    assert len(once) == 1
    assert once[0]["b64_json"] == again[0]["b64_json"]
    assert len(cluster.drawn("once")) == 1
    changed = {**asked, "json": {**body, "seed": 4, "stream": False}}
    assert cluster.client.post(GENERATIONS, **changed).status_code == 409


def test_who_waits_elsewhere_keeps_the_work_going(cluster: Cluster) -> None:
    """The first caller leaves; the work goes on for the one who asks again at another replica."""
    body = {"prompt": "kept", "seed": 3, "num_inference_steps": 30, "stream": True}
    asked = {"json": body, "headers": {"idempotency-key": "kept"}}
    with cluster.client.stream("POST", GENERATIONS, **asked) as first:
        replica = first.headers[REPLICA_HEADER]
        until(lambda: cluster.drawn("kept"))
    with cluster.other(replica, "POST", GENERATIONS, **asked) as second:
        assert len(list(kinds(second))) == 1
    assert len(cluster.drawn("kept")) == 1


def test_a_killed_replica_fails_its_requests_and_the_others_go_on(cluster: Cluster) -> None:
    path, player = cluster.begin_run("survives", steps=200)
    until(lambda: cluster.drawn("survives"))
    [pid] = cluster.drawn("survives")

    def ask(number: int) -> tuple[int, str]:
        body = {"prompt": f"asked {number}", "seed": number, "num_inference_steps": 10}
        answer = cluster.client.post(GENERATIONS, json=body)
        return answer.status_code, answer.text

    with ThreadPoolExecutor(4) as callers:
        # Whoever came to the one that plays the run waits there behind it.
        answers = [callers.submit(ask, number) for number in range(4)]
        # If all of them wait there, none is done before the run is.
        wait(answers, timeout=3, return_when=FIRST_COMPLETED)
        os.kill(pid, signal.SIGKILL)
        statuses = [answer.result(60)[0] for answer in answers]
    assert set(statuses) - {200}
    for number, (status, text) in enumerate(answer.result() for answer in answers):
        if status == 200:
            assert json.loads(text)["data"][0]["seed"] == number
        else:
            assert status >= 500
            assert ask(number)[0] == 200

    until(lambda: cluster.other_json(player, "GET", path)["status"] == "interrupted")
    cluster.other_json(player, "POST", f"{path}/resume")
    with cluster.other(player, "GET", f"{path}/events") as answer:
        assert [kind for kind, _ in kinds(answer)][-1] == "finished"
    assert player not in cluster.replicas(2)


def test_gpus_are_shared_out_and_never_promised_twice() -> None:
    """Of a cluster that says how many it has."""
    cases = [
        (0, 2, None, 0),
        (4, 2, None, 1),
        (1, 2, None, 0.5),
        (2, 3, None, 0.5),
        (1, 2, 0.5, 0.5),
    ]
    for there, replicas, asked, each in cases:
        cluster = SimpleNamespace(cluster_resources=lambda there=there: {"GPU": float(there)})
        assert gpus_each(cluster, RayChoices(replicas, asked)) == each
    with pytest.raises(ReplicasError, match="2 replicas with 1 GPUs each need 2"):
        gpus_each(cluster, RayChoices(2, 1))
