"""GPT-OSS's experts in every file style, brought to the names of `LensTextEncoder`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor

from lens_core.checkpoints.comfy import check_note
from lens_core.checkpoints.formats import gguf
from lens_core.checkpoints.formats.mxfp4 import GROUP
from lens_core.checkpoints.weights import LazyTensor, LazyTensors
from lens_core.errors import CheckpointError
from lens_core.packed_experts import (
    MATRICES,
    GgufPacking,
    Mxfp4Packing,
    Nvfp4Packing,
    Packing,
    PlainPacking,
)

LayerPackings = list[tuple[Packing, Packing]]

COMFY_PARTS = ("weight", "weight_scale", "weight_scale_2")
_PLAIN = ("F32", "F16", "BF16")
_SCALE = "F8_E4M3"


def expert_name(layer: int, matrix: str) -> str:
    """Name of an unpacked matrix; parts of packed ones append `_` and their suffix."""
    return f"model.layers.{layer}.mlp.experts.{matrix}"


def arrange_experts(
    source: Path, tensors: LazyTensors, layers: int
) -> tuple[LazyTensors, LayerPackings | None]:
    """Recognise how a safetensors file keeps its experts.

    Args:
        source: For messages.
        tensors: With Hugging Face's names.
        layers: Of the model.

    Returns:
        The tensors by the names of `LensTextEncoder`, and its packings; None if unpacked.

    Raises:
        CheckpointError: Comfy's note about the format names another than NVFP4.
    """
    if any(name.endswith("_proj_blocks") for name in tensors):
        return tensors, [(Mxfp4Packing(), Mxfp4Packing())] * layers
    if not any(name.endswith(".weight_scale_2") for name in tensors):
        return tensors, None
    arranged = dict(tensors)
    for layer in range(layers):
        for matrix in MATRICES:
            base = expert_name(layer, matrix)
            note = arranged.pop(f"{base}.comfy_quant", None)
            if note is not None:
                check_note(source, base, note.load(), ("nvfp4",))
            for part in COMFY_PARTS:
                if (found := arranged.pop(f"{base}.{part}", None)) is not None:
                    arranged[f"{base}_{part}"] = _bits(found) if found.dtype == _SCALE else found
    return arranged, [(Nvfp4Packing(), Nvfp4Packing())] * layers


def _bits(tensor: LazyTensor) -> LazyTensor:
    return LazyTensor(tensor.shape, lambda: tensor.load().view(torch.uint8), "U8")


def arrange_gguf_experts(
    source: Path, tensors: LazyTensors, layers: int
) -> tuple[LazyTensors, LayerPackings | None]:
    """Join llama.cpp's split gates and ups, and keep whatever packing the file has.

    Args:
        source: For messages.
        tensors: With llama.cpp's names for experts.
        layers: Of the model.

    Returns:
        As `arrange_experts`. Matrices that a layer lacks are left for the name check to report.

    Raises:
        CheckpointError: Gates and ups of a layer in different types.
    """
    found = dict(tensors)
    packings = []
    plain = all(t.dtype in _PLAIN for n, t in found.items() if n.endswith("_exps.weight"))
    for layer in range(layers):
        pair = []
        for matrix, parts in zip(MATRICES, (("gate", "up"), ("down",)), strict=True):
            stems = [f"blk.{layer}.ffn_{part}_exps" for part in parts]
            base = expert_name(layer, matrix)
            biases = _take(found, [f"{stem}.bias" for stem in stems])
            if biases:
                found[f"{base}_bias"] = _joined(biases, [tensor.load for tensor in biases])
            weights = _take(found, [f"{stem}.weight" for stem in stems])
            packing: Packing = Mxfp4Packing()
            if weights:
                packing, made = _matrix(source, base, weights, plain)
                found |= made
            pair.append(packing)
        packings.append((pair[0], pair[1]))
    return found, None if plain else packings


def _take(tensors: LazyTensors, wanted: list[str]) -> list[LazyTensor]:
    """Remove and return tensors if all are there."""
    if any(name not in tensors for name in wanted):
        return []
    return [tensors.pop(name) for name in wanted]


def _matrix(
    source: Path, base: str, weights: list[LazyTensor], plain: bool
) -> tuple[Packing, LazyTensors]:
    kinds = {tensor.dtype for tensor in weights}
    if len(kinds) > 1 or len({tensor.shape for tensor in weights}) > 1:
        raise CheckpointError(
            f"{source}: gate and up of {base} differ in type {sorted(kinds)} or shape"
        )
    kind = kinds.pop()
    dense = _joined(weights, [tensor.load for tensor in weights])
    if plain:
        experts, rows, columns = dense.shape
        turned = LazyTensor((experts, columns, rows), partial(_transposed, dense), kind)
        return Mxfp4Packing(), {base: turned}
    if kind in _PLAIN:
        dtype = torch.bfloat16 if kind == "BF16" else torch.float32
        kept = LazyTensor(dense.shape, lambda: dense.load().to(dtype), kind)
        return PlainPacking(dtype), {f"{base}_plain": kept}
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    row = dense.shape[-1] // block * size
    shape = (*dense.shape[:-1], row)
    one = (*weights[0].shape[:-1], row)
    raw = _joined(weights, [_raw(tensor) for tensor in weights], one)
    if kind != "MXFP4":
        return GgufPacking(kind, block, size), {f"{base}_gguf": raw}
    groups = dense.shape[-1] // GROUP
    return Mxfp4Packing(), {
        f"{base}_blocks": LazyTensor(
            (*shape[:-1], groups, GROUP // 2),
            lambda: gguf.mxfp4_to_blocks(raw.load())[0],
            "U8",
        ),
        f"{base}_scales": LazyTensor(
            (*shape[:-1], groups), lambda: gguf.mxfp4_to_blocks(raw.load())[1], "U8"
        ),
    }


def _raw(tensor: LazyTensor) -> Callable[[], Tensor]:
    if tensor.raw is None:
        raise CheckpointError(f"a {tensor.dtype} tensor has no packed bytes")
    return tensor.raw


def _joined(
    parts: list[LazyTensor],
    loads: list[Callable[[], Tensor]],
    shape: tuple[int, ...] | None = None,
) -> LazyTensor:
    """One tensor, or two interleaved over axis 1: gates on even, ups on odd rows."""
    first = shape or parts[0].shape
    whole = (first[0], len(parts) * first[1], *first[2:])

    def load() -> Tensor:
        tensors = [read() for read in loads]
        return tensors[0] if len(tensors) == 1 else torch.stack(tensors, dim=2).flatten(1, 2)

    return LazyTensor(whole, load, parts[0].dtype)


def _transposed(tensor: LazyTensor) -> Tensor:
    return tensor.load().transpose(1, 2).contiguous()
