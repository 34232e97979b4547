"""The two OpenAI protocols as plain JSON: request bodies, and parsing of replies.

Independent of the client library, so that both of its major versions and every compatible server
take the same path.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from lens_reasoner.chat import ImagePart, Message
from lens_reasoner.types import Usage

Json = dict[str, Any]


@dataclass(frozen=True)
class WireReply:
    """A reply of either protocol, not yet checked for completeness.

    Attributes:
        text: What the model wrote.
        refusal: The text of a refusal; empty if there is none.
        finish_reason: Why the model stopped, by the names of Chat Completions.
        model: The model, as the server names it.
        usage: Tokens, and the cost if the server states it.
        failure: The server's description of a failure; empty if there is none.
        thoughts: Reasoning text, if the server returns it separately.
    """

    text: str
    refusal: str
    finish_reason: str
    model: str
    usage: Usage
    failure: str = ""
    thoughts: str = ""


def chat_body(messages: Sequence[Message], schema: type[BaseModel] | None) -> Json:
    """The message part of a Chat Completions request."""
    body: Json = {
        "messages": [
            {"role": message.role, "content": _chat_content(message)} for message in messages
        ]
    }
    if schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": _named_schema(schema)}
    return body


def _chat_content(message: Message) -> str | list[Json]:
    parts: list[Json] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            image = {"url": part.data_url, "detail": part.detail}
            parts.append({"type": "image_url", "image_url": image})
        else:
            parts.append({"type": "text", "text": part.text})
    # Some compatible servers accept only plain strings in messages without images.
    return parts[0]["text"] if len(parts) == 1 and "text" in parts[0] else parts


def responses_body(messages: Sequence[Message], schema: type[BaseModel] | None) -> Json:
    """The message part of a Responses request; nothing is stored on the server."""
    body: Json = {
        "input": [
            {"role": message.role, "content": _responses_content(message)} for message in messages
        ],
        "store": False,
    }
    if schema is not None:
        body["text"] = {"format": {"type": "json_schema", **_named_schema(schema)}}
    return body


def _responses_content(message: Message) -> list[Json]:
    text_type = "output_text" if message.role == "assistant" else "input_text"
    return [
        {"type": "input_image", "image_url": part.data_url, "detail": part.detail}
        if isinstance(part, ImagePart)
        else {"type": text_type, "text": part.text}
        for part in message.parts
    ]


def _named_schema(schema: type[BaseModel]) -> Json:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", schema.__name__).strip("_")
    return {"name": name, "strict": True, "schema": strict_schema(schema)}


def strict_schema(schema: type[BaseModel]) -> Json:
    """The JSON schema in the form that strict decoding requires.

    All properties are required, no others are allowed, and there are no defaults or titles.
    """
    document = copy.deepcopy(schema.model_json_schema())
    _make_strict(document)
    return document


def _make_strict(node: object) -> None:
    if isinstance(node, list):
        for item in node:
            _make_strict(item)
    if not isinstance(node, dict):
        return
    if "$ref" in node:
        # A reference may have no siblings.
        reference = node["$ref"]
        node.clear()
        node["$ref"] = reference
        return
    node.pop("default", None)
    if isinstance(node.get("title"), str):
        del node["title"]
    properties = node.get("properties")
    if isinstance(properties, dict):
        node["additionalProperties"] = False
        node["required"] = list(properties)
    for key, value in node.items():
        if key in {"properties", "$defs"}:
            for member in value.values():
                _make_strict(member)
        elif key in {"items", "anyOf", "allOf", "prefixItems"}:
            _make_strict(value)


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", defer_build=True)


def _none_if_odd(value: object, read: ValidatorFunctionWrapHandler) -> object:
    try:
        return read(value)
    except ValidationError:
        return None


# A reply with malformed counts is paid for all the same; its usage is then unknown.
_Count = Annotated[int | None, Field(ge=0), WrapValidator(_none_if_odd)]


_Dollars = Annotated[float | None, Field(ge=0, allow_inf_nan=False), WrapValidator(_none_if_odd)]
_Words = Annotated[str | None, WrapValidator(_none_if_odd)]


class _Details(_Part):
    cached_tokens: _Count = None


class Charged(_Part):
    """The cost that a reply states, as OpenRouter's and xAI's do."""

    cost: _Dollars = None
    is_byok: Any = None
    cost_in_usd_ticks: _Count = None

    @property
    def usd(self) -> float | None:
        """Cost in US dollars; None if not stated."""
        if self.cost_in_usd_ticks is not None:
            return self.cost_in_usd_ticks / 1e10
        # With the user's own provider key (BYOK), the provider charges in addition.
        return None if self.is_byok else self.cost


class _ChatUsage(Charged):
    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    total_tokens: _Count = None
    prompt_tokens_details: Annotated[_Details | None, WrapValidator(_none_if_odd)] = None

    @property
    def counted(self) -> Usage:
        read, written = self.prompt_tokens, self.completion_tokens
        if read is not None and written is not None:
            # Some servers leave hidden reasoning out of the completion tokens; the total includes
            # it.
            written = max(written, (self.total_tokens or 0) - read)
        cached = (self.prompt_tokens_details or _Details()).cached_tokens
        return _counted(read, written, cached, self.usd)


class _Text(_Part):
    type: str = "text"
    text: str | None = None


class _ChatMessage(_Part):
    # Some compatible servers answer with a list of parts, some of which are thoughts.
    content: str | list[_Text] | None = None
    refusal: _Words = None
    reasoning: _Words = None
    reasoning_content: _Words = None


class _Failure(_Part):
    code: int | str | None = None
    message: str | None = None

    @property
    def words(self) -> str:
        return ": ".join(str(part) for part in (self.code, self.message) if part)


class _Choice(_Part):
    # Missing in replies that a filter stopped.
    message: _ChatMessage | None = None
    finish_reason: _Words = None
    # Set by gateways whose own provider failed.
    error: Annotated[_Failure | None, WrapValidator(_none_if_odd)] = None


class _ChatCompletion(_Part):
    choices: list[_Choice] | None
    model: _Words = None
    usage: Annotated[_ChatUsage | None, WrapValidator(_none_if_odd)] = None


_FINISHES = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "blocklist": "content_filter",
    "content_filter": "content_filter",
    "prohibited_content": "content_filter",
    "recitation": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "spii": "content_filter",
    "abort": "error",
    "insufficient_system_resource": "error",
    "network_error": "error",
}
"""Finish reasons of other providers, which servers pass on, by OpenAI's names."""


def _finish(reason: str | None) -> str:
    # Some append the cause: "content_filter: PROHIBITED_CONTENT".
    return _FINISHES.get((reason or "").partition(":")[0].strip().lower(), reason or "stop")


def read_chat(data: Json) -> WireReply:
    """Parse a Chat Completions reply; one without choices counts as failed.

    Raises:
        ValueError: It is not such a reply.
    """
    reply = _ChatCompletion.model_validate(data)
    none = _Choice(finish_reason="error", error=_Failure(message="the reply has no choices"))
    choice = reply.choices[0] if reply.choices else none
    message, finish = choice.message or _ChatMessage(), _finish(choice.finish_reason)
    broken = choice.finish_reason if finish == "error" else ""
    return WireReply(
        text=_unbroken(_joined(message.content)),
        refusal=message.refusal or "",
        finish_reason=finish,
        model=reply.model or "",
        usage=(reply.usage or _ChatUsage()).counted,
        failure=choice.error.words if choice.error else broken or "",
        thoughts=_unbroken(message.reasoning_content or message.reasoning or ""),
    )


def answered(reply: WireReply, schema: type[BaseModel] | None) -> WireReply:
    """If a server took the whole answer for thoughts, return the reply with them as its text."""
    if schema is None or reply.text.strip() or not reply.thoughts:
        return reply
    try:
        schema.model_validate_json(reply.thoughts)
    except ValidationError:
        return reply
    return replace(reply, text=reply.thoughts)


def _joined(content: str | list[_Text] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text or "" for part in content if part.type == "text")
    return content or ""


def _unbroken(text: str) -> str:
    """The text with lone surrogates replaced, which files and servers do not accept."""
    return text.encode(errors="replace").decode()


class _Content(_Part):
    type: str
    text: str | None = None
    refusal: str | None = None


class _Item(_Part):
    type: str
    content: list[_Content] | None = None


class _Incomplete(_Part):
    reason: str | None = None


class ResponsesUsage(Charged):
    """The usage in a Responses reply."""

    input_tokens: _Count = None
    output_tokens: _Count = None
    input_tokens_details: Annotated[_Details | None, WrapValidator(_none_if_odd)] = None


ResponsesCount = Annotated[ResponsesUsage | None, WrapValidator(_none_if_odd)]
"""The same; None if it has another form."""


class _Response(_Part):
    output: list[_Item]
    status: str | None = None
    model: str | None = None
    incomplete_details: _Incomplete | None = None
    error: _Failure | None = None
    usage: ResponsesCount = None


_RESPONSES_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}


def read_responses(data: Json) -> WireReply:
    """Parse a Responses reply; finish reasons get their Chat Completions names.

    Raises:
        ValueError: It is not such a reply.
    """
    reply = _Response.model_validate(data)
    contents = [
        content for item in reply.output if item.type == "message" for content in item.content or []
    ]
    reason = (reply.incomplete_details or _Incomplete()).reason
    finish = "stop" if reply.status in {None, "completed"} else str(reply.status)
    return WireReply(
        text=_unbroken("".join(c.text or "" for c in contents if c.type == "output_text")),
        refusal="".join(
            c.refusal or "refused without an explanation" for c in contents if c.type == "refusal"
        ),
        finish_reason=_RESPONSES_REASONS.get(reason, reason) if reason else finish,
        model=reply.model or "",
        usage=counted(reply.usage),
        failure=reply.error.words if reply.error else "",
    )


def counted(usage: ResponsesUsage | None) -> Usage:
    """The tokens of a reply; unknown if it does not state them."""
    known = usage or ResponsesUsage()
    cached = (known.input_tokens_details or _Details()).cached_tokens
    return _counted(known.input_tokens, known.output_tokens, cached, known.usd)


def _counted(read: int | None, written: int | None, cached: int | None, usd: float | None) -> Usage:
    # Servers that do not count report 0, although no reply reads nothing.
    if not read and not written:
        return Usage(usd=usd)
    return Usage(input_tokens=read, output_tokens=written, cached_tokens=cached, usd=usd)
