"""Downloading images from URLs in a server's reply."""

from __future__ import annotations

import asyncio
from urllib.parse import urljoin, urlsplit

from pydantic import SecretStr

from lens_reasoner.errors import ChatError, ImageFileError
from lens_reasoner.retry import Deadline, RetryPolicy

MOST_REDIRECTS = 3
_BLOCK = 2**16
_TRANSIENT = {408, 425, 429}


async def download(
    url: str,
    *,
    base_url: str,
    most_bytes: int,
    timeout: float,
    key: SecretStr | None = None,
    retry: RetryPolicy | None = None,
) -> bytes:
    """Download a URL, retrying connection failures and busy servers.

    Args:
        url: An http or https URL, or a path relative to `base_url`.
        base_url: The server's base URL.
        most_bytes: Maximum size in bytes.
        timeout: Maximum seconds per attempt.
        key: The server's key; it is only sent to that server, and only after a 401 reply.
        retry: When to retry; None makes one attempt.

    Raises:
        ImageFileError: The URL is invalid or unreachable, or its reply is an error or too large.
    """
    address = _address(base_url, url)
    own = key if _origin(address) == _origin(base_url) else None

    async def fetch(_: Deadline) -> bytes:
        return await _fetch(address, own, most_bytes, timeout)

    try:
        return await (retry or RetryPolicy(attempts=1)).run(fetch, model=_short(address))
    except ChatError as error:
        raise ImageFileError(error.message) from error


async def _fetch(address: str, key: SecretStr | None, most_bytes: int, timeout: float) -> bytes:
    status, body = await _get(address, {}, most_bytes, timeout)
    if status == 401 and key is not None:
        headers = {"authorization": f"Bearer {key.get_secret_value()}"}
        status, body = await _get(address, headers, most_bytes, timeout)
    message = f"{_short(address)} answered with status {status}."
    if status >= 500 or status in _TRANSIENT:
        raise ChatError(message, fault="server", status=status, model=_short(address))
    if not 200 <= status < 300:
        raise ImageFileError(message)
    return body


async def _get(
    address: str, headers: dict[str, str], most_bytes: int, timeout: float
) -> tuple[int, bytes]:
    import httpx

    parts: list[bytes] = []
    try:
        async with (
            asyncio.timeout(timeout),
            # httpx drops the key on redirects to other servers.
            httpx.AsyncClient(follow_redirects=True, max_redirects=MOST_REDIRECTS) as client,
            client.stream("GET", address, headers=headers, timeout=timeout) as response,
        ):
            size = 0
            async for block in response.aiter_bytes(_BLOCK):
                parts.append(block)
                size += len(block)
                if size > most_bytes:
                    raise ImageFileError(f"{_short(address)} gives more than {most_bytes} bytes.")
    except TimeoutError as error:
        message = f"{_short(address)} took more than {timeout:g} s."
        raise ChatError(message, fault="timeout", model=_short(address)) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        message = f"{_short(address)} cannot be fetched: {str(error) or type(error).__name__}"
        transient = httpx.NetworkError | httpx.RemoteProtocolError | httpx.TimeoutException
        if isinstance(error, transient):
            raise ChatError(message, fault="connection", model=_short(address)) from error
        raise ImageFileError(message) from error
    return response.status_code, b"".join(parts)


def _origin(address: str) -> tuple[str, str]:
    parts = urlsplit(address)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()


def _address(base_url: str, url: str) -> str:
    try:
        address = urljoin(base_url.rstrip("/") + "/", url)
        scheme = urlsplit(address).scheme
    except ValueError as error:
        raise ImageFileError(f"The image's URL is invalid: {error}.") from error
    if scheme not in {"http", "https"}:
        raise ImageFileError(f"The image's URL is neither http nor https: {_short(address)}.")
    return address


def _short(address: str) -> str:
    # The query is often a signature that gives anyone access to the image.
    parts = urlsplit(address)
    text = f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else address
    return text if len(text) <= 120 else text[:117] + "..."
