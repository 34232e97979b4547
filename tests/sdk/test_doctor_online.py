"""What the doctor learns from servers of language models."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lens_sdk.doctor.services import served_models

LISTED = {"object": "list", "data": [{"id": "qwen/qwen3-vl-8b", "object": "model"}]}


@pytest.fixture
def url() -> Iterator[str]:
    """A server that lists its models and describes none, as vLLM and llama.cpp did for long."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/v1/models"
            self.send_response(200 if known else 404)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(LISTED if known else {"detail": "Not Found"}).encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_that_is_only_listed_is_there(url: str) -> None:
    used = {"reasoner": "qwen/qwen3-vl-8b", "judge": "another"}
    found = served_models(used, {"base_url": url, "api_key": "none"})
    assert [check.status for check in found] == ["ok", "error"]


def test_a_server_that_is_away_is_a_warning() -> None:
    (found,) = served_models({"judge": "m"}, {"base_url": "http://127.0.0.1:9/v1"})
    assert found.status == "warning"
