"""Lens by the formulas of its description, one picture at a time in float64 and without padding.

It shares nothing with the code under test but the autoencoder and the tokenizer's file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

Weights = Mapping[str, Tensor]

PREFIX = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: {date}\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
    "<|end|><|start|>developer<|message|># Instructions\n\nDescribe the image by detailing the "
    "color, shape, size, texture, quantity, text, spatial relationships of the objects and "
    "background.\n\n<|end|><|start|>user<|message|>"
)
SUFFIX = (
    "<|end|><|start|>assistant<|channel|>analysis<|message|>Need to generate one image according "
    "to the description.<|end|><|start|>assistant<|channel|>final<|message|>"
)


def prompt_ids(tokenizer: Tokenizer, prompt: str, date: str, room: int = 512) -> list[int]:
    """A prompt's tokens; what does not fit is cut from the user's words."""
    prefix = tokenizer.encode(PREFIX.format(date=date), add_special_tokens=False).ids
    suffix = tokenizer.encode(SUFFIX, add_special_tokens=False).ids
    assert len(prefix) == 97
    user = tokenizer.encode(prompt, add_special_tokens=False).ids
    return prefix + user[: room - 97 - len(suffix)] + suffix


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    out = x @ w[f"{name}.weight"].T
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


# The text encoder.


def yarn(dim: int, rope: Mapping[str, Any]) -> tuple[Tensor, float]:
    """Frequencies and the factor of cosines and sines."""
    theta, factor, length = rope["rope_theta"], rope["factor"], 4096

    def turns(count: float) -> float:
        return dim * math.log(length / (count * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(turns(32), 0), min(turns(1), dim - 1)
    index = torch.arange(dim // 2, dtype=torch.float64)
    slowed = ((index - low) / (high - low)).clamp(0, 1)
    plain = theta ** (-2 * index / dim)
    return plain / factor * slowed + plain * (1 - slowed), 0.1 * math.log(factor) + 1


def encoder_layers(w: Weights, config: Mapping[str, Any], ids: Sequence[int]) -> list[Tensor]:
    """Raw output `[tokens, width]` of every layer."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    dim, eps = config["head_dim"], config["rms_norm_eps"]
    frequencies, factor = yarn(dim, config["rope_parameters"])
    places = torch.arange(len(ids), dtype=torch.float64)
    angles = places[:, None] * frequencies
    behind = places[:, None] - places

    def turned(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        cos, sin = angles.cos()[:, None] * factor, angles.sin()[:, None] * factor
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    x, outputs = w["model.embed_tokens.weight"][torch.tensor(ids)].double(), []
    for layer in range(config["num_hidden_layers"]):
        base = f"model.layers.{layer}"
        h = rms(x, w[f"{base}.input_layernorm.weight"], eps)
        q, k, v = (
            linear(w, f"{base}.self_attn.{name}_proj", h).unflatten(-1, (count, dim))
            for name, count in (("q", heads), ("k", groups), ("v", groups))
        )
        k, v = (t.repeat_interleave(heads // groups, dim=1) for t in (turned(k), v))
        scores = torch.einsum("ihd,jhd->hij", turned(q), k) / math.sqrt(dim)
        window = config["sliding_window"] if layer % 2 == 0 else len(ids)
        scores = scores.masked_fill((behind < 0) | (behind >= window), -math.inf)
        sinks = w[f"{base}.self_attn.sinks"][:, None, None].expand(-1, len(ids), 1)
        shares = torch.cat((scores, sinks), dim=-1).softmax(-1)[..., :-1]
        mixed = torch.einsum("hij,jhd->ihd", shares, v).flatten(1)
        x = x + linear(w, f"{base}.self_attn.o_proj", mixed)
        x = x + experts(w, base, rms(x, w[f"{base}.post_attention_layernorm.weight"], eps), config)
        outputs.append(x)
    return outputs


def experts(w: Weights, base: str, x: Tensor, config: Mapping[str, Any]) -> Tensor:
    logits = linear(w, f"{base}.mlp.router", x)
    chosen = logits.topk(config["num_experts_per_tok"], dim=-1)
    shares = chosen.values.softmax(-1)
    out = torch.zeros_like(x)
    for token in range(len(x)):
        for share, expert in zip(shares[token], chosen.indices[token].tolist(), strict=True):
            start = f"{base}.mlp.experts"
            both = x[token] @ w[f"{start}.gate_up_proj"][expert]
            both = both + w[f"{start}.gate_up_proj_bias"][expert]
            gate, up = both[0::2].clamp(max=7), both[1::2].clamp(-7, 7)
            hidden = gate * torch.sigmoid(1.702 * gate) * (up + 1)
            down = hidden @ w[f"{start}.down_proj"][expert]
            out[token] += share * (down + w[f"{start}.down_proj_bias"][expert])
    return out


# The denoiser.


def rotated(x: Tensor, places: Tensor, axes: Sequence[int]) -> Tensor:
    """Pairs (even, odd) of `x` `[tokens, heads, dim]` as complex numbers, turned."""
    angles = [
        places[:, axis, None] * 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        for axis, dim in enumerate(axes)
    ]
    angle = torch.cat(angles, dim=-1)[:, None]
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def velocity(
    w: Weights,
    config: Mapping[str, Any],
    tokens: Tensor,
    features: Sequence[Tensor] | None,
    time: float,
    grid: tuple[int, int],
) -> Tensor:
    """Velocity `[h * w, channels]` of one picture."""
    height, width = grid
    heads, axes = config["num_attention_heads"], config["axes_dims_rope"]
    waves = 1000 * time * 10000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
    steps = "time_text_embed.timestep_embedder.linear"
    temb = linear(w, f"{steps}_1", torch.cat((waves.cos(), waves.sin())))
    temb = linear(w, f"{steps}_2", F.silu(temb))
    rows = torch.arange(height) - (height - height // 2)
    columns = torch.arange(width) - (width - width // 2)
    places = torch.stack(
        (
            torch.zeros(height * width),
            rows.repeat_interleave(width).float(),
            columns.repeat(height).float(),
        ),
        dim=-1,
    ).double()
    streams = {"img": linear(w, "img_in", tokens)}
    where = {"img": places}
    if features is not None:
        normed = [rms(f, w[f"txt_norm.{i}.weight"], 1e-5) for i, f in enumerate(features)]
        streams["txt"] = linear(w, "txt_in", torch.cat(normed, dim=-1))
        start = max(height // 2, width // 2)
        index = start + torch.arange(len(features[0]), dtype=torch.float64)
        where["txt"] = index[:, None].expand(-1, 3)
    for block in range(config["num_layers"]):
        streams = _block(w, f"transformer_blocks.{block}", streams, where, temb, heads, axes)
    scale, shift = linear(w, "norm_out.linear", F.silu(temb)).chunk(2)
    image = F.layer_norm(streams["img"], streams["img"].shape[-1:], eps=1e-6)
    return linear(w, "proj_out", image * (1 + scale) + shift)


def _block(
    w: Weights,
    base: str,
    streams: Mapping[str, Tensor],
    where: Mapping[str, Tensor],
    temb: Tensor,
    heads: int,
    axes: Sequence[int],
) -> dict[str, Tensor]:
    norms = {"img": ("norm_q", "norm_k"), "txt": ("norm_added_q", "norm_added_k")}
    outs = {"img": "attn.to_out.0", "txt": "attn.to_add_out"}
    mods = {s: linear(w, f"{base}.{s}_mod.1", F.silu(temb)).chunk(6) for s in streams}
    joint: dict[str, list[Tensor]] = {"q": [], "k": [], "v": []}
    for stream, x in streams.items():
        shift, scale = mods[stream][:2]
        h = rms(x, w[f"{base}.{stream}_norm1.weight"], 1e-6) * (1 + scale) + shift
        parts = linear(w, f"{base}.attn.{stream}_qkv", h).unflatten(-1, (3, heads, -1)).unbind(1)
        for kind, part, norm in zip("qk", parts[:2], norms[stream], strict=True):
            normed = rms(part, w[f"{base}.attn.{norm}.weight"], 1e-6)
            joint[kind].append(rotated(normed, where[stream], axes))
        joint["v"].append(parts[2])
    q, k, v = (torch.cat(joint[kind]) for kind in "qkv")
    shares = (torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
    heard = torch.einsum("hij,jhd->ihd", shares, v).flatten(1)
    lengths = [len(x) for x in streams.values()]
    new = {}
    for (stream, x), part in zip(streams.items(), heard.split(lengths), strict=True):
        _, _, gate, shift, scale, mlp_gate = mods[stream]
        x = x + gate * linear(w, f"{base}.{outs[stream]}", part)
        h = rms(x, w[f"{base}.{stream}_norm2.weight"], 1e-6) * (1 + scale) + shift
        mlp = f"{base}.{stream}_mlp"
        hidden = F.silu(linear(w, f"{mlp}.w1", h)) * linear(w, f"{mlp}.w3", h)
        new[stream] = x + mlp_gate * linear(w, f"{mlp}.w2", hidden)
    return new


# Sampling.


def shifted(levels: Sequence[float], tokens: int) -> list[float]:
    """Noise levels after the time shift, and a final 0."""
    steps = len(levels)
    m200, m10 = 0.00016927 * tokens + 0.45666666, 8.73809524e-05 * tokens + 1.89833333
    mu = m200 if tokens > 4300 else m10 + (m200 - m10) * (steps - 10) / 190
    grown = math.exp(mu)
    return [grown / (grown + (1 / level - 1)) for level in levels] + [0.0]


@dataclass(frozen=True)
class Formula:
    """A checkpoint's weights and configurations, in float64."""

    denoiser: Weights
    denoiser_config: Mapping[str, Any]
    encoder: Weights
    encoder_config: Mapping[str, Any]

    def features(self, ids: Sequence[int], first: int = 97) -> list[Tensor]:
        outputs = encoder_layers(self.encoder, self.encoder_config, ids)
        return [outputs[i][first:] for i in self.denoiser_config["selected_layer_index"]]

    def drawn(
        self,
        noise: Tensor,
        grid: tuple[int, int],
        cond: Sequence[Tensor],
        uncond: Sequence[Tensor] | None,
        guidance: float,
        levels: Sequence[float],
        begin: int = 0,
    ) -> Tensor:
        """Tokens `[h * w, channels]` of one picture; `begin` steps are left out."""
        sigmas, x = shifted(levels, grid[0] * grid[1]), noise.double()
        for now, then in list(pairwise(sigmas))[begin:]:
            v = velocity(self.denoiser, self.denoiser_config, x, cond, now, grid)
            if guidance > 1:
                away = velocity(self.denoiser, self.denoiser_config, x, uncond, now, grid)
                mixed = away + guidance * (v - away)
                v = mixed * v.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True)
            x = x + (then - now) * v
        return x


def even_levels(steps: int) -> list[float]:
    return [float(level) for level in np.linspace(1, 1 / steps, steps)]
