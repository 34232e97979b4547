"""The protocol for language models: messages in, one validated reply out."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from lens_reasoner.types import Usage

Role = Literal["system", "user", "assistant"]
ImageDetail = Literal["low", "high", "auto"]
Schema = TypeVar("Schema", bound=BaseModel)


@dataclass(frozen=True)
class TextPart:
    """Text within a message."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """An image within a message.

    Attributes:
        data: The file's bytes.
        media_type: Media type, such as "image/png".
        detail: Level of detail at which the model looks at the image; it also sets the price.
    """

    data: bytes = field(repr=False)
    media_type: str = "image/png"
    detail: ImageDetail = "high"

    @property
    def data_url(self) -> str:
        """The image as a `data:` URL."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    parts: tuple[TextPart | ImagePart, ...]

    @classmethod
    def system(cls, text: str) -> Message:
        """Instructions for the model."""
        return cls("system", (TextPart(text),))

    @classmethod
    def user(cls, *parts: str | TextPart | ImagePart) -> Message:
        """Text and images from the user."""
        return cls("user", tuple(TextPart(p) if isinstance(p, str) else p for p in parts))

    @classmethod
    def assistant(cls, text: str) -> Message:
        """An earlier reply of the model."""
        return cls("assistant", (TextPart(text),))

    @property
    def text(self) -> str:
        """The text parts, joined by newlines."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True)
class ChatReply:
    """A complete reply that is not a refusal.

    Attributes:
        text: What the model wrote.
        parsed: The reply as an instance of the requested schema; None without a schema.
        usage: What was consumed, including a second request after a malformed reply.
        model: The model that answered, as the server names it.
        seconds: Wall-clock time, including retries.
        finish_reason: Why the model stopped.
        reask: The part of `usage` spent on a second request, because the first reply did not match
            the schema; zero if the first reply did.
    """

    text: str
    parsed: BaseModel | None
    usage: Usage
    model: str
    seconds: float
    finish_reason: str
    reask: Usage = field(default_factory=Usage.zero)

    def parsed_as(self, schema: type[Schema]) -> Schema:
        """The parsed reply, as the type that was requested.

        Raises:
            TypeError: The call was made with another schema or none.
        """
        if not isinstance(self.parsed, schema):
            raise TypeError(f"the reply holds {type(self.parsed).__name__}, not {schema.__name__}")
        return self.parsed


@runtime_checkable
class ChatModel(Protocol):
    """Answers a conversation.

    A model with settings that affect its answers should also have a property `fingerprint`, which
    becomes part of cache keys.
    """

    @property
    def model(self) -> str:
        """Name of the model, for records."""
        ...

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> ChatReply:
        """Answer `messages`.

        Args:
            messages: The conversation so far.
            schema: Shape that the reply must have; the validated reply is in `ChatReply.parsed`.
            temperature: Sampling temperature; None leaves it to the server, and some models accept
                nothing else.
            max_tokens: Maximum tokens to write, including hidden reasoning.
            seed: Sampling seed, if the server supports one.

        Raises:
            ChatError: There is no complete reply that matches `schema`.
            UnsupportedSettingError: The model does not support a setting.
        """
        ...


class Named(Protocol):
    """Anything with a model name: a chat model, a moderator, a decision model."""

    @property
    def model(self) -> str:
        """Name of the model."""
        ...


def identity_of(model: Named) -> str:
    """The identity of a model for cache keys: its fingerprint, or else its name."""
    return str(getattr(model, "fingerprint", None) or model.model)
