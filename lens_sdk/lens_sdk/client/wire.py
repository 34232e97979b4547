"""HTTP calls to a server: retries without repeated work, errors and server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from lens_sdk.client.errors import (
    AuthenticationError,
    LensServerError,
    RequestRefusedError,
    ServerBusyError,
    ServerFailedError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from lens_sdk.client.types import Timeouts
from lens_sdk.errors import SettingsError

LONGEST_WAIT = 120.0
"""Seconds; if a server asks for a longer wait, the call is not retried."""

_log = logging.getLogger("lens_sdk")


@dataclass(frozen=True)
class ServerEvent:
    """One server-sent event.

    Attributes:
        kind: Name of the event.
        data: The event's data, parsed from JSON.
        number: ID of the event, for continuing after it; None if it has none.
    """

    kind: str
    data: Any
    number: int | None


class Wire:
    """Calls one server.

    Every POST carries an idempotency key that stays the same in all retries, so the server does the
    work only once. Connections belong to an event loop, so each loop has its own.

    Args:
        base_url: Address of the server, with or without "/v1".
        api_key: Sent as a bearer token; None sends none.
        timeouts: How long calls may take.
        max_retries: How often to retry after lost connections and statuses 408, 429 and 5xx.

    Raises:
        SettingsError: `base_url` is not a server address.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None, timeouts: Timeouts, max_retries: int
    ) -> None:
        root = base_url.rstrip("/").removesuffix("/v1")
        if not root.startswith(("http://", "https://")):
            raise SettingsError(
                f"base_url {base_url!r} is not a server address.",
                hint=f"Write http://{root.rpartition('://')[2]}, with the port if it has one.",
            )
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self._root = root
        self._timeouts = timeouts
        self._attempts = max_retries + 1

    async def get(self, path: str) -> Any:
        """Get the JSON value at a path."""
        return await self._retried("GET", path, {})

    async def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> Any:
        """Send a body, as a form if there are files, and return the answer's JSON value."""
        key = {"idempotency-key": f"lens-{secrets.token_hex(16)}"}
        if files is None:
            return await self._retried("POST", path, {"json": body, "headers": key})
        return await self._retried("POST", path, {"data": body, "files": files, "headers": key})

    async def events(self, path: str, after: int) -> AsyncGenerator[ServerEvent]:
        """The events at a path after event number `after`, over one connection.

        Raises:
            LensServerError: The connection fails or breaks.
        """
        timeout = _limits(self._timeouts, self._timeouts.silence)
        headers = {"last-event-id": str(after)} if after else {}
        with self._told():
            request = self._client().stream("GET", path, headers=headers, timeout=timeout)
            async with request as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise _refused(answer)
                async for event in _parse(answer.aiter_lines()):
                    yield event

    async def close(self) -> None:
        """Close the running event loop's connections; the next call opens new ones."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            # Iterate over a copy: other threads may be adding their own loops.
            for ended in [known for known in tuple(self._clients) if known.is_closed()]:
                self._clients.pop(ended, None)
            self._clients[loop] = httpx.AsyncClient(
                base_url=f"{self._root}/v1/",
                headers=self._headers,
                timeout=_limits(self._timeouts, self._timeouts.first_byte),
            )
        return self._clients[loop]

    async def _retried(self, method: str, path: str, sent: Mapping[str, Any]) -> Any:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            retry=retry_if_exception(worth_retrying),
            wait=_wait,
            before_sleep=_tell,
            reraise=True,
        )
        try:
            async with asyncio.timeout(self._timeouts.total):
                async for attempt in retrying:
                    with attempt:
                        return await self._once(method, path, sent)
        except TimeoutError as error:
            raise ServerTimeoutError(
                f"{self._root} took more than {self._timeouts.total:g} s.",
                hint="Allow more: timeouts=Timeouts(total=...).",
            ) from error
        raise AssertionError("every attempt returns or raises")

    async def _once(self, method: str, path: str, sent: Mapping[str, Any]) -> Any:
        with self._told():
            answer = await self._client().request(method, path, **sent)
        if not answer.is_success:
            raise _refused(answer)
        try:
            return answer.json()
        except ValueError:
            raise ServerFailedError(
                f"{self._root} does not answer in JSON.",
                hint="Is this the address of a Lens server?",
                status=answer.status_code,
            ) from None

    def _told(self) -> _Translated:
        return _Translated(self._root)


class _Translated:
    """Turns the HTTP library's errors into `LensServerError`."""

    def __init__(self, root: str) -> None:
        self._root = root

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, httpx.TimeoutException):
            raise ServerTimeoutError(
                f"{self._root} did not answer in time ({type(error).__name__}).",
                hint="Allow more: timeouts=Timeouts(...).",
            ) from error
        if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
            why = str(error).rstrip(".") or type(error).__name__
            raise ServerUnreachableError(
                f"{self._root} cannot be reached: {why}.",
                hint="Check the address and whether the server runs: lens serve.",
            ) from error


def worth_retrying(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    if isinstance(error, LensServerError) and error.retry_after is not None:
        return error.retry_after <= LONGEST_WAIT
    if isinstance(error, ServerFailedError):
        return error.status in {500, 502, 503, 504} and error.code != "generator_failed"
    return isinstance(error, ServerUnreachableError | ServerBusyError)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = getattr(error, "retry_after", None)
    backoff = min(8.0, 0.5 * 2 ** (state.attempt_number - 1)) * (
        0.75 + secrets.randbelow(250) / 1e3
    )
    return backoff if asked is None else float(asked)


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    _log.info("asking again after: %s", error)


def _limits(timeouts: Timeouts, read: float | None) -> httpx.Timeout:
    return httpx.Timeout(connect=timeouts.connect, read=read, write=read, pool=None)


def _refused(answer: httpx.Response) -> LensServerError:
    """The error for an unsuccessful answer."""
    told: dict[str, Any] = {}
    with suppress(ValueError, AttributeError):
        told = answer.json().get("error") or {}
    status = answer.status_code
    retry_after = None
    with suppress(KeyError, ValueError):
        retry_after = float(answer.headers["retry-after"])
    kind: type[LensServerError] = RequestRefusedError
    if status in {401, 403}:
        kind = AuthenticationError
    elif status == 429 or told.get("code") == "shutting_down":
        kind = ServerBusyError
    elif status == 408 or status >= 500:
        kind = ServerFailedError
    return kind(
        str(told.get("message") or f"The server answered with status {status}."),
        status=status,
        code=told.get("code"),
        param=told.get("param"),
        request_id=answer.headers.get("x-request-id"),
        retry_after=retry_after,
    )


async def _parse(lines: AsyncIterator[str]) -> AsyncIterator[ServerEvent]:
    fields: dict[str, str] = {}
    async for line in lines:
        if not line:
            if "data" in fields:
                number = fields.get("id", "")
                yield ServerEvent(
                    fields.get("event", "message"),
                    json.loads(fields["data"]),
                    int(number) if number.isdigit() else None,
                )
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
