"""From prompts, or features computed earlier, to what both branches of guidance read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lens_core.chat import (
    DEFAULT_DATE,
    MAX_SEQUENCE_LENGTH,
    Truncation,
    encode_prompts,
    truncate_prompt,
)
from lens_core.checkpoint_files import refuse_float16
from lens_core.errors import ComponentError, NonFiniteError, ParameterError, PromptError
from lens_core.feature_source import FeatureSource, features_of, stack_padded
from lens_core.pipeline_inputs import (
    check_negative_prompts,
    check_prompts,
    check_sequence_length,
)
from lens_core.text_encoder import LensTextEncoder
from lens_core.text_features import TextFeatures
from lens_core.transformer import LensTransformer2DModel


@dataclass(frozen=True)
class TextRequest:
    """The text arguments of one pipeline call, as the caller gave them."""

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    prompt_embeds: Tensor | Sequence[Tensor] | None = None
    prompt_embeds_mask: Tensor | None = None
    negative_prompt_embeds: Tensor | Sequence[Tensor] | None = None
    negative_prompt_embeds_mask: Tensor | None = None
    date: str = DEFAULT_DATE
    max_sequence_length: int = MAX_SEQUENCE_LENGTH

    def __post_init__(self) -> None:
        check_sequence_length(self.max_sequence_length)
        negative = self.negative_prompt
        if negative is not None and not isinstance(negative, (str, list, tuple)):
            raise PromptError(f"negative_prompt {negative!r} must be a string or a list of strings")
        if self.prompt is not None and self.prompt_embeds is not None:
            raise ParameterError("give prompt or prompt_embeds, not both")
        if self.prompt is None and self.prompt_embeds is None:
            raise PromptError("there is no prompt: give prompt or prompt_embeds")
        if self.negative_prompt_embeds is not None and self.has_negative_prompt:
            raise ParameterError("give negative_prompt or negative_prompt_embeds, not both")
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            if getattr(self, name) is None and getattr(self, f"{name}_mask") is not None:
                raise ParameterError(f"{name}_mask was given without {name}")

    @property
    def has_negative_prompt(self) -> bool:
        """Whether any negative prompt says something."""
        given = self.negative_prompt
        texts = [given] if isinstance(given, str) else list(given or ())
        return any(not isinstance(text, str) or text.strip() for text in texts)


@dataclass(frozen=True)
class TextConditioner:
    """Computes text features.

    Attributes:
        transformer: The model that will read them; it says which encoder layers it wants.
        text_encoder: GPT-OSS or another source of its features; None if the pipeline has neither.
        tokenizer: Its tokenizer.
        device: Where to compute.
        truncate: How prompts that are too long are shortened.
        at_once: Most prompts encoded in one padded batch; None for all.
    """

    transformer: LensTransformer2DModel
    text_encoder: LensTextEncoder | FeatureSource | None
    tokenizer: PreTrainedTokenizerBase | None
    device: torch.device
    truncate: Truncation = truncate_prompt
    at_once: int | None = None

    def encode(self, prompts: Sequence[str], date: str, max_length: int) -> TextFeatures:
        """Features of prompts, in one padded batch, without the positions before the prompt.

        Raises:
            ComponentError: There is no text encoder or tokenizer.
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise ComponentError(
                "this pipeline has no text encoder and tokenizer; give prompt_embeds, or load it "
                "with them"
            )
        source = features_of(self.text_encoder)
        layers = self.transformer.config.selected_layer_index
        size = self.at_once or len(prompts)
        rows: list[Tensor] = []
        for start in range(0, len(prompts), size):
            chunk = prompts[start : start + size]
            encoded = encode_prompts(
                self.tokenizer, chunk, date, max_length, source.pad_token_id, self.truncate
            )
            features = source.read(encoded, layers, self.device)
            if size >= len(prompts):
                return features
            rows += [features.embeds[:, i, features.mask[i]] for i in range(features.batch)]
        return stack_padded(rows, self.device)

    def positive(self, request: TextRequest) -> TextFeatures:
        """Features of the prompts, one row per prompt, ready for the transformer.

        Raises:
            PromptError: A prompt that is empty or not text.
        """
        if request.prompt_embeds is not None:
            return self._given(request.prompt_embeds, request.prompt_embeds_mask, "prompt_embeds")
        prompts = check_prompts(request.prompt if request.prompt is not None else [])
        return self._ready(self.encode(prompts, request.date, request.max_sequence_length))

    def negative(
        self, request: TextRequest, batch: int, blank_as_text: bool
    ) -> TextFeatures | None:
        """Features of the negative prompts, one row per prompt, or None if all are blank.

        Args:
            request: The caller's arguments.
            batch: Number of prompts.
            blank_as_text: Whether blank texts beside others are encoded as empty messages, as the
                published code does. Otherwise their rows have no text.

        Raises:
            PromptError: Not as many negative prompts as prompts.
        """
        if request.negative_prompt_embeds is not None:
            features = self._given(
                request.negative_prompt_embeds,
                request.negative_prompt_embeds_mask,
                "negative_prompt_embeds",
            )
            if features.batch != batch:
                raise ParameterError(
                    f"negative_prompt_embeds has {features.batch} rows for {batch} prompts"
                )
            return features
        texts = check_negative_prompts(request.negative_prompt, batch)
        if not request.has_negative_prompt:
            return None
        rows = [i for i, text in enumerate(texts) if blank_as_text or text.strip()]
        encoded = self.encode([texts[i] for i in rows], request.date, request.max_sequence_length)
        return self._ready(encoded.spread(rows, batch))

    def _ready(self, features: TextFeatures) -> TextFeatures:
        return features.to(self.device, self.transformer.dtype)

    def _given(
        self, embeds: Tensor | Sequence[Tensor], mask: Tensor | None, name: str
    ) -> TextFeatures:
        """Features that the caller computed, checked against the model."""
        if mask is None:
            raise ParameterError(f"{name} needs {name}_mask: [batch, tokens], True for text")
        stacked = embeds if isinstance(embeds, Tensor) else torch.stack(tuple(embeds))
        refuse_float16(stacked.dtype, name)
        layers = len(self.transformer.config.selected_layer_index)
        width = self.transformer.config.enc_hidden_dim
        if stacked.ndim != 4 or stacked.shape[0] != layers or stacked.shape[-1] != width:
            raise ParameterError(
                f"{name} has shape {tuple(stacked.shape)}; this model reads "
                f"[{layers} layers, batch, tokens, {width}]"
            )
        features = TextFeatures(stacked, mask.bool().to(stacked.device))
        if not torch.isfinite(stacked[:, features.mask]).all():
            raise NonFiniteError(f"{name} holds NaN or infinity")
        return self._ready(features)
