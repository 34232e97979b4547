"""The parts of the denoiser: joint attention, the double-stream block, the time embedding.

Module names are the released checkpoint's tensor names.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from lens_core.rotary import Rotary, apply_rotary

Joint = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values `[B, tokens, heads, head_dim]`."""

JointProjection = Callable[
    ["LensAttention", Tensor, Tensor | None, Rotary, Rotary | None],
    Joint,
]
"""Makes the joint queries, keys and values of both streams; `project_jointly` or faster."""


GateUp = Callable[["SwiGLU", Tensor], tuple[Tensor, Tensor]]
"""Makes `w1 x` and `w3 x` of an MLP; `project_apart` or faster."""


class SwiGLU(nn.Module):
    """`w2(silu(w1 x) * w3 x)` without biases, hidden size `int(dim / 3 * 8)`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = int(dim / 3 * 8)
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)

        self.project: GateUp = project_apart

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., dim]` to `[..., dim]`."""
        gate, up = self.project(self, x)
        out: Tensor = self.w2(F.silu(gate) * up)
        return out

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles take the plain path, without what a faster one made of the weights."""
        plain = {"project": project_apart, "_buffers": {}, "_non_persistent_buffers_set": set()}
        return super().__getstate__() | plain  # type: ignore[no-untyped-call,no-any-return]


def project_apart(mlp: SwiGLU, x: Tensor) -> tuple[Tensor, Tensor]:
    """Two matrix products, `[..., hidden]` each."""
    return mlp.w1(x), mlp.w3(x)


class LensAttention(nn.Module):
    """Joint attention over image and text tokens with normalised queries and keys."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.img_qkv = nn.Linear(dim, 3 * inner)
        self.txt_qkv = nn.Linear(dim, 3 * inner)
        self.norm_q = nn.RMSNorm(head_dim, eps=1e-6)
        self.norm_k = nn.RMSNorm(head_dim, eps=1e-6)
        self.norm_added_q = nn.RMSNorm(head_dim, eps=1e-6)
        self.norm_added_k = nn.RMSNorm(head_dim, eps=1e-6)
        self.to_out = nn.ModuleList([nn.Linear(inner, dim)])
        self.to_add_out = nn.Linear(inner, dim)

        self.project: JointProjection = project_jointly
        self.backend: str | None = None

    def forward(
        self,
        image: Tensor,
        text: Tensor | None,
        image_rotary: Rotary,
        text_rotary: Rotary | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend over `[image, text]`. `mask` `[B, 1, 1, keys]` is True for keys that count.

        `backend` is a name of diffusers' attention dispatcher; None leaves the choice to it.
        """
        query, key, value = self.project(self, image, text, image_rotary, text_rotary)
        out = dispatch_attention_fn(query, key, value, attn_mask=mask, backend=self.backend)
        out = out.flatten(2).to(query.dtype)
        image_out = self.to_out[0](out[:, : image.shape[1]])
        return image_out, None if text is None else out[:, image.shape[1] :]


def project_jointly(
    attention: LensAttention,
    image: Tensor,
    text: Tensor | None,
    image_rotary: Rotary,
    text_rotary: Rotary | None,
) -> Joint:
    """Project, normalise and rotate both streams, the image's tokens first."""
    norms = attention.norm_q, attention.norm_k
    joint = _project(image, attention.img_qkv, attention.heads, norms, image_rotary)
    if text is None or text_rotary is None:
        return joint
    norms = attention.norm_added_q, attention.norm_added_k
    added = _project(text, attention.txt_qkv, attention.heads, norms, text_rotary)
    query, key, value = (torch.cat(pair, dim=1) for pair in zip(joint, added, strict=True))
    return query, key, value


def _project(
    x: Tensor, qkv: nn.Module, heads: int, norms: tuple[nn.RMSNorm, nn.RMSNorm], rotary: Rotary
) -> Joint:
    query, key, value = qkv(x).unflatten(-1, (3, heads, -1)).unbind(2)
    return apply_rotary(norms[0](query), rotary), apply_rotary(norms[1](key), rotary), value


class LensTransformerBlock(nn.Module):
    """One double-stream block: joint attention, then an MLP per stream, both modulated."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.attn = LensAttention(dim, heads, head_dim)
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.img_norm1 = nn.RMSNorm(dim, eps=1e-6)
        self.img_norm2 = nn.RMSNorm(dim, eps=1e-6)
        self.txt_norm1 = nn.RMSNorm(dim, eps=1e-6)
        self.txt_norm2 = nn.RMSNorm(dim, eps=1e-6)
        self.img_mlp = SwiGLU(dim)
        self.txt_mlp = SwiGLU(dim)

    def forward(
        self,
        image: Tensor,
        text: Tensor | None,
        time: Tensor,
        image_rotary: Rotary,
        text_rotary: Rotary | None,
        mask: Tensor | None,
        update_text: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the updated image `[B, N, dim]` and text `[B, S, dim]` streams.

        `time` is what the modulations read: an embedding `[B, dim]`, or the block's rows of a
        modulation table.

        With `update_text` False the text stream is read but not computed further, as in the last
        block, where nothing uses it.
        """
        modulation = self.img_mod(time)[:, None].chunk(6, dim=-1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        text_modulation, attended_text = None, None
        if text is not None:
            text_modulation = self.txt_mod(time)[:, None].chunk(6, dim=-1)
            attended_text = modulate(self.txt_norm1(text), *text_modulation[:2])
        attended, text_heads = self.attn(
            modulate(self.img_norm1(image), shift, scale),
            attended_text,
            image_rotary,
            text_rotary,
            mask,
        )
        image = image + gate * attended
        image = image + mlp_gate * self.img_mlp(
            modulate(self.img_norm2(image), mlp_shift, mlp_scale)
        )
        if text is None or text_modulation is None or not update_text:
            return image, text
        _, _, gate, mlp_shift, mlp_scale, mlp_gate = text_modulation
        text = text + gate * self.attn.to_add_out(text_heads)
        text = text + mlp_gate * self.txt_mlp(modulate(self.txt_norm2(text), mlp_shift, mlp_scale))
        return image, text


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x * (1 + scale) + shift`."""
    return x * (1 + scale) + shift


class LensTimeEmbedding(nn.Module):
    """Sinusoidal features of the timestep through a two-layer MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_proj = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0, scale=1000)
        self.timestep_embedder = TimestepEmbedding(256, dim)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """Map `[batch]` in [0, 1] to `[batch, dim]`."""
        embedded: Tensor = self.timestep_embedder(self.time_proj(timestep).to(dtype))
        return embedded
