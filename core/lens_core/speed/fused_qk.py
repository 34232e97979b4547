"""Normalisation and rotation of queries and keys in one kernel, where Triton can run."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from lens_core.blocks import Joint, LensAttention
from lens_core.errors import ComponentError
from lens_core.rotary import Rotary


def fused_qk_problem(device: torch.device) -> str | None:
    """Why the kernel cannot run on a device; None if it can.

    `TRITON_INTERPRET=1`, set before the first use, runs it on the CPU, slowly, for tests.
    """
    if find_spec("triton") is None:
        return "triton is not installed"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it runs on CUDA, not on {device.type!r}"
    return None


def require_fused_qk(device: torch.device) -> None:
    """Check that the kernel can run.

    Raises:
        ComponentError: It cannot; says why and what to use instead.
    """
    if (problem := fused_qk_problem(device)) is not None:
        raise ComponentError(
            f"fused_qk cannot be used: {problem}. Without it, compile_blocks fuses the same "
            "operations"
        )


@torch.library.custom_op("lens::qk_norm_rotary", mutates_args=())
def qk_norm_rotary(
    qkv: Tensor,
    added: Tensor | None,
    weights: list[Tensor],
    tables: list[Tensor],
    head_dim: int,
    eps: float,
) -> Tensor:
    """Joint queries and keys, RMS-normalised per head and rotated.

    Rounded where the plain path rounds: after the norm and after the rotation.

    Args:
        qkv: The image's projection `[B, N, 3 * heads * head_dim]`.
        added: The text's `[B, S, 3 * heads * head_dim]`, if there is text.
        weights: Of the norms of image queries and keys, then of the text's, `[head_dim]` each.
        tables: Cosines and signed sines of the image, then of the text, `[tokens, head_dim]` each.
        head_dim: Channels of a head.
        eps: Of the norms.

    Returns:
        Queries and keys `[2, B, N + S, heads, head_dim]`, the image's tokens first.
    """
    from lens_core.speed.triton_kernels import launch_qk_norm_rotary

    out = _empty(qkv, added, head_dim)
    launch_qk_norm_rotary(qkv, weights[:2], tables[:2], out, 0, eps)
    if added is not None:
        launch_qk_norm_rotary(added, weights[2:], tables[2:], out, qkv.shape[1], eps)
    return out


@qk_norm_rotary.register_fake
def _(
    qkv: Tensor,
    added: Tensor | None,
    weights: list[Tensor],
    tables: list[Tensor],
    head_dim: int,
    eps: float,
) -> Tensor:
    return _empty(qkv, added, head_dim)


def _empty(qkv: Tensor, added: Tensor | None, head_dim: int) -> Tensor:
    batch, image_tokens, channels = qkv.shape
    tokens = image_tokens + (0 if added is None else added.shape[1])
    return qkv.new_empty((2, batch, tokens, channels // 3 // head_dim, head_dim))


def project_fused(
    attention: LensAttention,
    image: Tensor,
    text: Tensor | None,
    image_rotary: Rotary,
    text_rotary: Rotary | None,
) -> Joint:
    """As `project_jointly`, for inference only: the kernel has no gradient."""
    norms = [attention.norm_q, attention.norm_k]
    tables = [*image_rotary]
    qkv, added = attention.img_qkv(image), None
    value = _values(qkv, attention.heads)
    if text is not None and text_rotary is not None:
        added = attention.txt_qkv(text)
        norms += [attention.norm_added_q, attention.norm_added_k]
        tables += [*text_rotary]
        value = torch.cat((value, _values(added, attention.heads)), dim=1)
    head_dim, eps = value.shape[-1], _eps(attention.norm_q)
    weights = [norm.weight for norm in norms]
    query, key = qk_norm_rotary(qkv, added, weights, tables, head_dim, eps).unbind(0)
    return query, key, value


def _values(qkv: Tensor, heads: int) -> Tensor:
    batch, tokens, _ = qkv.shape
    return qkv.reshape(batch, tokens, 3, heads, -1)[:, :, 2]


def _eps(norm: nn.RMSNorm) -> float:
    return 1e-6 if norm.eps is None else norm.eps
