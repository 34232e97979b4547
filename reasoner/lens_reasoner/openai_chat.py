"""Language models at OpenAI or any compatible server."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Unpack

from pydantic import BaseModel, JsonValue

from lens_reasoner import openai_wire
from lens_reasoner.chat import ChatReply, ImagePart, Message
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

_PROTOCOLS: dict[Api, tuple[str, Callable[[openai_wire.Json], openai_wire.WireReply]]] = {
    "chat": ("/chat/completions", openai_wire.read_chat),
    "responses": ("/responses", openai_wire.read_responses),
}
"""Each protocol's endpoint, and the parser of its replies."""

_log = logging.getLogger("lens_reasoner")
_OF_SCHEMAS = re.compile(r"response.?format|text\.format|schema|grammar|json", re.IGNORECASE)
_OF_PICTURES = re.compile(r"image|vision|multi-?modal|must be a string", re.IGNORECASE)


class ChatOptions(ConnectionOptions, total=False):
    """Options of `OpenAIChat` that depend on the server rather than the model.

    Attributes:
        extra_body: See `OpenAIChat`.
    """

    extra_body: Mapping[str, JsonValue] | None


class OpenAIChat(OpenAIClient):
    """A `ChatModel` that uses the `openai` library, version 2 or 3.

    One object serves any number of event loops and threads. Closing it (`aclose`, `async with`) is
    optional.

    If a server rejects a parameter, later calls adapt and a warning is logged: a JSON schema moves
    into the system message, `max_tokens` gets its newer name, and a temperature is left out. After
    a reply that did not match its schema, later calls also have the schema in the system message.
    """

    def __init__(
        self,
        model: str,
        *,
        api: Api | None = None,
        reasoning_effort: ReasoningEffort | None = None,
        extra_body: Mapping[str, JsonValue] | None = None,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        """Choose model and server.

        Args:
            model: Name of the model.
            api: Protocol; None means Responses on OpenAI and Chat Completions elsewhere.
            reasoning_effort: For reasoning models; None leaves it to the server.
            extra_body: Further fields for this server, sent unchanged with every call, such as
                `{"chat_template_kwargs": {"enable_thinking": False}}` for vLLM.
            **options: Server, key, prices, retries and limits; see `ConnectionOptions`.

        Raises:
            MissingKeyError: The server is OpenAI and there is no API key.
            PriceTableError: The prices cannot be read.
        """
        super().__init__(OpenAIConnection(model, **options))
        self._api: Api = api or ("responses" if self._connection.official else "chat")
        self._effort = reasoning_effort
        self._extra = dict(extra_body or {})
        self._untaken: set[str | type[BaseModel]] = set()
        self._unheeded: set[type[BaseModel]] = set()

    @property
    def api(self) -> Api:
        """The protocol in use."""
        return self._api

    @property
    def fingerprint(self) -> str:
        """Model, server and everything else that affects the answers."""
        usual = "responses" if self._connection.official else "chat"
        chosen = (
            f"api={self._api}" if self._api != usual else "",
            f"effort={self._effort}" if self._effort else "",
            f"extra={json.dumps(self._extra, sort_keys=True)}" if self._extra else "",
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
        """See `ChatModel.complete`. A reply that does not match the schema is retried once."""
        options = self._options(temperature, max_tokens, seed)
        load_library()

        async def ask(asked: Sequence[Message]) -> ChatReply:
            tokens = estimate_tokens(asked, max_tokens)
            return await self._ask(asked, schema, options, tokens, deadline)

        async with self._connection.retry.within_deadline(self.model) as deadline:
            reply = await ask_checked(ask, messages, schema, model=self.model)
        if schema is not None and reply.reask != Usage.zero():
            # Otherwise a server that silently ignores schemas would be asked twice every time.
            self._unheeded.add(schema)
        return reply

    def complete_sync(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> ChatReply:
        """Synchronous version of `complete`, which also works in notebooks."""
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
        spent: list[Usage] = []
        path, read_wire = _PROTOCOLS[self._api]

        def read(data: openai_wire.Json) -> openai_wire.WireReply:
            wire = openai_wire.answered(read_wire(data), schema)
            spent.append(self._connection.cost(wire.model or self.model, wire.usage))
            # An incomplete reply is retried like one that never arrived.
            self._check_complete(wire, _together(spent))
            return wire

        while True:
            body = self._body(messages, schema, options)
            try:
                wire = await self._connection.send(
                    path, body | self._extra, read, tokens=tokens, deadline=deadline
                )
                break
            except ChatError as error:
                if not self._adapt(error, body, schema):
                    _explain(error, messages)
                    raise
        return ChatReply(
            text=wire.text,
            parsed=None,
            usage=_together(spent),
            model=wire.model or self.model,
            seconds=time.perf_counter() - started,
            finish_reason=wire.finish_reason,
        )

    def _body(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel] | None,
        options: openai_wire.Json,
    ) -> openai_wire.Json:
        if schema is not None and schema in self._untaken | self._unheeded:
            messages = told_the_form(messages, schema)
            schema = None if schema in self._untaken else schema
        if "max_tokens" in self._untaken:
            newer = {"max_tokens": "max_completion_tokens"}
            options = {newer.get(name, name): value for name, value in options.items()}
        options = {name: value for name, value in options.items() if name not in self._untaken}
        if self._api == "responses":
            return openai_wire.responses_body(messages, schema) | options
        return openai_wire.chat_body(messages, schema) | options

    def _adapt(
        self, error: ChatError, body: openai_wire.Json, schema: type[BaseModel] | None
    ) -> bool:
        """Adapt later calls to what the server rejected; False if there is nothing to adapt."""
        if error.fault != "rejected" or error.status not in {400, 422}:
            return False
        words = f"{error.message} {error.detail}"
        untaken: str | type[BaseModel]
        if "max_tokens" in body and "max_completion_tokens" in words:
            untaken, instead = "max_tokens", "max_completion_tokens is sent"
        elif "temperature" in body and "temperature" in words:
            untaken, instead = "temperature", "it is left to the model"
        elif schema is not None and {"response_format", "text"} & body.keys():
            if not _OF_SCHEMAS.search(words):
                return False
            untaken, instead = schema, "the prompt describes the format instead"
        else:
            return False
        if untaken not in self._untaken:
            name = untaken if isinstance(untaken, str) else "JSON schema"
            _log.warning("%s does not take the %s; %s", self.model, name, instead)
        self._untaken.add(untaken)
        return True

    def _options(
        self, temperature: float | None, max_tokens: int | None, seed: int | None
    ) -> openai_wire.Json:
        if self._api == "responses":
            if seed is not None:
                raise UnsupportedSettingError(
                    f"seed={seed} is not supported: the Responses protocol has no seed.",
                    setting="seed",
                    value=seed,
                    backend=self.model,
                    hint="Leave the seed out or choose api='chat'.",
                )
            effort: object = {"effort": self._effort} if self._effort else None
            options = {"max_output_tokens": max_tokens, "reasoning": effort}
        else:
            # Compatible servers know the older name; newer OpenAI models need the newer one.
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
                hint="The provider has a problem; try again later.",
                **known,
            )
        if not wire.text.strip():
            raise self._connection.error(
                "malformed",
                f"{self.model!r} gave an empty reply.",
                hint="Raise max_tokens, or choose another model.",
                **known,
            )


def _together(spent: Sequence[Usage]) -> Usage:
    """The usage of a reply and of incomplete ones before it, as far as those stated it."""
    return Usage.total([*(usage for usage in spent[:-1] if usage != Usage()), *spent[-1:]])


def _explain(error: ChatError, messages: Sequence[Message]) -> None:
    """Set a hint if the server seems to reject an image in the messages."""
    shown = any(isinstance(part, ImagePart) for m in messages for part in m.parts)
    refused = error.fault == "rejected" or error.status == 500
    if shown and refused and _OF_PICTURES.search(error.message):
        error.hint = "The call had an image: choose a model that accepts images of this size."
