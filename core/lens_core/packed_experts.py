"""GPT-OSS experts that stay packed in memory, also while they are used.

Unpacked to bfloat16 the experts of GPT-OSS-20B are 38 GB; packed they are about 10 GB. On CUDA a
kernel multiplies by the packed matrices of all experts at once; elsewhere one expert is unpacked at
a time. Nothing is downloaded and nothing falls back to the large form.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GptOssConfig

from lens_core.checkpoints.formats import ggml_blocks, mxfp4, nvfp4
from lens_core.checkpoints.formats.blocked_scales import padded_shape
from lens_core.grouped_experts import grouped_problem

MATRICES = ("gate_up_proj", "down_proj")

BufferForm = tuple[tuple[int, ...], torch.dtype]


class Packing(Protocol):
    """How one matrix of every expert of a layer is kept.

    `parts` gives the shape and type of each buffer, with the experts in front, by its suffix.
    """

    def parts(self, experts: int, rows: int, columns: int) -> dict[str, BufferForm]:
        """Buffers of a `[experts, rows, columns]` matrix, columns being inputs."""

    def unpack(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The `[rows, columns]` values of one expert, whose buffers are given."""


@dataclass(frozen=True)
class Mxfp4Packing:
    """MXFP4 as in the published weights; buffers are named as in Hugging Face's files."""

    def parts(self, experts: int, rows: int, columns: int) -> dict[str, BufferForm]:
        """Codes and scales."""
        groups = columns // mxfp4.GROUP
        return {
            "blocks": ((experts, rows, groups, mxfp4.GROUP // 2), torch.uint8),
            "scales": ((experts, rows, groups), torch.uint8),
        }

    def unpack(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Exact in bfloat16 and float32."""
        return mxfp4.unpack(parts["blocks"], parts["scales"], dtype)


@dataclass(frozen=True)
class Nvfp4Packing:
    """NVFP4 as in Comfy's files."""

    def parts(self, experts: int, rows: int, columns: int) -> dict[str, BufferForm]:
        """Codes, bits of blocked scales and one scale for each expert.

        Apple's GPUs hold no float8, only its bits.
        """
        scales = padded_shape(rows, columns // nvfp4.GROUP)
        return {
            "weight": ((experts, rows, columns // 2), torch.uint8),
            "weight_scale": ((experts, *scales), torch.uint8),
            "weight_scale_2": ((experts,), torch.float32),
        }

    def unpack(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Computed in float32."""
        return nvfp4.unpack(parts["weight"], parts["weight_scale"], parts["weight_scale_2"], dtype)


@dataclass(frozen=True)
class GgufPacking:
    """Any block type of GGML but MXFP4.

    Attributes:
        kind: Such as `Q8_0`.
        block: Values of a block.
        size: Bytes of a block.
    """

    kind: str
    block: int
    size: int

    def parts(self, experts: int, rows: int, columns: int) -> dict[str, BufferForm]:
        """Bytes of every row."""
        return {"gguf": ((experts, rows, columns // self.block * self.size), torch.uint8)}

    def unpack(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Computed in float32, where the bytes are; of uncommon types on the CPU."""
        data = parts["gguf"]
        if self.kind in ggml_blocks.KINDS:
            return ggml_blocks.unpack(data, self.kind).to(dtype)
        from lens_core.checkpoints.formats import gguf

        return gguf.unpack(data.cpu().numpy(), self.kind).to(data.device, dtype)


@dataclass(frozen=True)
class PlainPacking:
    """Not packed: `[experts, rows, columns]` in a floating-point type, for files that mix types."""

    dtype: torch.dtype

    def parts(self, experts: int, rows: int, columns: int) -> dict[str, BufferForm]:
        """The matrix itself."""
        return {"plain": ((experts, rows, columns), self.dtype)}

    def unpack(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The matrix, rounded to `dtype`."""
        return parts["plain"].to(dtype)


class PackedExperts(nn.Module):
    """Takes the place of transformers' `GptOssExperts`.

    Args:
        config: Of the model.
        gate_up_proj: Packing of the matrix that makes gates (even rows) and ups (odd rows).
        down_proj: Packing of the matrix back to the model's width.
    """

    one_by_one = False
    """Unpack one expert at a time also where all could be multiplied by at once."""

    def __init__(self, config: GptOssConfig, gate_up_proj: Packing, down_proj: Packing) -> None:
        super().__init__()
        self.num_experts = config.num_local_experts
        # Transformers before 5.19 have these numbers in the layer, not in the configuration.
        self.alpha = getattr(config, "swiglu_alpha", 1.702)
        self.limit = getattr(config, "swiglu_limit", 7.0)
        self.packings = {"gate_up_proj": gate_up_proj, "down_proj": down_proj}
        width, hidden = config.hidden_size, config.intermediate_size
        for matrix, rows, columns in (
            ("gate_up_proj", 2 * hidden, width),
            ("down_proj", width, hidden),
        ):
            parts = self.packings[matrix].parts(self.num_experts, rows, columns)
            for part, (shape, dtype) in parts.items():
                self.register_buffer(f"{matrix}_{part}", torch.empty(shape, dtype=dtype))
            bias = nn.Parameter(torch.empty(self.num_experts, rows))
            self.register_parameter(f"{matrix}_bias", bias)

    def matrix(self, name: str, expert: int, dtype: torch.dtype) -> Tensor:
        """Values `[rows, columns]` of one expert.

        Args:
            name: `gate_up_proj` or `down_proj`.
            expert: Counted from 0.
            dtype: Of the result.
        """
        start = f"{name}_"
        parts = {
            buffer.removeprefix(start): tensor[expert]
            for buffer, tensor in self.named_buffers(recurse=False)
            if buffer.startswith(start)
        }
        return self.packings[name].unpack(parts, dtype)

    def forward(
        self, hidden_states: Tensor, router_indices: Tensor, routing_weights: Tensor
    ) -> Tensor:
        """Weighted sum of the chosen experts.

        Args:
            hidden_states: `[tokens, width]`.
            router_indices: `[tokens, k]` experts.
            routing_weights: `[tokens, k]`.
        """
        chosen = router_indices.flatten()
        # Sorted by expert, so that the host waits for the device at most once.
        order = torch.argsort(chosen, stable=True)
        rows = hidden_states[order // router_indices.shape[1]]
        experts = torch.arange(self.num_experts, device=chosen.device)
        counts = (chosen[:, None] == experts).sum(0)
        if self.multiplies_at_once(rows):
            outputs = self._mlp(rows, partial(self._grouped_product, counts=counts))
        else:
            outputs = self.compute(rows, counts.tolist())
        back = torch.empty_like(outputs)
        back[order] = outputs
        weighted = back.view(*router_indices.shape, -1) * routing_weights[..., None]
        return weighted.sum(1).to(hidden_states.dtype)

    def multiplies_at_once(self, rows: Tensor) -> bool:
        """Whether `forward` multiplies such rows by the matrices of all experts in one launch."""
        return (
            not self.one_by_one
            # The kernel has no gradient.
            and not rows.requires_grad
            and all(isinstance(packing, Mxfp4Packing) for packing in self.packings.values())
            and grouped_problem(rows.device, rows.dtype) is None
        )

    def compute(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Outputs `[rows, width]` of rows that lie in the order of their experts.

        One expert's matrix is unpacked at a time.

        Args:
            rows: `[rows, width]`.
            counts: Rows of each expert; those at the end without any may be left out.
        """
        return self._mlp(rows, partial(self._product_by_expert, counts=counts))

    def _mlp(self, rows: Tensor, product: Callable[[str, Tensor], Tensor]) -> Tensor:
        hidden = product("gate_up_proj", rows)
        gate, up = hidden[..., 0::2], hidden[..., 1::2]
        gate = gate.clamp(max=self.limit)
        up = up.clamp(-self.limit, self.limit)
        gated = gate * torch.sigmoid(gate * self.alpha) * (up + 1)
        return product("down_proj", gated)

    def _grouped_product(self, name: str, rows: Tensor, counts: Tensor) -> Tensor:
        from lens_core.checkpoints.formats.mxfp4_triton import grouped_product

        parts = (getattr(self, f"{name}_{part}") for part in ("blocks", "scales", "bias"))
        return grouped_product(rows, counts, *parts)

    def _product_by_expert(self, name: str, rows: Tensor, counts: Sequence[int]) -> Tensor:
        parts = enumerate(torch.split(rows, list(counts)))
        return torch.cat([self._linear(name, expert, part) for expert, part in parts if len(part)])

    def _linear(self, name: str, expert: int, x: Tensor) -> Tensor:
        bias = getattr(self, f"{name}_bias")[expert]
        return F.linear(x, self.matrix(name, expert, x.dtype), bias)

    def _apply(self, fn: Any, recurse: bool = True) -> "PackedExperts":
        """Move packed buffers but never convert them: a cast would destroy what they say."""
        packed = {id(buffer) for buffer in self.buffers(recurse=False)}

        def move(tensor: Tensor) -> Tensor:
            if id(tensor) not in packed or tensor.is_meta:
                return fn(tensor)  # type: ignore[no-any-return]
            return tensor.to(fn(tensor.new_empty(0)).device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self
