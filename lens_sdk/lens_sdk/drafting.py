"""Writes text with a pipeline's own text encoder, in the harmony chat format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from lens_core.chat import RenderedChat, encode_chat, stop_token_ids
from lens_core.conversation import parse_harmony
from lens_core.errors import ComponentError
from lens_core.generation import write_tokens

if TYPE_CHECKING:
    from lens_core.pipeline import LensPipeline


@dataclass(frozen=True)
class Draft:
    """An answer written by the text encoder.

    Attributes:
        text: The answer, including the given beginning.
        complete: Whether the model ended the answer itself.
        tokens_read: Number of tokens in the conversation.
        tokens_written: Number of tokens the model added.
    """

    text: str
    complete: bool
    tokens_read: int
    tokens_written: int


def write_draft(
    pipeline: LensPipeline,
    chat: RenderedChat,
    *,
    beginning: str = "",
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 256,
) -> Draft:
    """Write one answer to a conversation whose final channel is already open.

    Args:
        pipeline: A pipeline whose text encoder has a language model head.
        chat: The conversation.
        beginning: Complete sentences that the answer starts with.
        temperature: Sampling temperature; 0 always takes the likeliest token.
        seed: Sampling seed; the same seed gives the same answer.
        max_new_tokens: Maximum number of tokens to add.

    Raises:
        ComponentError: The text encoder, tokenizer or language model head is missing.
    """
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    if encoder is None or tokenizer is None:
        raise ComponentError("this pipeline has no text encoder or tokenizer to write with")
    written = write_tokens(
        encoder,
        encode_chat(tokenizer, replace(chat, suffix=chat.suffix + beginning)),
        stop_ids=stop_token_ids(tokenizer, final_prefilled=True),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        generator=torch.Generator().manual_seed(seed),
    )
    added = parse_harmony(tokenizer.decode(list(written.token_ids), skip_special_tokens=False))
    return Draft(
        text=f"{beginning} {added.final}".strip(),
        complete=written.finish_reason == "stop",
        tokens_read=written.tokens_read,
        tokens_written=len(written.token_ids),
    )
