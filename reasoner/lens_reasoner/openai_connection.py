"""One model on one server: key, connections, rate limits and retries for all kinds of calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol, Self, TypedDict, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from lens_reasoner import openai_errors
from lens_reasoner.errors import ChatError, ChatFault, MissingKeyError
from lens_reasoner.limits import Limits, limiter_for
from lens_reasoner.openai_pool import ClientPool, load_library
from lens_reasoner.prices import NO_PRICES, PriceSource, PriceTable, openai_prices, price_table
from lens_reasoner.retry import Deadline, RetryPolicy
from lens_reasoner.shutdowns import SHUTDOWNS, ShutdownWatch
from lens_reasoner.sync import run_sync
from lens_reasoner.types import Usage

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OFFICIAL_URL = "https://api.openai.com/v1"
_NO_KEY = "no-key"

Json = dict[str, Any]


class ConnectionOptions(TypedDict, total=False):
    """Options of a client: server, key, prices, retries and limits. All are optional.

    Attributes:
        base_url: The API's base URL; None means `OPENAI_BASE_URL`, or else OpenAI.
        api_key: The API key; None means `OPENAI_API_KEY`. An empty string means no key, for servers
            that need none.
        prices: Prices for the cost in `Usage.usd`: a table, a mapping from models to prices, or a
            JSON file. None means OpenAI's prices at OpenAI; elsewhere the cost that a reply states
            (OpenRouter's and xAI's do), or else an unknown cost.
        retry: When to retry.
        limits: Rate limits of this model on this server, for every client in the process; None
            keeps the current ones.
        setting: How a user chooses another model, with `{model}` for its name; used in hints.
        look_up_shutdown: Whether to ask the server when the model will be shut down; None asks
            OpenAI only.
        shutdowns: Looks up shutdowns and warns; None means the watch shared by the process.
    """

    base_url: str | None
    api_key: str | SecretStr | None
    prices: PriceSource | None
    retry: RetryPolicy | None
    limits: Limits | None
    setting: str
    look_up_shutdown: bool | None
    shutdowns: ShutdownWatch | None


class HasUsage(Protocol):
    """A reply that states what it consumed."""

    @property
    def usage(self) -> Usage:
        """What the call consumed."""
        ...


Reply = TypeVar("Reply", bound=HasUsage)


class OpenAIConnection:
    """Sends JSON to one model of an OpenAI-compatible server and reads JSON back.

    The library's own retries are off; only `RetryPolicy` retries calls.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        prices: PriceSource | None = None,
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        setting: str = "model='{model}'",
        look_up_shutdown: bool | None = None,
        shutdowns: ShutdownWatch | None = None,
    ) -> None:
        """Choose model and server; the other arguments are those of `ConnectionOptions`.

        Raises:
            MissingKeyError: The server is OpenAI and there is no API key, or the key has invalid
                characters.
            PriceTableError: The prices cannot be read.
        """
        self.model = model
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL_URL
        self.official = is_official(self.base_url)
        self.retry = retry or RetryPolicy()
        self.prices = _prices(prices, official=self.official)
        self.key = _find_key(api_key, model=model, required=self.official)
        self._limiter = limiter_for(self.base_url, model, limits)
        self._setting = setting
        self._looks_up = self.official if look_up_shutdown is None else look_up_shutdown
        self._shutdowns = shutdowns or SHUTDOWNS
        self.pool = ClientPool(self.base_url, self.key)

    async def send(
        self,
        path: str,
        body: Json,
        read: Callable[[Json], Reply],
        *,
        tokens: int,
        deadline: Deadline | None = None,
    ) -> Reply:
        """Post `body` and read the reply, with retries.

        Args:
            path: Path of the endpoint, such as "/responses".
            body: The request body.
            read: Converts a reply; raises ValueError if the reply has another format.
            tokens: Estimated token use, for the rate limits.
            deadline: The deadline of an enclosing operation; None starts a new one.

        Raises:
            ChatError: There is no reply, or `read` refused it.
        """
        load_library()

        async def attempt(deadline: Deadline) -> Reply:
            async with AsyncExitStack() as held:
                with deadline.paused():
                    slot = await held.enter_async_context(self._limiter.slot(tokens))
                reply = self._read(read, await self._post(path, body))
                used = (reply.usage.input_tokens, reply.usage.output_tokens)
                if used[0] is not None and used[1] is not None:
                    slot.tokens = used[0] + used[1]
                return reply

        if not self._looks_up:
            return await self.retry.run(attempt, model=self.model, deadline=deadline)
        async with self._shutdowns.beside(
            self.model, self.base_url, self._description, setting=self._setting
        ):
            return await self.retry.run(attempt, model=self.model, deadline=deadline)

    def cost(self, served_model: str, usage: Usage) -> Usage:
        """`usage` with its cost in US dollars; None if unknown.

        Prices take precedence: those of the model that answered or else of the requested one,
        because servers may answer with their own names. Without a price, the reply's stated cost
        counts.
        """
        priced = next((m for m in (served_model, self.model) if self.prices.of(m)), None)
        if priced is None:
            return usage
        return usage.model_copy(update={"usd": self.prices.cost(priced, usage)})

    def hide(self, part: Any) -> Any:
        """`part`, a text or JSON value, without the key."""
        return openai_errors.hide(part, self.key)

    def error(self, fault: ChatFault, message: str, **known: Any) -> ChatError:
        """An error about this model."""
        return ChatError(message, fault=fault, model=self.model, **known)

    async def _post(self, path: str, body: Json) -> object:
        try:
            # Outside the timeout, because creating the first client takes a moment.
            await self._client()
            async with asyncio.timeout(self.retry.timeout):
                # Hide the key here, so that nothing further up holds what a server may have echoed.
                data = _parsed(self.hide(await self._request(path, body)))
        except Exception as error:
            raise openai_errors.from_client(
                error, model=self.model, secret=self.key, missing_hint=self._missing_hint()
            ) from error
        if (failure := openai_errors.from_reply(data, model=self.model)) is not None:
            raise failure
        return data

    async def _request(self, path: str, body: Json) -> object:
        client = await self._client()
        return await client.post(
            path, body=body, cast_to=object, options={"timeout": self.retry.timeout}
        )

    async def _client(self) -> AsyncOpenAI:
        return await self.pool.client()

    async def _description(self) -> object:
        client = await self._client()
        return await client.get(f"/models/{self.model}", cast_to=object)

    def _read(self, read: Callable[[Json], Reply], data: object) -> Reply:
        if isinstance(data, str):
            raise self.error(
                "html",
                f"The server of {self.model!r} answered with a page instead of JSON.",
                detail=data[:500],
                hint=f"Check that base_url ({shown_url(self.base_url)}) names the API, usually "
                "ending in /v1, and that no proxy or login page stands in between.",
            )
        try:
            return read(cast(Json, data))
        except (ValueError, AttributeError) as error:
            raise self.error(
                "malformed",
                f"The reply of {self.model!r} does not follow the expected protocol: "
                f"{openai_errors.short(str(error), 200)}",
                detail=str(error)[:500],
                hint="Check base_url, and try the other protocol (api='chat' or 'responses').",
            ) from error

    def _missing_hint(self) -> str:
        successor = self._shutdowns.successor(self.model) if self.official else ""
        chosen = self._setting.format(model=successor or "NAME")
        return f"The model may have been shut down; choose another: use {chosen}."


class OpenAIClient:
    """Base class of clients: one connection, and closing it."""

    def __init__(self, connection: OpenAIConnection) -> None:
        self._connection = connection

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._connection.model

    def __repr__(self) -> str:
        """Name and server, without the key."""
        server = shown_url(self._connection.base_url)
        return f"{type(self).__name__}({self.model!r}, base_url={server!r})"

    @property
    def fingerprint(self) -> str:
        """The model's name, and the server if it is not OpenAI."""
        known = self._connection
        return self.model if known.official else f"{self.model} at {shown_url(known.base_url)}"

    async def aclose(self) -> None:
        """Close the connections of the running event loop; the next call opens new ones."""
        await self._connection.pool.aclose()

    def close(self) -> None:
        """Close the connections that the `..._sync` methods opened."""
        run_sync(self.aclose())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def is_official(base_url: str) -> bool:
    """Whether `base_url` is OpenAI's own API, including regional addresses."""
    host = (urlsplit(base_url).hostname or "").lower()
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def shown_url(base_url: str) -> str:
    """A server's URL without parts that may be secret: user names, passwords and queries."""
    parts = urlsplit(base_url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _parsed(data: object) -> object:
    """Parse a JSON reply that the library returned as a string for lack of a content type."""
    if isinstance(data, str) and data.lstrip().startswith("{"):
        with contextlib.suppress(ValueError):
            return json.loads(data)
    return data


def _prices(given: PriceSource | None, *, official: bool) -> PriceTable:
    if given is not None:
        return price_table(given)
    return openai_prices() if official else NO_PRICES


def _find_key(given: str | SecretStr | None, *, model: str, required: bool) -> SecretStr:
    if isinstance(given, SecretStr):
        given = given.get_secret_value()
    key = (os.environ.get("OPENAI_API_KEY", "") if given is None else given).strip()
    if not key and required:
        raise MissingKeyError(
            f"No API key for {model!r}.",
            hint="Set OPENAI_API_KEY, set OPENAI_BASE_URL to a compatible server of your own, or "
            "choose an offline model.",
        )
    odd = next((place for place, mark in enumerate(key, start=1) if not "!" <= mark <= "~"), None)
    if odd is not None:
        # Refused here, because the transport would put the whole key into its error.
        raise MissingKeyError(
            f"The API key for {model!r} cannot be sent: character {odd} of {len(key)} is none that "
            "a key may have.",
            hint="Give only the key, without line breaks, spaces or other characters.",
        )
    return SecretStr(key or _NO_KEY)
