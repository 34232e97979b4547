"""Checks before every endpoint: the caller's key, the host and the size of the body."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from lens_reasoner.text_files import read_text
from lens_sdk.errors import SdkError
from lens_sdk.server.errors import ApiError
from lens_sdk.server.limits import ServerLimits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from lens_sdk.server.metrics import Metrics

OPEN_PATHS = ("/", "/healthz", "/readyz")
"""Paths that need no key: the page, which asks for one, and the health checks."""

OPEN_FOLDER = "/files/"
"""Images under names that nobody can guess, and study reports under signed URLs."""

UPLOADS = frozenset({"/v1/judgements", "/v1/images/edits"})
"""Paths that receive images."""

_LOCAL_NAMES = {"localhost", ""}
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


class KeyFileError(SdkError, ValueError):
    """A file does not contain usable API keys."""


class ApiKeys:
    """The API keys the server accepts; without any, callers need no key."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    @classmethod
    def read(cls, path: str | Path) -> ApiKeys:
        """Read a file with one key per line; empty lines and lines that start with # are ignored.

        Raises:
            KeyFileError: The file has no key, or a key is shorter than 16 characters.
        """
        lines = read_text(path).splitlines()
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not keys or min(map(len, keys)) < 16:
            what = "holds no key" if not keys else "has a key of fewer than 16 characters"
            raise KeyFileError(
                f"{path} {what}.",
                hint='Write one key per line, such as the output of "openssl rand -hex 24".',
            )
        return cls(keys)

    def __bool__(self) -> bool:
        """Whether a key is needed."""
        return bool(self._digests)

    def caller(self, given: str) -> str | None:
        """An identifier for the holder of this key; None if the key is not accepted.

        All keys are compared, each in constant time, so that timing reveals nothing.
        """
        digest, found = _digest(given), None
        for known in self._digests:
            if hmac.compare_digest(digest, known):
                found = known.hex()[:16]
        return found


class Guard:
    """ASGI middleware: sets request IDs, checks keys and hosts, limits bodies, counts answers."""

    def __init__(
        self, app: ASGIApp, *, keys: ApiKeys, limits: ServerLimits, metrics: Metrics
    ) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD" and _open(scope["path"]):
            # Load balancers send HEAD. Handle it as GET; the server omits the body.
            scope = {**scope, "method": "GET"}
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        status = 499

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._admit(scope)
        except ApiError as error:
            answer = JSONResponse(error.body, error.status, error.headers)
            await answer(scope, receive, tell)
        else:
            body = _Body(scope, receive, self._most_bytes(scope["path"]), self._limits.body_seconds)
            await self._app(scope, body.receive, tell)
        finally:
            self._metrics.answered(scope, status)

    def _most_bytes(self, path: str) -> int:
        return self._limits.upload_bytes if path in UPLOADS else self._limits.body_bytes

    def _admit(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._most_bytes(path):
            raise _too_large(self._most_bytes(path))
        if not self._keys:
            if not is_local(_host_name(headers.get("host", ""))):
                # Another site can point its own name at this machine; the Host header shows it.
                raise ApiError(403, "This server only serves this machine.", code="wrong_host")
            if not is_local(_origin(headers.get("origin", ""))):
                # Browsers let any site send forms here, and name the site in Origin.
                raise ApiError(403, "Other sites may not call this server.", code="wrong_origin")
            scope["state"]["caller"] = "local"
            return
        if _open(path):
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        caller = self._keys.caller(given.strip()) if kind.lower() == "bearer" else None
        if caller is None:
            what = "Incorrect API key provided." if given else "No API key was given."
            raise ApiError(
                401, f"{what} Send it as 'Authorization: Bearer KEY'.", code="invalid_api_key"
            )
        scope["state"]["caller"] = caller


def _open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


class _Body:
    """Limits a body's size and duration while it arrives."""

    def __init__(self, scope: Scope, receive: Receive, most: int, seconds: float) -> None:
        self._receive = receive
        self._most = most
        self._until = time.monotonic() + seconds
        self._bytes = 0
        self._complete = False

    async def receive(self) -> Message:
        """The next message.

        Raises:
            HTTPException: The body is too large or too slow.
        """
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "The request took too long to arrive.") from None
        self._bytes += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._bytes > self._most:
            raise HTTPException(413, _too_large(self._most).message)
        return message


def is_local(host: str) -> bool:
    """Whether a host name or address means only this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _LOCAL_NAMES


def _host_name(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if ":" in header else header


def _origin(header: str) -> str:
    """The host in an Origin header; empty without a header, the header itself if it has no host."""
    try:
        return urlsplit(header).hostname or header
    except ValueError:
        return header


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"The request body is larger than {most} bytes.", code="body_too_large")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def caller_of(state: Any) -> str:
    """Identifies the sender of a request, from its state."""
    return str(getattr(state, "caller", "anybody"))
