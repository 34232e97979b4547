"""The seam to language models: messages in, one checked reply out."""

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
        media_type: Such as "image/png".
        detail: How closely the model looks, which also sets the price.
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
        """What the user says and shows."""
        return cls("user", tuple(TextPart(p) if isinstance(p, str) else p for p in parts))

    @classmethod
    def assistant(cls, text: str) -> Message:
        """What the model said before."""
        return cls("assistant", (TextPart(text),))

    @property
    def text(self) -> str:
        """Its words, without its images."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True)
class ChatReply:
    """A complete, unrefused reply.

    Attributes:
        text: What the model wrote.
        parsed: The reply as the schema asked for; None without a schema.
        usage: What was consumed, asking again included.
        model: The model that answered, by the server's own name for it.
        seconds: Wall-clock time, retries included.
        finish_reason: Why the model stopped.
        reask: What of `usage` went into asking again after a first reply off the schema; zero if
            the first one was right.
    """

    text: str
    parsed: BaseModel | None
    usage: Usage
    model: str
    seconds: float
    finish_reason: str
    reask: Usage = field(default_factory=Usage.zero)

    def parsed_as(self, schema: type[Schema]) -> Schema:
        """The parsed reply, as the type that was asked for.

        Raises:
            TypeError: If the call was made with another schema or none.
        """
        if not isinstance(self.parsed, schema):
            raise TypeError(f"the reply holds {type(self.parsed).__name__}, not {schema.__name__}")
        return self.parsed


@runtime_checkable
class ChatModel(Protocol):
    """Anything that answers a conversation.

    A model with settings that shape its answers says so by a property `fingerprint` beside its
    name; it is part of the keys under which its answers are kept.
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
            schema: Shape the reply must have; it is checked, and found in `ChatReply.parsed`.
            temperature: None leaves it to the server; some models refuse any other value.
            max_tokens: Most tokens to write, hidden reasoning included.
            seed: Seed of the sampling, where the server has one.

        Raises:
            ChatError: If there is no complete reply of the asked shape.
            UnsupportedSettingError: If this model cannot honour a setting.
        """
        ...


class Named(Protocol):
    """Whatever answers under a name: a chat model, a moderator, a decider."""

    @property
    def model(self) -> str:
        """Name of the model."""
        ...


def identity_of(model: Named) -> str:
    """What decides a model's answers as far as it says: its fingerprint, or else its name."""
    return str(getattr(model, "fingerprint", None) or model.model)
