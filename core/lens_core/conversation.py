"""Whole conversations in the harmony format: several turns in, channels out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from lens_core.chat import (
    DEFAULT_DATE,
    FINAL_HEADER,
    ReasoningEffort,
    encode_control,
    encode_literally,
    render_chat,
)
from lens_core.errors import ParameterError

_HEADERS = {
    "user": "<|start|>user<|message|>",
    "assistant": f"<|start|>assistant{FINAL_HEADER}",
}
_MESSAGE = re.compile(
    r"<\|channel\|>\s*(?P<channel>\w*)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(?P<text>.*?)(?=<\|(?:end|return|call|start|channel|endoftext)\|>|\Z)",
    re.DOTALL,
)
_STOP = re.compile(r"<\|(?:return|end|call|start|endoftext)\|>")


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        role: "developer" gives instructions to the model; control tokens inside them count. What
            "user" and "assistant" say is read literally.
        text: The words.
    """

    role: Literal["developer", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class ResponseFormat:
    """The form an answer should have.

    Attributes:
        name: Its name.
        schema: A JSON schema.
    """

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class HarmonyOutput:
    """What a model wrote, by channel.

    Attributes:
        final: The answer: the last message of the `final` channel. Empty if there is none.
        analysis: Its thinking: all messages of the `analysis` channel.
    """

    final: str
    analysis: str


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    *,
    reasoning_effort: ReasoningEffort | None = "low",
    response_format: ResponseFormat | None = None,
    date: str = DEFAULT_DATE,
) -> list[int]:
    """Token ids of a conversation, up to where the assistant goes on.

    All developer turns become the one developer message that stands first in the format.

    Args:
        tokenizer: One with the harmony control tokens.
        turns: The conversation; the last turn is the user's.
        reasoning_effort: How long the model should think; None opens the answer at once.
        response_format: The JSON schema the answer should satisfy.
        date: The day the model believes it is, `YYYY-MM-DD`.

    Raises:
        ParameterError: The last turn is not the user's, or the date is malformed.
        ComponentError: The tokenizer lacks the harmony control tokens.
    """
    if not turns or turns[-1].role != "user":
        last = turns[-1].role if turns else "nobody"
        raise ParameterError(f"the conversation ends with {last!r}; its last turn must be 'user'")
    developer = "\n\n".join(turn.text for turn in turns if turn.role == "developer")
    if response_format is not None:
        developer = f"{developer}\n\n{_formats_section(response_format)}".strip()
    opening = render_chat(
        "",
        developer=developer or None,
        prefill=FINAL_HEADER if reasoning_effort is None else "",
        reasoning_effort=reasoning_effort or "low",
        date=date,
    )
    ids = encode_control(tokenizer, opening.prefix.removesuffix(_HEADERS["user"]))
    for turn in turns:
        if turn.role != "developer":
            ids += encode_control(tokenizer, _HEADERS[turn.role])
            ids += encode_literally(tokenizer, turn.text)
            ids += encode_control(tokenizer, "<|end|>")
    return ids + encode_control(tokenizer, opening.suffix.removeprefix("<|end|>"))


def parse_harmony(text: str) -> HarmonyOutput:
    """Take apart what a model wrote after `<|start|>assistant`.

    Args:
        text: With control tokens. Without any channel header all of it is the answer, as after
            the prefill `FINAL_HEADER`.
    """
    if "<|channel|>" not in text:
        return HarmonyOutput(final=_STOP.split(text, maxsplit=1)[0].strip(), analysis="")
    channels: dict[str, list[str]] = {"final": [""], "analysis": []}
    for message in _MESSAGE.finditer(text):
        channels.setdefault(message["channel"], []).append(message["text"].strip())
    return HarmonyOutput(final=channels["final"][-1], analysis="\n".join(channels["analysis"]))


def _formats_section(form: ResponseFormat) -> str:
    schema = json.dumps(form.schema, ensure_ascii=False)
    return f"# Response Formats\n\n## {form.name}\n\n{schema}"
