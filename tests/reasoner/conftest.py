"""A loopback server that speaks both OpenAI protocols, driven by a script of replies."""

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lens_reasoner import OpenAIChat, RetryPolicy

SECRET = "sk-loopback-0123456789abcdef"
USAGE = (11, 7, 4)  # input, output, cached tokens


@dataclass(frozen=True)
class Reply:
    body: bytes = b"{}"
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    delay: float = 0.0
    cut: int | None = None  # hangs up after so many bytes of the body


@dataclass(frozen=True)
class Call:
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    at: float
    raw: bytes = b""


class LoopbackServer:
    """Answers from `script`, then from `answer`; remembers every call.

    What `pages` holds is answered first, by path.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.script: deque[Reply] = deque()
        self.pages: dict[str, Reply] = {}
        self.answer: Callable[[Call], Reply] | None = None
        self._lock = threading.Lock()
        outer = self

        self.connections = 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.respond(self, Call(self.path, {}, headers, time.monotonic()))

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                raw = self.rfile.read(length)
                headers = {name.lower(): value for name, value in self.headers.items()}
                is_form = headers.get("content-type", "").startswith("multipart/")
                body = {} if is_form else json.loads(raw or b"{}")
                outer.respond(self, Call(self.path, body, headers, time.monotonic(), raw))

            def log_message(self, *args: object) -> None:
                pass

        class QuietServer(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                # Clients that hang up are part of the tests.
                if not isinstance(sys.exception(), ConnectionError):
                    super().handle_error(request, client_address)

        self._http = QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def respond(self, handler: BaseHTTPRequestHandler, call: Call) -> None:
        with self._lock:
            self.calls.append(call)
            reply = self.pages.get(call.path)
            if reply is None and self.script:
                reply = self.script.popleft()
        if reply is None:
            assert self.answer is not None, f"unexpected call: {call}"
            reply = self.answer(call)
        time.sleep(reply.delay)
        if reply.drop:
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        handler.send_header("content-type", reply.content_type)
        handler.send_header("content-length", str(len(reply.body)))
        handler.send_header("x-request-id", f"req-{len(self.calls)}")
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(reply.body[: reply.cut])
        handler.close_connection = handler.close_connection or reply.cut is not None

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # Builders of replies; `api` says in which protocol.

    def text(
        self,
        api: str,
        text: str | None,
        *,
        finish: str = "stop",
        refusal: str | None = None,
        usage: bool = True,
        model: str = "served-model",
    ) -> Reply:
        fresh, out, cached = USAGE
        if api == "chat":
            message = {"role": "assistant", "content": text, "refusal": refusal}
            data: dict[str, Any] = {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": model,
                "choices": [{"index": 0, "finish_reason": finish, "message": message}],
            }
            counts: dict[str, Any] = {
                "prompt_tokens": fresh,
                "completion_tokens": out,
                "total_tokens": fresh + out,
                "prompt_tokens_details": {"cached_tokens": cached},
            }
        else:
            reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
            part = (
                {"type": "output_text", "text": text or "", "annotations": []}
                if refusal is None
                else {"type": "refusal", "refusal": refusal}
            )
            data = {
                "id": "resp_1",
                "object": "response",
                "created_at": 1,
                "model": model,
                "status": "completed" if finish == "stop" else "incomplete",
                "incomplete_details": {"reason": reasons[finish]} if finish != "stop" else None,
                "output": [
                    {"type": "reasoning", "id": "rs_1", "summary": []},
                    {"type": "message", "id": "msg_1", "role": "assistant", "content": [part]},
                ],
            }
            counts = {
                "input_tokens": fresh,
                "output_tokens": out,
                "total_tokens": fresh + out,
                "input_tokens_details": {"cached_tokens": cached},
                "output_tokens_details": {"reasoning_tokens": 2},
            }
        if usage:
            data["usage"] = counts
        return Reply(json.dumps(data).encode())

    def error(
        self, status: int, message: str = "no", code: str | None = None, **headers: str
    ) -> Reply:
        body = {"error": {"message": message, "type": "error", "code": code, "param": None}}
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return Reply(json.dumps(body).encode(), status=status, headers=names)

    def raw(self, body: bytes, content_type: str = "application/json", **how: Any) -> Reply:
        return Reply(body, content_type=content_type, **how)

    def dropped(self) -> Reply:
        return Reply(drop=True)

    def chat(self, api: str = "chat", model: str = "some-model", **options: Any) -> OpenAIChat:
        """A client of this server with a quick retry policy."""
        options.setdefault(
            "retry", RetryPolicy(attempts=3, first_wait=0.01, timeout=30, deadline=120)
        )
        return OpenAIChat(model, base_url=self.url, api_key=SECRET, api=api, **options)


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    running = LoopbackServer()
    yield running
    running.close()


@pytest.fixture
def secret() -> str:
    return SECRET


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
