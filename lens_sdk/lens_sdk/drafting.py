"""Text written by a pipeline's own text encoder, in the harmony chat format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from lens_core.chat import RenderedChat, encode_chat, parse_final, stop_token_ids
from lens_core.errors import ComponentError

if TYPE_CHECKING:
    from lens_core.pipeline import LensPipeline


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


def write_drafts(
    pipeline: LensPipeline,
    chat: RenderedChat,
    *,
    max_new_tokens: int,
    temperatures: tuple[float, ...],
    seed: int,
) -> Iterator[tuple[str, int, int]]:
    """Answers to a conversation whose final channel is already open, one after another.

    Args:
        pipeline: Its text encoder must have a language model head.
        chat: The conversation.
        max_new_tokens: Most tokens of an answer; an answer cut there is yielded as empty.
        temperatures: One answer each; 0 takes the likeliest token every time.
        seed: Seed of the sampled answers; the same seed gives the same answers.

    Yields:
        The answer, the tokens read and the tokens written.

    Raises:
        ComponentError: There is no text encoder, tokenizer or language model head.
    """
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    if encoder is None or tokenizer is None:
        raise ComponentError("this pipeline has no text encoder or tokenizer to write with")
    stops = stop_token_ids(tokenizer, final_prefilled=True)
    prompt = torch.tensor([encode_chat(tokenizer, chat)], device=encoder.device)
    for number, temperature in enumerate(temperatures):
        sampling = [SeededSampling(temperature, seed + number)] if temperature > 0 else []
        options: dict[str, Any] = {
            "do_sample": False,
            "use_cache": True,
            "max_new_tokens": max_new_tokens,
            "eos_token_id": stops,
            "pad_token_id": tokenizer.pad_token_id,
            "logits_processor": LogitsProcessorList(sampling),
        }
        with torch.inference_mode():
            ids = encoder.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        written = ids[0, prompt.shape[1] :].tolist()
        complete = bool(written) and written[-1] in stops
        answer = parse_final(written, tokenizer) if complete else ""
        yield answer, prompt.shape[1], len(written)
