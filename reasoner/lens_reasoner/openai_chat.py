"""Language models behind OpenAI's API or any server that speaks it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr, ValidationError

from lens_reasoner import openai_errors, openai_wire
from lens_reasoner.chat import ChatReply, Message
from lens_reasoner.errors import ChatError, ChatFault, MissingKeyError, UnsupportedSettingError
from lens_reasoner.prices import NO_PRICES, OPENAI_PRICES, PriceTable
from lens_reasoner.retry import RetryPolicy
from lens_reasoner.types import Usage

Api = Literal["chat", "responses"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]

OFFICIAL_URL = "https://api.openai.com/v1"
_NO_KEY = "no-key"


class OpenAIChat:
    """A `ChatModel` over the `openai` library, versions 2 and 3.

    The library's own retries are off; `RetryPolicy` is the only layer that repeats calls. Each call
    opens its own connection, so one object serves any number of event loops and needs no closing.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        api: Api | None = None,
        reasoning_effort: ReasoningEffort | None = None,
        prices: PriceTable | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Choose model and server.

        Args:
            model: Name of the model.
            base_url: Where the API is; None means `OPENAI_BASE_URL`, or else OpenAI.
            api_key: The key; None means `OPENAI_API_KEY`. Servers other than OpenAI may need none.
            api: Protocol; None means Responses on OpenAI and Chat Completions elsewhere.
            reasoning_effort: For models that think first; None leaves it to the server.
            prices: Prices for the cost in `Usage.usd`; None means OpenAI's own on OpenAI, and
                unknown costs elsewhere.
            retry: How long to insist.

        Raises:
            MissingKeyError: If OpenAI is asked without a key.
        """
        self._model = model
        self._base_url = base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL_URL
        official = is_official(self._base_url)
        self._key = _find_key(api_key, model=model, required=official)
        self._api: Api = api or ("responses" if official else "chat")
        self._official = official
        self._effort = reasoning_effort
        self._prices = prices or (OPENAI_PRICES if official else NO_PRICES)
        self._retry = retry or RetryPolicy()

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._model

    @property
    def api(self) -> Api:
        """The protocol spoken."""
        return self._api

    def __repr__(self) -> str:
        """Without the key."""
        return f"OpenAIChat({self._model!r}, base_url={self._base_url!r}, api={self._api!r})"

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> ChatReply:
        """See `ChatModel.complete`."""
        if self._api == "responses":
            body = openai_wire.responses_body(messages, schema)
        else:
            body = openai_wire.chat_body(messages, schema)
        body |= self._options(temperature, max_tokens, seed)
        started = time.perf_counter()
        wire = await self._retry.run(lambda: self._call(body), model=self._model)
        usage = wire.usage.model_copy(
            update={"usd": self._prices.cost(wire.model or self._model, wire.usage)}
        )
        self._check_complete(wire, usage)
        return ChatReply(
            text=wire.text,
            parsed=None if schema is None else self._parse(schema, wire.text, usage),
            usage=usage,
            model=wire.model or self._model,
            seconds=time.perf_counter() - started,
            finish_reason=wire.finish_reason,
        )

    def _options(
        self, temperature: float | None, max_tokens: int | None, seed: int | None
    ) -> openai_wire.Json:
        if self._api == "responses":
            if seed is not None:
                raise UnsupportedSettingError(
                    f"seed={seed} cannot be honoured: the Responses protocol has no seed.",
                    setting="seed",
                    value=seed,
                    backend=self._model,
                    hint="Leave the seed out or choose api='chat'.",
                )
            effort: object = {"effort": self._effort} if self._effort else None
            options = {"max_output_tokens": max_tokens, "reasoning": effort}
        else:
            # Compatible servers know the older name, OpenAI's newer models only the newer one.
            limit = "max_completion_tokens" if self._official else "max_tokens"
            options = {limit: max_tokens, "reasoning_effort": self._effort, "seed": seed}
        options |= {"model": self._model, "temperature": temperature}
        return {name: value for name, value in options.items() if value is not None}

    async def _call(self, body: openai_wire.Json) -> openai_wire.WireReply:
        import openai

        key = self._key.get_secret_value()
        arguments: dict[str, Any] = {**body, "timeout": self._retry.timeout}
        reply: Any
        try:
            async with openai.AsyncOpenAI(
                api_key=key, base_url=self._base_url, max_retries=0
            ) as client:
                if self._api == "responses":
                    reply = await client.responses.create(**arguments)
                else:
                    reply = await client.chat.completions.create(**arguments)
        except Exception as error:
            raise openai_errors.from_client(error, model=self._model, secret=key) from error
        return self._read(reply, key)

    def _read(self, reply: Any, key: str) -> openai_wire.WireReply:
        # The library hands any reply that does not say it is JSON through as a string.
        if isinstance(reply, str):
            raise self._error(
                "html",
                f"The server of {self._model!r} answered with a page instead of JSON.",
                detail=openai_errors.hide(reply, key)[:500],
                hint=f"Check that base_url ({self._base_url}) names the API, usually ending in "
                "/v1, and that no proxy or login page stands in between.",
            )
        read = openai_wire.read_responses if self._api == "responses" else openai_wire.read_chat
        try:
            return read(openai_errors.hide(reply.to_dict(mode="json", warnings=False), key))
        except (ValueError, AttributeError) as error:
            raise self._error(
                "malformed",
                f"The reply of {self._model!r} is not of the {self._api!r} protocol.",
                detail=str(error)[:500],
                hint="Check base_url, and try the other protocol (api='chat' or 'responses').",
            ) from error

    def _check_complete(self, wire: openai_wire.WireReply, usage: Usage) -> None:
        if wire.refusal:
            raise self._error(
                "refused",
                f"{self._model!r} refused to answer: {wire.refusal}",
                usage=usage,
                detail=wire.refusal,
                hint="Change the request; asking again does not help.",
            )
        if wire.finish_reason == "content_filter":
            raise self._error(
                "filtered",
                f"The provider's content filter stopped the reply of {self._model!r}.",
                usage=usage,
                hint="Change the request; asking again does not help.",
            )
        if wire.finish_reason == "length":
            raise self._error(
                "truncated",
                f"The reply of {self._model!r} was cut off after {usage.output_tokens} tokens.",
                usage=usage,
                detail=wire.text[-200:],
                hint="Raise max_tokens; hidden reasoning counts towards it.",
            )
        if wire.failure or wire.finish_reason in {"failed", "cancelled", "incomplete"}:
            raise self._error(
                "server",
                f"{self._model!r} did not finish ({wire.finish_reason}): {wire.failure}",
                usage=usage,
                detail=wire.failure,
                hint="The provider has trouble; try again later.",
            )
        if not wire.text.strip():
            raise self._error(
                "malformed",
                f"{self._model!r} gave an empty reply.",
                usage=usage,
                hint="Raise max_tokens, or choose another model.",
            )

    def _parse(self, schema: type[BaseModel], text: str, usage: Usage) -> BaseModel:
        try:
            return schema.model_validate_json(text)
        except ValidationError as error:
            raise self._error(
                "off_schema",
                f"The reply of {self._model!r} is not of the form {schema.__name__}: "
                f"{error.error_count()} problems.",
                usage=usage,
                detail=text[:500],
                hint="Choose a model or server that supports JSON schemas in replies.",
            ) from error

    def _error(self, fault: ChatFault, message: str, **known: Any) -> ChatError:
        return ChatError(message, fault=fault, model=self._model, **known)


def is_official(base_url: str) -> bool:
    """Whether `base_url` is OpenAI's own API, regional addresses included."""
    host = (urlsplit(base_url).hostname or "").lower()
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def _find_key(given: str | SecretStr | None, *, model: str, required: bool) -> SecretStr:
    if isinstance(given, SecretStr):
        given = given.get_secret_value()
    key = (given or os.environ.get("OPENAI_API_KEY") or "").strip()
    if not key and required:
        raise MissingKeyError(
            f"No API key for {model!r}.",
            hint="Set OPENAI_API_KEY, set OPENAI_BASE_URL to a compatible server of your own, or "
            "choose an offline model.",
        )
    return SecretStr(key or _NO_KEY)
