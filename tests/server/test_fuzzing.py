"""Whatever is sent, the server answers as its OpenAPI description says, and never with 5xx."""

import base64
import io
import os
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import requests
import schemathesis
from PIL import Image
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from schemathesis.schemas import BaseSchema

from lens_reasoner.parts import LoopParts
from lens_reasoner.prompts import GENERAL_PROMPT
from lens_sdk.nano_fidelity import NanoFidelityChecker
from lens_sdk.nano_judge import NanoJudge, NanoRubricWriter
from lens_sdk.nano_rule_reasoner import NanoRuleReasoner
from lens_sdk.server.app import create_app
from lens_sdk.server.config import ServerConfig
from lens_sdk.server.guard import ApiKeys
from loopback_lens import Running, serving
from plain_generator import PlainGenerator

KEY = "a-key-of-more-than-16-characters"
REQUEST = {"text": "two red apples left of a blue cup", "width": 64, "height": 64}
EXAMPLES = int(os.environ.get("LENS_FUZZ_EXAMPLES", "8"))
CONFIG = {
    "seed": int(os.environ.get("LENS_FUZZ_SEED", "1")),
    "generation": {"max-examples": EXAMPLES, "deterministic": EXAMPLES <= 8, "database": "none"},
    "phases": {"coverage": {"unexpected-methods": ["TRACE"]}},
    "checks": {
        # Sizes, lengths and rules between fields are not in the schema.
        "positive_data_acceptance": {"enabled": False},
        # Numbers are read from text, as forms send them.
        "negative_data_rejection": {"enabled": False},
    },
}
"""The same few examples of every endpoint; the environment can ask for others and for more."""


WRONG: list[dict[str, Any]] = [
    {},
    {"authorization": ""},
    {"authorization": "Bearer"},
    {"authorization": f"Basic {KEY}"},
    {"authorization": f"Bearer {KEY[:-1]}"},
    {"authorization": b"Bearer \xff\xfe"},
    {"authorization": f"Bearer {'x' * 5000}", "host": "[::1", "origin": "http://["},
]
ODD: list[dict[str, Any]] = [
    {"host": "[::1", "origin": ""},
    {"origin": "http://["},
    {"origin": "http://[::1"},
    {"content-type": "application/json; charset=odd"},
    {"content-type": "multipart/form-data"},
    {"content-type": "multipart/form-data; boundary="},
    {"content-type": b"multipart/form-data; boundary=\xff"},
    {"content-encoding": "gzip"},
    {"last-event-id": "9" * 400},
    {"idempotency-key": "x" * 256},
    {"idempotency-key": b"\xff"},
    {"x-forwarded-proto": "odd", "x-forwarded-for": ",,", "forwarded": 'for="'},
]


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (32, 32), (200, 10, 10, 128)).save(buffer, format="PNG")
    return buffer.getvalue()


PICTURE = _picture()


def _parts() -> LoopParts:
    """The nano world's parts, all but the model."""
    return LoopParts(
        PlainGenerator(),
        reasoner=NanoRuleReasoner(GENERAL_PROMPT),
        judge=NanoJudge(),
        rubric_writer=NanoRubricWriter(),
        fidelity_checker=NanoFidelityChecker(),
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    server = serving(ServerConfig(_parts(), folder=tmp_path_factory.mktemp("fuzzed")))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def behind_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("behind-keys")
    server = serving(ServerConfig(_parts(), folder=folder, keys=ApiKeys([KEY])))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def run(plain: Running) -> str:
    answer = httpx.post(f"{plain.v1}/runs", json={"request": REQUEST}, timeout=60)
    return str(answer.raise_for_status().json()["id"])


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def _described(keys: ApiKeys) -> BaseSchema:
    """What a server says of itself."""
    app = create_app(ServerConfig(_parts(), folder=Path("unused"), keys=keys))
    return schemathesis.openapi.from_dict(
        app.openapi(), config=SchemathesisConfig.from_dict(CONFIG)
    )


SCHEMA = _described(ApiKeys())


@SCHEMA.parametrize()
def test_answers_are_as_described(
    case: Case, plain: Running, run: str, session: requests.Session
) -> None:
    _about_something(case, run)
    case.call_and_validate(base_url=plain.url, session=session)


def _about_something(case: Case, run: str) -> None:
    """Let every other case be about a run that is there and a picture that can be decoded."""
    told = repr((case.path_parameters, case.query, case.body))
    if zlib.crc32(told.encode("utf-8", "replace")) % 2:
        return
    if "/runs/{name}" in case.path:
        case.path_parameters["name"] = run
    if isinstance(case.body, dict) and "image" in case.body:
        form = case.media_type == "multipart/form-data"
        case.body["image"] = PICTURE if form else base64.b64encode(PICTURE).decode()


def test_nothing_is_told_without_a_key(behind_keys: Running) -> None:
    with httpx.Client(base_url=behind_keys.url, timeout=60) as client:
        known = {"authorization": f"Bearer {KEY}"}
        paths = client.get("/openapi.json", headers=known).json()["paths"]
        for path, operations in paths.items():
            for method, operation in operations.items():
                expected = 401 if "security" in operation else 200
                for headers in WRONG:
                    answer = client.request(method, path.replace("{name}", "0"), headers=headers)
                    assert answer.status_code == expected, (method, path, headers)
                assert str(expected) in operation["responses"]


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/edits", "/v1/runs"])
def test_odd_headers_are_no_failure(plain: Running, path: str) -> None:
    with httpx.Client(base_url=plain.url, timeout=60) as client:
        for headers in ODD:
            answer = client.post(path, content=b"{}", headers=headers)
            assert 400 <= answer.status_code < 500, headers
            assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "header",
    [
        b"content-length: -1",
        b"content-length: 99999999999999999999",
        b"transfer-encoding: odd",
        b"content-type: a/b; c=\x00",
        b"\xff: \xff",
        b": ",
        b"x: " + b"y" * 100_000,
    ],
)
def test_what_is_no_http_is_refused(plain: Running, header: bytes) -> None:
    where = urlsplit(plain.url)
    with socket.create_connection((str(where.hostname), int(where.port or 0)), 30) as line:
        line.sendall(b"POST /v1/runs HTTP/1.1\r\nhost: localhost\r\n" + header + b"\r\n\r\n")
        status = line.recv(64).split(b" ")[1]
    assert status.startswith(b"4")
