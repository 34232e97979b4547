"""Language models behind OpenAI's API or any server that speaks it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Literal, Unpack

from pydantic import BaseModel

from lens_reasoner import openai_wire
from lens_reasoner.chat import ChatReply, Message
from lens_reasoner.errors import ChatError, UnsupportedSettingError
from lens_reasoner.limits import estimate_tokens
from lens_reasoner.openai_connection import ConnectionOptions, OpenAIClient, OpenAIConnection
from lens_reasoner.openai_pool import load_library
from lens_reasoner.retry import Deadline
from lens_reasoner.structured import ask_checked, told_the_form
from lens_reasoner.sync import run_sync
from lens_reasoner.types import Usage

Api = Literal["chat", "responses"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]

_log = logging.getLogger("lens_reasoner")
_SCHEMA_FIELDS = ("response_format", "json_schema", "text.format")


class OpenAIChat(OpenAIClient):
    """A `ChatModel` over the `openai` library, versions 2 and 3.

    One object serves any number of event loops and threads. Closing it (`aclose`, `async with`) is
    polite and not required. A server that takes no JSON schemas is told the form in words.
    """

    def __init__(
        self,
        model: str,
        *,
        api: Api | None = None,
        reasoning_effort: ReasoningEffort | None = None,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        """Choose model and server.

        Args:
            model: Name of the model.
            api: Protocol; None means Responses on OpenAI and Chat Completions elsewhere.
            reasoning_effort: For models that think first; None leaves it to the server.
            **options: Server, key, prices, retries and limits; see `ConnectionOptions`.

        Raises:
            MissingKeyError: If OpenAI is asked without a key.
            PriceTableError: If the prices cannot be read.
        """
        super().__init__(OpenAIConnection(model, **options))
        self._api: Api = api or ("responses" if self._connection.official else "chat")
        self._effort = reasoning_effort
        self._takes_schemas = True

    @property
    def api(self) -> Api:
        """The protocol spoken."""
        return self._api

    @property
    def fingerprint(self) -> str:
        """Model, server and what else shapes the answers."""
        usual = "responses" if self._connection.official else "chat"
        chosen = (
            f"api={self._api}" if self._api != usual else "",
            f"effort={self._effort}" if self._effort else "",
        )
        return " ".join([super().fingerprint, *filter(None, chosen)])

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> ChatReply:
        """See `ChatModel.complete`; a reply off the schema is asked for once more."""
        options = self._options(temperature, max_tokens, seed)
        load_library()

        async def ask(asked: Sequence[Message]) -> ChatReply:
            tokens = estimate_tokens(asked, max_tokens)
            return await self._ask(asked, schema, options, tokens, deadline)

        async with self._connection.retry.within_deadline(self.model) as deadline:
            return await ask_checked(ask, messages, schema, model=self.model)

    def complete_sync(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> ChatReply:
        """`complete` for plain code, notebooks included."""
        return run_sync(
            self.complete(
                messages, schema=schema, temperature=temperature, max_tokens=max_tokens, seed=seed
            )
        )

    async def _ask(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel] | None,
        options: openai_wire.Json,
        tokens: int,
        deadline: Deadline,
    ) -> ChatReply:
        started = time.perf_counter()
        try:
            wire = await self._send(messages, schema, options, tokens, deadline)
        except ChatError as error:
            if schema is None or not _takes_no_schema(error):
                raise
            _log.warning("%s takes no JSON schemas; the form is asked for in words", self.model)
            self._takes_schemas = False
            wire = await self._send(messages, schema, options, tokens, deadline)
        usage = self._connection.cost(wire.model or self.model, wire.usage)
        self._check_complete(wire, usage)
        return ChatReply(
            text=wire.text,
            parsed=None,
            usage=usage,
            model=wire.model or self.model,
            seconds=time.perf_counter() - started,
            finish_reason=wire.finish_reason,
        )

    async def _send(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel] | None,
        options: openai_wire.Json,
        tokens: int,
        deadline: Deadline,
    ) -> openai_wire.WireReply:
        if schema is not None and not self._takes_schemas:
            messages, schema = told_the_form(messages, schema), None
        if self._api == "responses":
            body, path = openai_wire.responses_body(messages, schema), "/responses"
            read = openai_wire.read_responses
        else:
            body, path = openai_wire.chat_body(messages, schema), "/chat/completions"
            read = openai_wire.read_chat
        return await self._connection.send(
            path, body | options, read, tokens=tokens, deadline=deadline
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
                    backend=self.model,
                    hint="Leave the seed out or choose api='chat'.",
                )
            effort: object = {"effort": self._effort} if self._effort else None
            options = {"max_output_tokens": max_tokens, "reasoning": effort}
        else:
            # Compatible servers know the older name, OpenAI's newer models only the newer one.
            limit = "max_completion_tokens" if self._connection.official else "max_tokens"
            options = {limit: max_tokens, "reasoning_effort": self._effort, "seed": seed}
        options |= {"model": self.model, "temperature": temperature}
        return {name: value for name, value in options.items() if value is not None}

    def _check_complete(self, wire: openai_wire.WireReply, usage: Usage) -> None:
        known: dict[str, Any] = {"usage": usage}
        if wire.refusal:
            raise self._connection.error(
                "refused",
                f"{self.model!r} refused to answer: {wire.refusal}",
                detail=wire.refusal,
                hint="Change the request; asking again does not help.",
                **known,
            )
        if wire.finish_reason == "content_filter":
            raise self._connection.error(
                "filtered",
                f"The provider's content filter stopped the reply of {self.model!r}.",
                hint="Change the request; asking again does not help.",
                **known,
            )
        if wire.finish_reason == "length":
            raise self._connection.error(
                "truncated",
                f"The reply of {self.model!r} was cut off after {usage.output_tokens} tokens.",
                detail=wire.text[-200:],
                hint="Raise max_tokens; hidden reasoning counts towards it.",
                **known,
            )
        if wire.failure or wire.finish_reason in {"failed", "cancelled", "incomplete", "error"}:
            raise self._connection.error(
                "server",
                f"{self.model!r} did not finish ({wire.finish_reason}): {wire.failure}",
                detail=wire.failure,
                hint="The provider has trouble; try again later.",
                **known,
            )
        if not wire.text.strip():
            raise self._connection.error(
                "malformed",
                f"{self.model!r} gave an empty reply.",
                hint="Raise max_tokens, or choose another model.",
                **known,
            )


def _takes_no_schema(error: ChatError) -> bool:
    """Whether a server turned a call away because of the schema in it."""
    named = any(name in f"{error.message} {error.detail}" for name in _SCHEMA_FIELDS)
    return error.fault == "rejected" and error.status in {400, 422} and named
