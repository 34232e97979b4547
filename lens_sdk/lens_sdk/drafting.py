"""Text written by a pipeline's own text encoder, in the harmony chat format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from lens_core.chat import RenderedChat, encode_chat, parse_final, stop_token_ids
from lens_core.errors import ComponentError

if TYPE_CHECKING:
    from lens_core.pipeline import LensPipeline


@dataclass(frozen=True)
class Draft:
    """One answer.

    Attributes:
        text: The answer, with the beginning it was given.
        complete: Whether the model came to its end by itself.
        tokens_read: Tokens of the conversation.
        tokens_written: Tokens the model added.
    """

    text: str
    complete: bool
    tokens_read: int
    tokens_written: int


class SeededSampling(LogitsProcessor):  # type: ignore[misc]
    """Turns greedy choice into sampling, by the Gumbel-max trick, from a generator of its own.

    The library samples from torch's global generator, which other threads share.
    """

    def __init__(self, temperature: float, seed: int) -> None:
        self._temperature = temperature
        self._noise = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[B, vocabulary]` whose largest entry is a sample of the softmax."""
        uniform = torch.rand(scores.shape, generator=self._noise, dtype=torch.float64)
        gumbel = -(-uniform.clamp_min(1e-300).log()).log()
        return scores.double() / self._temperature + gumbel.to(scores.device)


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
        pipeline: Its text encoder must have a language model head.
        chat: The conversation.
        beginning: Whole sentences the answer starts with.
        temperature: 0 takes the likeliest token every time.
        seed: Seed of the sampling; the same seed gives the same answer.
        max_new_tokens: Most tokens to add.

    Raises:
        ComponentError: There is no text encoder, tokenizer or language model head.
    """
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    if encoder is None or tokenizer is None:
        raise ComponentError("this pipeline has no text encoder or tokenizer to write with")
    stops = stop_token_ids(tokenizer, final_prefilled=True)
    opened = replace(chat, suffix=chat.suffix + beginning)
    ids = torch.tensor([encode_chat(tokenizer, opened)], device=encoder.device)
    sampling = [SeededSampling(temperature, seed)] if temperature > 0 else []
    with torch.inference_mode():
        output = encoder.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            use_cache=True,
            max_new_tokens=max_new_tokens,
            eos_token_id=stops,
            pad_token_id=tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList(sampling),
        )
    written = output[0, ids.shape[1] :].tolist()
    return Draft(
        text=f"{beginning} {parse_final(written, tokenizer)}".strip(),
        complete=bool(written) and written[-1] in stops,
        tokens_read=ids.shape[1],
        tokens_written=len(written),
    )
