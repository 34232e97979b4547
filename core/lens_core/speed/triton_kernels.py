"""Triton kernels. Importing this module needs Triton."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _qk_norm_rotary(  # type: ignore[no-untyped-def]
    # Triton's compiler evaluates annotations and knows no names but its own.
    qkv,
    query_weight,
    key_weight,
    cosines,
    sines,
    out,
    rows,
    tokens,
    joint_tokens,
    offset,
    eps,
    heads: tl.constexpr,
    head_dim: tl.constexpr,
    padded_heads: tl.constexpr,
    padded_dim: tl.constexpr,
):
    """One token's queries (second program index 0) or keys (1), all heads at once."""
    row = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1).to(tl.int64)
    batch, token = row // tokens, row % tokens
    head = tl.arange(0, padded_heads)[:, None]
    channel = tl.arange(0, padded_dim)[None, :]
    place = head * head_dim + channel
    inside = (head < heads) & (channel < head_dim)
    width = heads * head_dim
    x = tl.load(qkv + (row * 3 + which) * width + place, mask=inside, other=0.0).to(tl.float32)
    of_query = tl.load(query_weight + channel, mask=channel < head_dim, other=0.0)
    of_key = tl.load(key_weight + channel, mask=channel < head_dim, other=0.0)
    scale = tl.where(which == 0, of_query, of_key).to(tl.float32)
    mean_square = tl.sum(x * x, axis=1)[:, None] / head_dim
    normed = (x * (1.0 / tl.sqrt(mean_square + eps)) * scale).to(out.dtype.element_ty)
    pairs = tl.reshape(normed.to(tl.float32), (padded_heads, padded_dim // 2, 2))
    even, odd = tl.split(pairs)
    pair = tl.arange(0, padded_dim // 2)[None, :]
    angle = token * head_dim + 2 * pair
    known = 2 * pair < head_dim
    cos = tl.load(cosines + angle, mask=known, other=0.0)
    sin = tl.load(sines + angle + 1, mask=known, other=0.0)
    rotated = tl.join(even * cos - odd * sin, even * sin + odd * cos)
    rotated = tl.reshape(rotated, (padded_heads, padded_dim)).to(out.dtype.element_ty)
    target = which * rows + batch * joint_tokens + offset + token
    tl.store(out + target * width + place, rotated, mask=inside)


def launch_qk_norm_rotary(
    qkv: Tensor,
    weights: Sequence[Tensor],
    tables: Sequence[Tensor],
    out: Tensor,
    offset: int,
    eps: float,
) -> None:
    """Normalise and rotate one stream's queries and keys into the joint tensor.

    Args:
        qkv: The stream's projection `[B, T, 3 * heads * head_dim]`.
        weights: Of the norms of queries and keys.
        tables: Cosines and signed sines, float32 `[T, head_dim]`.
        out: Joint queries and keys `[2, B, tokens, heads, head_dim]`, written from `offset` on.
        offset: The stream's first token.
        eps: Of the norms.
    """
    qkv = qkv.contiguous()
    batch, tokens, _ = qkv.shape
    joint_tokens, heads, head_dim = out.shape[2:]
    cosines, sines = (table.contiguous() for table in tables)
    where = torch.cuda.device(qkv.device) if qkv.is_cuda else nullcontext()
    with where:
        _qk_norm_rotary[(batch * tokens, 2)](
            qkv,
            *weights,
            cosines,
            sines,
            out,
            batch * joint_tokens,
            tokens,
            joint_tokens,
            offset,
            eps,
            heads=heads,
            head_dim=head_dim,
            padded_heads=triton.next_power_of_2(heads),
            padded_dim=triton.next_power_of_2(head_dim),
        )
