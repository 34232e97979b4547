"""The harmony chat format of GPT-OSS: how Lens writes a prompt, and how a rewrite is asked for.

The text is built here rather than from a template file, so that it never changes with a library.
What a user typed is kept apart as literal text: control tokens inside it stay plain characters.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date as Date
from threading import Lock
from typing import Literal

from transformers import PreTrainedTokenizerBase

from lens_core.errors import ComponentError, ParameterError

DEFAULT_DATE = "2026-05-23"
"""The model reads a date with every prompt; it is pinned so that a seed keeps its picture."""

MAX_SEQUENCE_LENGTH = 512
"""Tokens the text encoder reads for a picture, instructions and suffix included."""

IMAGE_INSTRUCTION = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background."
)
IMAGE_THOUGHT = "Need to generate one image according to the description."

FINAL_HEADER = "<|channel|>final<|message|>"
"""Prefill that makes a chat model answer at once, without thinking first."""

ReasoningEffort = Literal["low", "medium", "high"]

_TOKENIZER_LOCK = Lock()
"""Threads may share a tokenizer, and whether it splits control tokens is part of its state."""

_STOPS = ("<|return|>", "<|call|>", "<|endoftext|>")
_CONTROL = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>")


@dataclass(frozen=True)
class RenderedChat:
    """One conversation, cut where the user's own words begin and end.

    Attributes:
        prefix: Everything before the user's words; control tokens count.
        user: The user's words, literally.
        suffix: Everything after them; control tokens count.
    """

    prefix: str
    user: str
    suffix: str

    @property
    def text(self) -> str:
        """The whole conversation as one string."""
        return self.prefix + self.user + self.suffix


@dataclass(frozen=True)
class EncodedChat:
    """Token ids of a `RenderedChat`, part by part."""

    prefix: list[int]
    user: list[int]
    suffix: list[int]


Truncation = Callable[[EncodedChat, int], tuple[list[int], int]]
"""Makes one row of at most so many tokens; returns it and how many of the user's it keeps."""


@dataclass(frozen=True)
class EncodedPrompts:
    """Token ids of a batch of prompts, padded on the right.

    Attributes:
        input_ids: One list per prompt, all of equal length.
        attention_mask: 1 for a token, 0 for padding, same shape.
        prefix_length: Leading positions that hold no part of the prompt; their features are
            dropped. 97 with the GPT-OSS tokenizer.
    """

    input_ids: list[list[int]]
    attention_mask: list[list[int]]
    prefix_length: int


def render_chat(
    user: str,
    *,
    developer: str | None = None,
    prefill: str = "",
    reasoning_effort: ReasoningEffort = "low",
    date: str = DEFAULT_DATE,
) -> RenderedChat:
    """Render a conversation up to where the model goes on writing.

    Args:
        user: The user's words; never read as control tokens.
        developer: Instructions to the model. Control tokens inside them count.
        prefill: Beginning of the assistant's turn, such as `FINAL_HEADER`; control tokens count.
        reasoning_effort: How long the model should think before it answers.
        date: The day the model believes it is, `YYYY-MM-DD`.

    Raises:
        ParameterError: The date is not written `YYYY-MM-DD`.
    """
    _check_date(date)
    instructions = ""
    if developer is not None:
        instructions = f"<|start|>developer<|message|># Instructions\n\n{developer}\n\n<|end|>"
    prefix = (
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
        f"Knowledge cutoff: 2024-06\nCurrent date: {date}\n\nReasoning: {reasoning_effort}\n\n"
        "# Valid channels: analysis, commentary, final. Channel must be included for every "
        f"message.<|end|>{instructions}<|start|>user<|message|>"
    )
    return RenderedChat(prefix, user, f"<|end|><|start|>assistant{prefill}")


def render_image_prompt(prompt: str, date: str = DEFAULT_DATE) -> RenderedChat:
    """Render a picture's prompt as the text encoder of Lens was trained to read it."""
    thought = f"<|channel|>analysis<|message|>{IMAGE_THOUGHT}<|end|><|start|>assistant"
    return render_chat(
        prompt,
        developer=IMAGE_INSTRUCTION,
        prefill=thought + FINAL_HEADER,
        reasoning_effort="medium",
        date=date,
    )


def encode_chat(tokenizer: PreTrainedTokenizerBase, chat: RenderedChat) -> list[int]:
    """Token ids of a conversation; control tokens in the user's words become plain text."""
    parts = _encode_parts(tokenizer, chat)
    return parts.prefix + parts.user + parts.suffix


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    date: str = DEFAULT_DATE,
    max_length: int = MAX_SEQUENCE_LENGTH,
    pad_token_id: int | None = None,
    truncate: Truncation | None = None,
) -> EncodedPrompts:
    """Token ids of prompts for the text encoder.

    Args:
        tokenizer: One with the harmony control tokens.
        prompts: The user's words, at least one.
        date: The day the model believes it is, `YYYY-MM-DD`.
        max_length: Most tokens of one row, prefix and suffix included.
        pad_token_id: Fills shorter rows; the tokenizer's own by default. It is never attended to.
        truncate: How prompts that are too long are shortened; `truncate_prompt` by default.

    Raises:
        ParameterError: `max_length` leaves no room for a prompt, or the date is malformed.
        ComponentError: The tokenizer lacks the harmony control tokens.
    """
    rows, prefix_length = [], 0
    for prompt in prompts:
        parts = _encode_parts(tokenizer, render_image_prompt(prompt, date))
        row, words = (truncate or truncate_prompt)(parts, max_length)
        if words < len(parts.user):
            _warn_cut(tokenizer, parts.user, words)
        rows.append(row)
        prefix_length = len(parts.prefix)
    pad = tokenizer.pad_token_id if pad_token_id is None else pad_token_id
    longest = max(len(row) for row in rows)
    return EncodedPrompts(
        input_ids=[row + [pad or 0] * (longest - len(row)) for row in rows],
        attention_mask=[[1] * len(row) + [0] * (longest - len(row)) for row in rows],
        prefix_length=prefix_length,
    )


def truncate_prompt(parts: EncodedChat, max_length: int) -> tuple[list[int], int]:
    """A row in which a prompt that does not fit loses its own last words, never the suffix.

    Returns:
        The row, and how many of the user's tokens are in it.

    Raises:
        ParameterError: `max_length` leaves no room for a prompt.
    """
    format_length = len(parts.prefix) + len(parts.suffix)
    room = _room(max_length, format_length)
    return parts.prefix + parts.user[:room] + parts.suffix, min(room, len(parts.user))


def truncate_row(parts: EncodedChat, max_length: int) -> tuple[list[int], int]:
    """A row that loses what stands beyond its length, the suffix first: the published code's way.

    Returns:
        The row, and how many of the user's tokens are in it.

    Raises:
        ParameterError: `max_length` leaves no room for a prompt.
    """
    room = _room(max_length, len(parts.prefix))
    whole = parts.prefix + parts.user + parts.suffix
    return whole[:max_length], min(room, len(parts.user))


def _room(max_length: int, format_length: int) -> int:
    if max_length <= format_length:
        raise ParameterError(
            f"max_sequence_length {max_length} leaves no room for a prompt: the format itself "
            f"takes {format_length} tokens"
        )
    return max_length - format_length


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, final_prefilled: bool = False) -> list[int]:
    """Ids at which generation is over.

    Args:
        tokenizer: One with the harmony control tokens.
        final_prefilled: The answer was opened with `FINAL_HEADER`, so `<|end|>` ends it too;
            otherwise `<|end|>` only ends the thinking.
    """
    stops = (*_STOPS, "<|end|>") if final_prefilled else _STOPS
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[stop] for stop in stops if stop in vocabulary]


def encode_control(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of text whose control tokens count.

    Raises:
        ComponentError: The tokenizer lacks the harmony control tokens.
    """
    missing = [token for token in _CONTROL if token not in tokenizer.get_added_vocab()]
    if missing:
        raise ComponentError(f"the tokenizer has no control tokens {missing}; Lens needs harmony")
    return _encode(tokenizer, text, literally=False)


def encode_literally(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of what somebody said; control tokens inside it stay plain characters.

    Raises:
        ComponentError: The tokenizer cannot tell the two apart.
    """
    ids = _encode(tokenizer, text, literally=True)
    if not set(tokenizer.get_added_vocab().values()).isdisjoint(ids):
        raise ComponentError(
            "the tokenizer reads control tokens in plain text; mark its added tokens as special"
        )
    return ids


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, *, literally: bool) -> list[int]:
    with _TOKENIZER_LOCK:
        return list(
            tokenizer.encode(text, add_special_tokens=False, split_special_tokens=literally)
        )


def _encode_parts(tokenizer: PreTrainedTokenizerBase, chat: RenderedChat) -> EncodedChat:
    """Ids of prefix, user's words and suffix.

    Control tokens stand on both sides of the user's words and are split off before anything else,
    so the three parts tokenise exactly as the whole would.
    """
    return EncodedChat(
        encode_control(tokenizer, chat.prefix),
        encode_literally(tokenizer, chat.user),
        encode_control(tokenizer, chat.suffix),
    )


def _warn_cut(tokenizer: PreTrainedTokenizerBase, user: list[int], room: int) -> None:
    dropped = tokenizer.decode(user[room:])
    shown = dropped if len(dropped) <= 120 else dropped[:117] + "..."
    warnings.warn(
        f"the prompt has {len(user)} tokens and Lens reads {room}; not read: {shown!r}",
        stacklevel=4,
    )


def _check_date(date: str) -> None:
    try:
        valid = Date.fromisoformat(date).isoformat() == date
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ParameterError(f"date {date!r} must be a calendar day written YYYY-MM-DD")
