"""Pictures fetched from the address a server answered with."""

from __future__ import annotations

import asyncio
from urllib.parse import urljoin, urlsplit

from lens_reasoner.errors import ImageFileError

MOST_REDIRECTS = 3
_BLOCK = 2**16


async def download(url: str, *, base_url: str, most_bytes: int, timeout: float) -> bytes:
    """The bytes at an address; no key is sent there.

    Args:
        url: An http or https address, or a path on the server of `base_url`.
        base_url: Where the server is.
        most_bytes: Longest answer.
        timeout: Seconds all of it may take.

    Raises:
        ImageFileError: The address is of another kind, cannot be reached, answers with an error,
            or with too much.
    """
    import httpx

    address = _address(base_url, url)
    parts: list[bytes] = []
    try:
        async with (
            asyncio.timeout(timeout),
            httpx.AsyncClient(follow_redirects=True, max_redirects=MOST_REDIRECTS) as client,
            client.stream("GET", address, timeout=timeout) as response,
        ):
            if not response.is_success:
                raise ImageFileError(
                    f"{_short(address)} answered with status {response.status_code}."
                )
            size = 0
            async for block in response.aiter_bytes(_BLOCK):
                parts.append(block)
                size += len(block)
                if size > most_bytes:
                    raise ImageFileError(f"{_short(address)} gives more than {most_bytes} bytes.")
    except TimeoutError as error:
        raise ImageFileError(f"{_short(address)} took more than {timeout:g} s.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise ImageFileError(f"{_short(address)} cannot be fetched: {reason}") from error
    return b"".join(parts)


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
