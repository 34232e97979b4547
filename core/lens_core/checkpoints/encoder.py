"""GPT-OSS from every layout: Hugging Face (plain or MXFP4), Comfy's NVFP4, llama.cpp's GGUF."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, GptOssConfig, PreTrainedTokenizerFast

from lens_core.checkpoint_files import check_dtype, read_json
from lens_core.checkpoints import names
from lens_core.checkpoints.configs import Config, config_errors, encoder_config
from lens_core.checkpoints.experts import LayerPackings, arrange_experts, arrange_gguf_experts
from lens_core.checkpoints.weights import LazyTensors, materialise, open_weights, renamed
from lens_core.errors import CheckpointError
from lens_core.text_encoder import HEAD_NAME, ExactRotaryEmbedding, LensTextEncoder
from lens_core.tokenizer import tokenizer_from_json


@dataclass(frozen=True)
class EncoderSource:
    """A text encoder before its weights are read.

    Attributes:
        path: File or folder.
        tensors: By the names of `LensTextEncoder`.
        config: Its configuration.
        packings: Of every layer's experts, None if they are not packed.
        tokenizer: Text of a tokenizer.json that came along.
    """

    path: Path
    tensors: LazyTensors
    config: GptOssConfig
    packings: LayerPackings | None
    tokenizer: str | None = None

    @property
    def is_tied(self) -> bool:
        """Whether the head's weights are the embedding's."""
        return bool(self.config.tie_word_embeddings)

    @property
    def optional(self) -> list[str]:
        """Names that may be absent although the model has them."""
        return [HEAD_NAME] if self.is_tied else []

    @property
    def has_lm_head(self) -> bool:
        """Whether it can write text."""
        return self.is_tied or HEAD_NAME in self.tensors


def open_text_encoder(
    path: str | Path, config: Config | None = None, variant: str | None = None
) -> EncoderSource:
    """Look into a text encoder's file or folder.

    Args:
        path: Safetensors or GGUF file, or a folder in Hugging Face's layout.
        config: For files that are not the published GPT-OSS-20B and say nothing themselves.
        variant: Of a folder's files.

    Raises:
        CheckpointError: Unreadable, or of a layout that is not known.
    """
    weights = open_weights(path, variant=variant)
    found = encoder_config(weights, config)
    layers = found.num_hidden_layers
    if any(header.container == "gguf" for header in weights.headers):
        known = {name: names.encoder_from_gguf(name) for name in weights.tensors}
        tensors, packings = arrange_gguf_experts(
            weights.path, renamed(weights.path, weights.tensors, known), layers
        )
        return EncoderSource(weights.path, tensors, found, packings)
    known = names.encoder_from_comfy(weights.tensors)
    tensors = renamed(weights.path, weights.tensors, known)
    carried = tensors.pop(names.TOKENIZER, None)
    if carried is not None and carried.dtype != "U8":
        raise CheckpointError(
            f"{weights.path}: {names.TOKENIZER} must be the bytes of a file, not {carried.dtype}"
        )
    tensors, packings = arrange_experts(weights.path, tensors, layers)
    return EncoderSource(
        weights.path,
        tensors,
        found,
        packings,
        None if carried is None else bytes(carried.load().numpy()).decode("utf-8", "replace"),
    )


def load_text_encoder(
    path: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    config: Config | None = None,
    variant: str | None = None,
    model_class: type[LensTextEncoder] = LensTextEncoder,
) -> LensTextEncoder:
    """Load a text encoder, name by name. Packed experts stay packed.

    Args:
        path: Safetensors or GGUF file, or a folder in Hugging Face's layout.
        dtype: Of everything that is not packed, and of the computation.
        config: For files that are not the published GPT-OSS-20B and say nothing themselves.
        variant: Of a folder's files.
        model_class: What to make.

    Raises:
        CheckpointError: Missing, unexpected or wrongly shaped tensors (only the head may be
            absent), or a damaged file.
        PrecisionError: float16.
    """
    return build_text_encoder(open_text_encoder(path, config, variant), dtype, model_class)


def blank_text_encoder(
    source: EncoderSource, model_class: type[LensTextEncoder] = LensTextEncoder
) -> LensTextEncoder:
    """The model on the meta device, with which names and shapes can be compared.

    Raises:
        CheckpointError: A configuration of no such model.
    """
    with config_errors(source.path, "GPT-OSS"), torch.device("meta"):
        return model_class(source.config, source.has_lm_head, source.packings)


def build_text_encoder(
    source: EncoderSource,
    dtype: torch.dtype,
    model_class: type[LensTextEncoder] = LensTextEncoder,
) -> LensTextEncoder:
    """Read the weights of an opened text encoder; errors as in `load_text_encoder`."""
    check_dtype(dtype)
    model = blank_text_encoder(source, model_class)
    materialise(model, source.path, source.tensors, dtype, source.optional)
    if source.is_tied:
        model.tie_weights()
    # Frequencies are computed rather than stored, so these are still on the meta device.
    model.model.rotary_emb = ExactRotaryEmbedding(source.config)
    settings = source.path / "generation_config.json"
    if settings.is_file():
        model.generation_config = GenerationConfig(**read_json(settings))
    return model.eval()  # type: ignore[no-any-return]


def carried_tokenizer(source: EncoderSource) -> PreTrainedTokenizerFast | None:
    """The tokenizer that a file carries, if any.

    Raises:
        CheckpointError: It is no tokenizer.
    """
    if source.tokenizer is None:
        return None
    try:
        return tokenizer_from_json(source.tokenizer)
    except Exception as error:  # The tokenizers library raises nothing narrower.
        raise CheckpointError(
            f"{source.path}: {names.TOKENIZER} is not a tokenizer.json: {error}"
        ) from error
