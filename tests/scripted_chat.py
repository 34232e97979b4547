"""A language model whose replies a test decides, checked against the schema like real ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from lens_reasoner import ChatError, ChatReply, ImagePart, Message, TextPart, Usage

SPENT = Usage(input_tokens=100, output_tokens=10, cached_tokens=0, usd=0.001)


@dataclass(frozen=True)
class Asked:
    """One call."""

    system: str
    text: str
    images: tuple[ImagePart, ...]
    temperature: float | None
    schema: type[BaseModel] | None

    @property
    def data(self) -> dict[str, Any]:
        """The user's message as JSON."""
        data: dict[str, Any] = json.loads(self.text)
        return data


@dataclass
class ScriptedChat:
    """Answers with what `answer` makes of each call: a reply's data, or an error to raise."""

    answer: Callable[[Asked], Any]
    model: str = "scripted"
    calls: list[Asked] = field(default_factory=list)

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> ChatReply:
        system, user = messages
        texts = [part.text for part in user.parts if isinstance(part, TextPart)]
        images = [part for part in user.parts if isinstance(part, ImagePart)]
        asked = Asked(system.parts[0].text, "\n".join(texts), tuple(images), temperature, schema)
        self.calls.append(asked)
        data = self.answer(asked)
        if isinstance(data, Exception):
            raise data
        text = json.dumps(data, ensure_ascii=False)
        try:
            parsed = schema.model_validate_json(text) if schema else None
        except ValidationError as error:
            raise ChatError(str(error), fault="off_schema", usage=SPENT) from error
        return ChatReply(text, parsed, SPENT, self.model, 0.01, "stop")


def failure(fault: str = "server") -> ChatError:
    """An error of the model's, with what it cost."""
    return ChatError(f"the model failed: {fault}", fault=fault, usage=SPENT)
