"""Pictures fetched from the address a server answered with."""

from __future__ import annotations

import asyncio
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from pydantic import SecretStr

from lens_reasoner.errors import ImageFileError

MOST_REDIRECTS = 3
_BLOCK = 2**16
_PASSING = {408, 425, 429}


class PassingDownloadError(ImageFileError):
    """An address that could not be fetched now, and may be a little later."""


async def download(
    url: str, *, base_url: str, most_bytes: int, timeout: float, key: SecretStr | None = None
) -> bytes:
    """The bytes at an address.

    Args:
        url: An http or https address, or a path on the server of `base_url`.
        base_url: Where the server is.
        most_bytes: Longest answer.
        timeout: Seconds all of it may take.
        key: The server's key, which is sent to no other, and only if that asks for one.

    Raises:
        PassingDownloadError: The address did not answer, or is busy.
        ImageFileError: It is of another kind, or answers with an error or too much.
    """
    address = _address(base_url, url)
    response = await _fetch(address, {}, most_bytes, timeout)
    if response.status == 401 and key is not None and _origin(address) == _origin(base_url):
        headers = {"authorization": f"Bearer {key.get_secret_value()}"}
        response = await _fetch(address, headers, most_bytes, timeout)
    if response.status >= 500 or response.status in _PASSING:
        raise PassingDownloadError(f"{_short(address)} answered with status {response.status}.")
    if not 200 <= response.status < 300:
        raise ImageFileError(f"{_short(address)} answered with status {response.status}.")
    return response.body


class _Fetched(NamedTuple):
    status: int
    body: bytes


async def _fetch(
    address: str, headers: dict[str, str], most_bytes: int, timeout: float
) -> _Fetched:
    import httpx

    parts: list[bytes] = []
    try:
        async with (
            asyncio.timeout(timeout),
            # Redirects to other servers lose the key.
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
        raise PassingDownloadError(f"{_short(address)} took more than {timeout:g} s.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        lost = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
        kind = PassingDownloadError if lost else ImageFileError
        raise kind(f"{_short(address)} cannot be fetched: {reason}") from error
    return _Fetched(response.status_code, b"".join(parts))


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port


def _address(base_url: str, url: str) -> str:
    try:
        address = urljoin(base_url.rstrip("/") + "/", url)
        scheme = urlsplit(address).scheme
    except ValueError as error:
        raise ImageFileError(f"The picture's address is none: {error}.") from error
    if scheme not in {"http", "https"}:
        raise ImageFileError(f"The picture's address is neither http nor https: {_short(address)}.")
    return address


def _short(address: str) -> str:
    # What follows the path is often a signature that opens the picture to anybody.
    parts = urlsplit(address)
    text = f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else address
    return text if len(text) <= 120 else text[:117] + "..."
