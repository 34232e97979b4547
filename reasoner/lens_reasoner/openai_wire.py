"""The two OpenAI protocols as plain JSON: what is sent, and what a reply means.

Kept apart from the client library, so that both its majors and every compatible server take the
same path.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
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
    """A reply of either protocol, before it is judged good or bad."""

    text: str
    refusal: str
    finish_reason: str
    model: str
    usage: Usage
    failure: str = ""


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
    # Some compatible servers take only plain strings where there is no picture.
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
    """The JSON schema in the form strict decoding asks for.

    Every property is required, no others are allowed, and there are no defaults or titles.
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
        # Nothing may stand beside a reference.
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


# A reply that counts oddly is paid for all the same: what it says of its usage is then unknown.
_Count = Annotated[int | None, Field(ge=0), WrapValidator(_none_if_odd)]


class _Details(_Part):
    cached_tokens: _Count = None


class _ChatUsage(_Part):
    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    prompt_tokens_details: Annotated[_Details | None, WrapValidator(_none_if_odd)] = None


class _Text(_Part):
    type: str = "text"
    text: str | None = None


class _ChatMessage(_Part):
    # Some compatible servers answer with a list of parts, of which thoughts are no answer.
    content: str | list[_Text] | None = None
    refusal: str | None = None


class _Failure(_Part):
    code: int | str | None = None
    message: str | None = None

    @property
    def words(self) -> str:
        return ": ".join(str(part) for part in (self.code, self.message) if part)


class _Choice(_Part):
    message: _ChatMessage
    finish_reason: str | None = None
    # Of gateways whose own provider broke off.
    error: Annotated[_Failure | None, WrapValidator(_none_if_odd)] = None


class _ChatCompletion(_Part):
    choices: list[_Choice]
    model: str | None = None
    usage: Annotated[_ChatUsage | None, WrapValidator(_none_if_odd)] = None


def read_chat(data: Json) -> WireReply:
    """Read a Chat Completions reply.

    Raises:
        ValueError: If it is not one.
    """
    reply = _ChatCompletion.model_validate(data)
    if not reply.choices:
        raise ValueError("the reply has no choices")
    choice = reply.choices[0]
    usage = reply.usage or _ChatUsage()
    details = usage.prompt_tokens_details or _Details()
    return WireReply(
        text=_unbroken(_joined(choice.message.content)),
        refusal=choice.message.refusal or "",
        finish_reason=choice.finish_reason or "stop",
        model=reply.model or "",
        usage=Usage(
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            cached_tokens=details.cached_tokens,
        ),
        failure=choice.error.words if choice.error else "",
    )


def _joined(content: str | list[_Text] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text or "" for part in content if part.type == "text")
    return content or ""


def _unbroken(text: str) -> str:
    """The text with a mark for each half of a character, which no file or server takes."""
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


class ResponsesUsage(_Part):
    """What a reply of Responses and its like says it consumed."""

    input_tokens: _Count = None
    output_tokens: _Count = None
    input_tokens_details: Annotated[_Details | None, WrapValidator(_none_if_odd)] = None


ResponsesCount = Annotated[ResponsesUsage | None, WrapValidator(_none_if_odd)]
"""The same; None where it is of another form."""


class _Response(_Part):
    output: list[_Item]
    status: str | None = None
    model: str | None = None
    incomplete_details: _Incomplete | None = None
    error: _Failure | None = None
    usage: ResponsesCount = None


_RESPONSES_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}


def read_responses(data: Json) -> WireReply:
    """Read a Responses reply; its reasons for stopping get their Chat Completions names.

    Raises:
        ValueError: If it is not one.
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
            c.refusal or "refused without a word" for c in contents if c.type == "refusal"
        ),
        finish_reason=_RESPONSES_REASONS.get(reason, reason) if reason else finish,
        model=reply.model or "",
        usage=counted(reply.usage),
        failure=reply.error.words if reply.error else "",
    )


def counted(usage: ResponsesUsage | None) -> Usage:
    """The tokens of a reply; unknown where it does not say."""
    known = usage or ResponsesUsage()
    return Usage(
        input_tokens=known.input_tokens,
        output_tokens=known.output_tokens,
        cached_tokens=(known.input_tokens_details or _Details()).cached_tokens,
    )
