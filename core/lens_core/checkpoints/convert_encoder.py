"""Writing GPT-OSS in each of its layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GptOssConfig

from lens_core.checkpoints import names
from lens_core.checkpoints.comfy import note_bytes
from lens_core.checkpoints.encoder import EncoderSource
from lens_core.checkpoints.experts import COMFY_PARTS, expert_name
from lens_core.checkpoints.formats import gguf, mxfp4, nvfp4
from lens_core.checkpoints.spool import spool_beside
from lens_core.checkpoints.writers import NamedTensors, write_file, write_folder, write_gguf
from lens_core.packed_experts import MATRICES, GgufPacking, Mxfp4Packing, Nvfp4Packing, Packing
from lens_core.tokenizer import packaged_tokenizer_json

STEM = "model"
NOT_PACKED = (
    "model.layers.*.self_attn",
    "model.layers.*.mlp.router",
    "model.embed_tokens",
    "lm_head",
)
Matrix = Callable[[int], Tensor]
"""Values `[rows, columns]` of one expert, columns being inputs."""


@dataclass(frozen=True)
class _Packed:
    """A matrix of all experts as a file stores it, which a layout that can hold it keeps."""

    packing: Packing
    parts: Mapping[str, Tensor]

    def is_gguf(self, kind: str) -> bool:
        return isinstance(self.packing, GgufPacking) and self.packing.kind == kind


def write_plain_encoder(source: EncoderSource, target: Path, dtype: torch.dtype) -> None:
    """Hugging Face's folder with unpacked experts: 39 GB for GPT-OSS-20B in bfloat16."""

    def tensors() -> NamedTensors:
        yield from _outside(source, dtype)
        for base, matrix, _ in _matrices(source):
            yield base, _each(source, partial(_turned, matrix, dtype))[0]

    write_folder(target, STEM, tensors(), _config(source, None))


def write_mxfp4_encoder(source: EncoderSource, target: Path, dtype: torch.dtype) -> None:
    """Hugging Face's folder with MXFP4 experts, as GPT-OSS was published."""

    def tensors() -> NamedTensors:
        yield from _outside(source, dtype)
        for base, matrix, packed in _matrices(source):
            blocks, scales = _mxfp4(source, matrix, packed)
            yield f"{base}_blocks", blocks
            yield f"{base}_scales", scales

    stated = {"quant_method": "mxfp4", "modules_to_not_convert": list(NOT_PACKED)}
    write_folder(target, STEM, tensors(), _config(source, stated))


def write_comfy_encoder(source: EncoderSource, target: Path, dtype: torch.dtype) -> None:
    """Comfy's single file: NVFP4 experts, the tokenizer inside, no head."""

    def tensors() -> NamedTensors:
        for name, value in _outside(source, dtype):
            if name != "lm_head.weight":
                yield names.encoder_to_comfy(name), value
        for base, matrix, packed in _matrices(source):
            name = names.encoder_to_comfy(base)
            if packed is not None and isinstance(packed.packing, Nvfp4Packing):
                codes, bits, overall = (packed.parts[part] for part in COMFY_PARTS)
                parts = [codes, bits.view(torch.float8_e4m3fn), overall]
            else:
                parts = _each(source, partial(_apply, nvfp4.pack, matrix))
            for part, value in zip(COMFY_PARTS, parts, strict=True):
                yield f"{name}.{part}", value
            yield f"{name}.comfy_quant", note_bytes("nvfp4")
        text = source.tokenizer or packaged_tokenizer_json()
        yield names.TOKENIZER, torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    with spool_beside(target) as spool:
        write_file(target, spool.tensors(tensors()), _config(source, None))


def write_gguf_encoder(source: EncoderSource, target: Path, dtype: torch.dtype, kind: str) -> None:
    """GGUF with llama.cpp's names and hyperparameters, but without its tokenizer lists."""

    def tensors() -> Iterator[tuple[str, Tensor | np.ndarray, str]]:
        for name, value in _outside(source, dtype):
            if name.endswith(("gate_up_proj_bias", "down_proj_bias")):
                yield from _gguf_biases(name, value)
                continue
            plain = value.ndim < 2 or dtype == torch.float32 or ".router." in name
            yield names.encoder_to_gguf(name), value, "F32" if plain else "BF16"
        for base, matrix, packed in _matrices(source):
            if kind == "MXFP4":
                data = gguf.blocks_to_mxfp4(*_mxfp4(source, matrix, packed)).numpy()
            elif packed is not None and packed.is_gguf(kind):
                data = packed.parts["gguf"].numpy()
            else:
                data = np.stack([gguf.pack(matrix(e), kind) for e in range(_experts(source))])
            yield from ((name, part, kind) for name, part in _split(base, data, "weight"))

    config = _config(source, None)
    write_gguf(target, "gpt-oss", tensors(), config, _hyperparameters(source.config))


def _outside(source: EncoderSource, dtype: torch.dtype) -> NamedTensors:
    """Everything but the experts' matrices."""
    for name, tensor in source.tensors.items():
        if ".mlp.experts." not in name or name.endswith("_proj_bias"):
            yield name, tensor.load().to(dtype)


def _matrices(source: EncoderSource) -> Iterator[tuple[str, Matrix, _Packed | None]]:
    """Name and values of every matrix, and what is stored if it is packed."""
    for layer in range(source.config.num_hidden_layers):
        for index, matrix in enumerate(MATRICES):
            base = expert_name(layer, matrix)
            if source.packings is None:
                dense = source.tensors[base].load()
                yield base, partial(_row, dense), None
                continue
            packing = source.packings[layer][index]
            start = f"{base}_"
            parts = {
                name.removeprefix(start): tensor.load()
                for name, tensor in source.tensors.items()
                if name.startswith(start) and name != f"{base}_bias"
            }
            yield base, partial(_unpacked, packing, parts), _Packed(packing, parts)


def _mxfp4(source: EncoderSource, matrix: Matrix, packed: _Packed | None) -> Sequence[Tensor]:
    """Blocks and scales, as they are stored if they are."""
    if packed is not None and isinstance(packed.packing, Mxfp4Packing):
        return packed.parts["blocks"], packed.parts["scales"]
    return _each(source, partial(_apply, mxfp4.pack, matrix))


def _row(dense: Tensor, expert: int) -> Tensor:
    return dense[expert].T


def _unpacked(packing: Packing, parts: dict[str, Tensor], expert: int) -> Tensor:
    one = {name: tensor[expert] for name, tensor in parts.items()}
    return packing.unpack(one, torch.float32)


def _turned(matrix: Matrix, dtype: torch.dtype, expert: int) -> tuple[Tensor]:
    return (matrix(expert).T.to(dtype),)


def _apply(
    pack: Callable[[Tensor], Sequence[Tensor]], matrix: Matrix, expert: int
) -> Sequence[Tensor]:
    return pack(matrix(expert))


def _each(source: EncoderSource, pack: Callable[[int], Sequence[Tensor]]) -> list[Tensor]:
    """Results for all experts, stacked; only one is unpacked at a time."""
    results = zip(*(pack(expert) for expert in range(_experts(source))), strict=True)
    return [torch.stack(parts) for parts in results]


def _experts(source: EncoderSource) -> int:
    return int(source.config.num_local_experts)


def _gguf_biases(name: str, value: Tensor) -> Iterator[tuple[str, Tensor, str]]:
    base = name.removesuffix("_bias")
    for split, part in _split(base, value.float().numpy(), "bias"):
        yield split, torch.from_numpy(part), "F32"


def _split(base: str, data: np.ndarray, part: str) -> Iterator[tuple[str, np.ndarray]]:
    """Under llama.cpp's names; gates (even rows) and ups (odd rows) apart. Rows are axis 1."""
    layer, matrix = base.split(".")[2], base.rpartition(".")[2]
    if matrix == "down_proj":
        yield f"blk.{layer}.ffn_down_exps.{part}", data
        return
    for offset, half in enumerate(("gate", "up")):
        yield f"blk.{layer}.ffn_{half}_exps.{part}", np.ascontiguousarray(data[:, offset::2])


def _config(source: EncoderSource, quantisation: dict[str, Any] | None) -> dict[str, Any]:
    stated: dict[str, Any] = source.config.to_dict()
    stated.pop("quantization_config", None)
    stated["architectures"] = ["GptOssForCausalLM"]
    return stated if quantisation is None else stated | {"quantization_config": quantisation}


def _hyperparameters(config: GptOssConfig) -> dict[str, str | int | float]:
    rope = config.rope_parameters
    entries: dict[str, str | int | float] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "expert_feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.sliding_window": config.sliding_window,
        "expert_count": config.num_local_experts,
        "expert_used_count": config.num_experts_per_tok,
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(rope["factor"]),
        "rope.scaling.original_context_length": int(rope["original_max_position_embeddings"]),
    }
    return {f"gpt-oss.{name}": value for name, value in entries.items()}
