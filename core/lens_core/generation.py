"""Text generation with the text encoder, which is a complete GPT-OSS language model.

It runs on the same weights that encode prompts; nothing is copied or loaded for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lens_core.chat import DEFAULT_DATE, ReasoningEffort, stop_token_ids
from lens_core.conversation import ResponseFormat, Turn, encode_conversation, parse_harmony
from lens_core.errors import ComponentError, ParameterError
from lens_core.float64 import float64_device
from lens_core.text_encoder import NO_HEAD, LensTextEncoder

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Written:
    """Tokens a model wrote.

    Attributes:
        token_ids: Without the conversation before them; the stop token is the last, if any.
        tokens_read: Tokens of the conversation.
        finish_reason: "stop" at a stop token, "length" when the tokens allowed were used up,
            "cancelled" when the caller ended it.
    """

    token_ids: tuple[int, ...]
    tokens_read: int
    finish_reason: FinishReason


@dataclass(frozen=True)
class Reply:
    """An answer in the harmony format, taken apart.

    Attributes:
        text: The answer; empty if the model only thought.
        analysis: What it thought before.
        written: The tokens it is made of.
    """

    text: str
    analysis: str
    written: Written


class Sampler:
    """Samples tokens by the Gumbel-max trick, with a random generator of its own.

    torch's global generator, which transformers samples with, is shared by all threads.
    """

    def __init__(
        self, temperature: float, generator: torch.Generator | None, top_p: float = 1.0
    ) -> None:
        self._temperature = temperature
        self._generator = generator
        self._top_p = top_p

    def choose(self, scores: Tensor) -> int:
        """Sample a token from logits `[vocabulary]`; at temperature 0 the most likely one."""
        if self._temperature == 0 or self._generator is None:
            return int(scores.argmax())
        scaled = scores.to(float64_device(scores.device)).double() / self._temperature
        if self._top_p < 1:
            scaled = scaled.masked_fill(~_nucleus(scaled, self._top_p), -torch.inf)
        uniform = torch.rand(
            scores.shape,
            generator=self._generator,
            device=self._generator.device,
            dtype=torch.float64,
        )
        gumbel = -(-uniform.clamp_min(1e-300).log()).log()
        return int((scaled + gumbel.to(scaled.device)).argmax())


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Mask `[vocabulary]` of the most likely tokens that together reach probability `top_p`."""
    ordered, order = scores.softmax(dim=-1).sort(descending=True)
    # A token is in while those before it fall short, so the likeliest always is.
    inside = ordered.cumsum(dim=-1) - ordered < top_p
    return torch.zeros_like(inside).scatter(0, order, inside)


def write_tokens(
    text_encoder: LensTextEncoder,
    input_ids: Sequence[int],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    cancelled: Callable[[], bool] | None = None,
    use_cache: bool = True,
) -> Written:
    """Continue a sequence of tokens.

    Generation settings stored with the checkpoint (temperature, penalties) are ignored.

    Args:
        text_encoder: The model; it must have its language model head.
        input_ids: At least one token.
        stop_ids: Tokens that end the writing; they are kept.
        max_new_tokens: Most tokens to write, at least 1.
        temperature: 0 takes the likeliest token every time.
        top_p: Sample only from the most likely tokens that together have this probability.
        generator: Source of randomness; required when `temperature` is above 0.
        cancelled: Called after every token; returning True ends the generation.
        use_cache: Keep keys and values of tokens already read. Without it the result is the same,
            but each token costs a pass over all tokens before it.

    Raises:
        ComponentError: The checkpoint has no language model head.
        ParameterError: A setting outside its range, or more tokens than the model can read.
    """
    if not text_encoder.has_lm_head:
        raise ComponentError(NO_HEAD)
    _check_settings(temperature, top_p, max_new_tokens, generator)
    most = int(text_encoder.config.max_position_embeddings)
    if not 1 <= len(input_ids) < most:
        raise ParameterError(
            f"the conversation has {len(input_ids)} tokens; this model reads 1 to {most - 1} before"
            " it writes"
        )
    sampler = Sampler(temperature, generator, top_p)
    written: list[int] = []
    finish: FinishReason = "length"
    limit = min(max_new_tokens, most - len(input_ids))
    with torch.inference_mode():
        for token in islice(_decode(text_encoder, input_ids, sampler, use_cache), limit):
            written.append(token)
            if token in stop_ids:
                finish = "stop"
                break
            if cancelled is not None and cancelled():
                finish = "cancelled"
                break
    return Written(tuple(written), len(input_ids), finish)


def _decode(
    text_encoder: LensTextEncoder, input_ids: Sequence[int], sampler: Sampler, use_cache: bool
) -> Iterator[int]:
    """The tokens that follow `input_ids`, one after the other, without end."""
    ids = torch.tensor([list(input_ids)], device=text_encoder.device)
    cache = None
    while True:
        unread = ids if cache is None else ids[:, -1:]
        output = text_encoder(
            input_ids=unread, past_key_values=cache, use_cache=use_cache, logits_to_keep=1
        )
        cache = output.past_key_values if use_cache else None
        token = sampler.choose(output.logits[0, -1].float())
        yield token
        ids = torch.cat([ids, ids.new_tensor([[token]])], dim=1)


def write_reply(
    text_encoder: LensTextEncoder,
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    *,
    reasoning_effort: ReasoningEffort | None = "low",
    response_format: ResponseFormat | None = None,
    date: str = DEFAULT_DATE,
    max_new_tokens: int = 1024,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Reply:
    """Answer a conversation in the harmony format.

    Args:
        text_encoder: The model; it must have its language model head.
        tokenizer: One with the harmony control tokens.
        turns: The conversation; see `encode_conversation`.
        reasoning_effort: How long to think first; None answers at once.
        response_format: The JSON schema the answer should satisfy. The model is told, not forced.
        date: The day the model believes it is, `YYYY-MM-DD`.
        max_new_tokens: Most tokens to write, thinking included.
        temperature: See `write_tokens`; 1 is what GPT-OSS is meant to be used with.
        top_p: See `write_tokens`.
        generator: See `write_tokens`.
        cancelled: See `write_tokens`.

    Raises:
        ComponentError: No language model head, or no harmony tokens.
        ParameterError: A setting outside its range, or a conversation that is too long.
    """
    ids = encode_conversation(
        tokenizer,
        turns,
        reasoning_effort=reasoning_effort,
        response_format=response_format,
        date=date,
    )
    written = write_tokens(
        text_encoder,
        ids,
        stop_ids=stop_token_ids(tokenizer, final_prefilled=reasoning_effort is None),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        generator=generator,
        cancelled=cancelled,
    )
    output = parse_harmony(tokenizer.decode(list(written.token_ids), skip_special_tokens=False))
    return Reply(output.final, output.analysis, written)


def _check_settings(
    temperature: float, top_p: float, max_new_tokens: int, generator: torch.Generator | None
) -> None:
    if not 0 <= temperature < float("inf"):
        raise ParameterError(f"temperature {temperature} must be a number from 0 up")
    if not 0 < top_p <= 1:
        raise ParameterError(f"top_p {top_p} must be above 0 and at most 1")
    if max_new_tokens < 1:
        raise ParameterError(f"max_new_tokens {max_new_tokens} must be at least 1")
    if temperature > 0 and generator is None:
        raise ParameterError(
            f"temperature {temperature} needs a torch.Generator to draw from; give one, or "
            "temperature 0"
        )
