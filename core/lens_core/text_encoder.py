"""GPT-OSS as the text encoder of Lens, and as the chat model that rewrites prompts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import get_ident
from typing import Any, Self

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding

from lens_core.checkpoint_files import (
    check_dtype,
    check_stored,
    one_dtype,
    read_config,
    read_headers,
)
from lens_core.checkpoints.configs import config_errors
from lens_core.checkpoints.hub import fetched_folder
from lens_core.errors import CheckpointError, ComponentError, ParameterError
from lens_core.exact_buffers import ExactBuffers
from lens_core.packed_experts import PackedExperts, Packing

HEAD_NAME = "lm_head.weight"
NO_HEAD = (
    "this text encoder was loaded without a language model head (lm_head.weight), so it gives text "
    "features but cannot write; load a complete GPT-OSS checkpoint to generate"
)


class MissingHead(nn.Module):
    """Stands where a checkpoint for features alone has no language model head."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Refuse.

        Raises:
            ComponentError: Always: there is nothing to compute logits with.
        """
        raise ComponentError(NO_HEAD)


class ExactRotaryEmbedding(ExactBuffers, GptOssRotaryEmbedding):  # type: ignore[misc]
    """GPT-OSS's, whose frequencies a cast of the model leaves in float32.

    Rounded to bfloat16 they would turn the last tokens of a long prompt 0.8 radians off.
    """


class LensTextEncoder(GptOssForCausalLM):  # type: ignore[misc]
    """GPT-OSS whose raw layer outputs are the text features of Lens.

    Being a causal language model, it also generates, with the same weights, when its head is there.

    Args:
        config: A stock GPT-OSS configuration.
        has_lm_head: Whether the model can predict tokens.
        packings: How each layer keeps its experts' two matrices packed. None keeps them unpacked.
    """

    def __init__(
        self,
        config: GptOssConfig,
        has_lm_head: bool = True,
        packings: Sequence[tuple[Packing, Packing]] | None = None,
    ) -> None:
        super().__init__(config)
        self.model.rotary_emb = ExactRotaryEmbedding(config)
        if not has_lm_head:
            self.lm_head = MissingHead()
        if packings is not None:
            for layer, (gate_up, down) in zip(self.model.layers, packings, strict=True):
                layer.mlp.experts = PackedExperts(config, gate_up, down)

    @property
    def is_packed(self) -> bool:
        """Whether the experts stay packed while they are used."""
        return isinstance(self.model.layers[0].mlp.experts, PackedExperts)

    def unpack_one_by_one(self, always: bool) -> None:
        """Unpack one packed expert at a time also where all could be multiplied by at once.

        Args:
            always: Whether to; False takes the faster way where there is one.
        """
        for layer in self.model.layers:
            if isinstance(layer.mlp.experts, PackedExperts):
                layer.mlp.experts.one_by_one = always

    @property
    def has_lm_head(self) -> bool:
        """Whether `generate` works."""
        return not isinstance(self.lm_head, MissingHead)

    @apply_forward_hook  # type: ignore[untyped-decorator]
    def features(
        self, input_ids: Tensor, attention_mask: Tensor | None, layers: Sequence[int]
    ) -> list[Tensor]:
        """Raw outputs of some layers: the residual stream, without the final norm.

        Args:
            input_ids: `[B, S]`.
            attention_mask: `[B, S]`, 1 for a token and 0 for padding on the right; None for no
                padding.
            layers: Layers counted from 0.

        Returns:
            One tensor `[B, S, hidden_size]` per entry of `layers`, in that order.

        Raises:
            ComponentError: A layer this encoder does not have.
        """
        count = len(self.model.layers)
        absent = [layer for layer in layers if not 0 <= layer < count]
        if absent:
            raise ComponentError(f"the text encoder has layers 0 to {count - 1}, not {absent}")
        captured: dict[int, Tensor] = {}
        reader = get_ident()

        def keep(layer: int) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                # Another thread may be reading or writing with the same weights.
                if get_ident() == reader:
                    captured[layer] = output

            return hook

        hooks = [self.model.layers[i].register_forward_hook(keep(i)) for i in set(layers)]
        try:
            self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return [captured[layer] for layer in layers]

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Write text, as every causal language model of transformers does.

        Raises:
            ComponentError: The checkpoint has no language model head.
        """
        if not self.has_lm_head:
            raise ComponentError(NO_HEAD)
        return super().generate(*args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a stock GPT-OSS folder, name by name.

        transformers alone would fill missing tensors with random numbers and only log it. Experts
        published as MXFP4 stay packed in memory.

        Args:
            pretrained_model_name_or_path: Folder with `config.json` and safetensors, in one file or
                in shards; or a hub repository.
            dtype: `torch.float32`, which is the default, or `torch.bfloat16`.
            torch_dtype: The same by its older name.
            **kwargs: As in transformers: `subfolder`, `revision`, `device_map` and so on.

        Raises:
            CheckpointError: Tensors are missing, unexpected, of another shape or kind (only the
                language model head may be absent).
            PrecisionError: float16 was asked for.
            ParameterError: Arguments for transformers with packed weights, which it does not load;
                two precisions.
        """
        precision = one_dtype(dtype, torch_dtype) or torch.float32
        check_dtype(precision)
        folder = fetched_folder(Path(pretrained_model_name_or_path), kwargs)
        stated = _stock_config(folder)
        with config_errors(folder, "GPT-OSS"):
            config = GptOssConfig(**stated)
        stored = read_headers(folder, "model", kwargs.get("variant"))
        if any(name.endswith("_blocks") for name in stored):
            return _load_packed(cls, folder, precision, kwargs)  # type: ignore[no-any-return]
        _refuse_quantised(folder, config)
        tied = bool(config.tie_word_embeddings)
        has_lm_head = tied or HEAD_NAME in stored
        with config_errors(folder, "GPT-OSS"), torch.device("meta"):
            expected = cls(config, has_lm_head=has_lm_head).state_dict()
        optional = {HEAD_NAME} if tied else set()
        check_stored(folder, stored, expected, optional)
        model, report = super().from_pretrained(
            folder,
            config=config,
            has_lm_head=has_lm_head,
            dtype=precision,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **kwargs,
        )
        unset = sorted(set(report["missing_keys"]) - optional)
        if unset or report["mismatched_keys"] or report["unexpected_keys"]:
            raise CheckpointError(f"{folder}: not every tensor was loaded: {report}")
        return model.eval()  # type: ignore[no-any-return]


def _stock_config(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    if config.get("model_type") != "gpt_oss":
        raise CheckpointError(
            f"{folder}/config.json has model_type {config.get('model_type')!r}; the text encoder "
            "of Lens is 'gpt_oss'"
        )
    return config


def _load_packed(
    model_class: type[Any], folder: Path, dtype: torch.dtype, kwargs: dict[str, Any]
) -> Any:
    from lens_core.checkpoints.encoder import load_text_encoder

    variant = kwargs.pop("variant", None)
    if kwargs:
        raise ParameterError(f"a packed text encoder is loaded without {sorted(kwargs)}")
    return load_text_encoder(folder, dtype, variant=variant, model_class=model_class)


def _refuse_quantised(folder: Path, config: GptOssConfig) -> None:
    quantisation = getattr(config, "quantization_config", None)
    if quantisation:
        raise CheckpointError(
            f"{folder}/config.json speaks of packed weights ({quantisation}), but no tensor is "
            "packed as MXFP4 (*_blocks, *_scales)"
        )
