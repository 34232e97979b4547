"""Tensor names of every known file style, and the ways between them.

A known prefix is stripped; then names must match exactly. No torch is needed here.
"""

import re
from collections.abc import Collection, Iterable, Mapping

DENOISER_PREFIXES = (
    "",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "net.",
    "model.",
    "module.",
)
VAE_PREFIXES = ("", "first_stage_model.", "vae.", "model.", "module.")
ENCODER_PREFIXES = (
    "",
    "gpt_oss.transformer.",
    "text_encoders.gpt_oss.transformer.",
    "text_encoder.",
    "module.",
)
BUNDLED_VAE = "first_stage_model."
"""Full fine-tunes may carry the autoencoder in the denoiser's file."""

TOKENIZER = "tokenizer_json"
"""Comfy's text encoder carries the bytes of its tokenizer.json under this name."""

DENOISER_ROOTS = (
    "img_in",
    "norm_out",
    "proj_out",
    "time_text_embed",
    "transformer_blocks",
    "txt_in",
    "txt_norm",
)
VAE_ROOTS = ("bn", "decoder", "encoder", "post_quant_conv", "quant_conv")
ENCODER_ROOTS = ("embed_tokens", "layers", "lm_head", "model", "norm", TOKENIZER)

_LINEAR = ("weight", "bias")
_INDEX = "[0-9]{1,9}"

_OTHER_ADAPTERS = {
    "lora_magnitude_vector": "DoRA",
    "dora_scale": "DoRA",
    "lokr_w": "LoKr",
    "hada_w": "LoHa",
    "oft_": "OFT",
}
"""What tensors' names give adapters away that are no plain LoRAs."""


def find_prefix(names: Iterable[str], prefixes: Iterable[str], roots: Collection[str]) -> str:
    """The prefix after which most names begin with a root; the first of equals."""
    listed = list(names)

    def count(prefix: str) -> int:
        return sum(
            name.startswith(prefix) and name.removeprefix(prefix).split(".", 1)[0] in roots
            for name in listed
        )

    return max(prefixes, key=count)


def repeated(known_as: Mapping[str, str]) -> list[str]:
    """Tensors that a file holds twice under different names; `known_as` maps these to ours."""
    names: dict[str, list[str]] = {}
    for name, known in known_as.items():
        names.setdefault(known, []).append(name)
    return [" and ".join(sorted(same)) for same in names.values() if len(same) > 1]


def strip_denoiser(names: Collection[str]) -> dict[str, str]:
    """Every name without the file's prefix, and with MLX's short modulation names spelled out.

    The autoencoder that a file may carry beside the denoiser is left out.
    """
    prefix = find_prefix(names, DENOISER_PREFIXES, DENOISER_ROOTS)
    return {
        name: re.sub(r"((?:img|txt)_mod)\.(weight|bias)$", r"\1.1.\2", name.removeprefix(prefix))
        for name in names
        if not name.startswith(BUNDLED_VAE)
    }


def denoiser_names(layers: int, text_layers: int) -> set[str]:
    """Names of a denoiser: 1,264 for 48 layers and 4 text layers."""
    linears = ["img_in", "txt_in", "norm_out.linear", "proj_out"]
    linears += [f"time_text_embed.timestep_embedder.linear_{i}" for i in (1, 2)]
    names = {f"{name}.{part}" for name in linears for part in _LINEAR}
    names |= {f"txt_norm.{i}.weight" for i in range(text_layers)}
    block = {f"attn.{norm}.weight" for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k")}
    for linear in ("img_qkv", "txt_qkv", "to_out.0", "to_add_out"):
        block |= {f"attn.{linear}.{part}" for part in _LINEAR}
    for stream in ("img", "txt"):
        block |= {f"{stream}_mod.1.{part}" for part in _LINEAR}
        block |= {f"{stream}_norm{i}.weight" for i in (1, 2)}
        block |= {f"{stream}_mlp.w{i}.weight" for i in (1, 2, 3)}
    return names | {f"transformer_blocks.{i}.{name}" for i in range(layers) for name in block}


def encoder_names(layers: int) -> set[str]:
    """Names of a GPT-OSS without its experts' matrices and its head."""
    block = {"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.sinks"}
    block |= {f"self_attn.{p}_proj.{part}" for p in ("q", "k", "v", "o") for part in _LINEAR}
    block |= {f"mlp.router.{part}" for part in _LINEAR}
    block |= {f"mlp.experts.{matrix}_bias" for matrix in ("gate_up_proj", "down_proj")}
    outside = {"model.embed_tokens.weight", "model.norm.weight"}
    return outside | {f"model.layers.{i}.{name}" for i in range(layers) for name in block}


def vae_names(levels: int, per_level: int) -> set[str]:
    """Names of an autoencoder in the style of diffusers, without shortcuts and batch counter."""
    stems = {"quant_conv", "post_quant_conv"}
    for side, down, count in (("encoder", "down", per_level), ("decoder", "up", per_level + 1)):
        stems |= {f"{side}.{name}" for name in ("conv_in", "conv_norm_out", "conv_out")}
        resnets = {f"{side}.mid_block.resnets.{i}" for i in (0, 1)}
        resnets |= {
            f"{side}.{down}_blocks.{level}.resnets.{i}"
            for level in range(levels)
            for i in range(count)
        }
        stems |= {f"{r}.{part}" for r in resnets for part in ("norm1", "conv1", "norm2", "conv2")}
        attention = f"{side}.mid_block.attentions.0"
        stems |= {f"{attention}.{p}" for p in ("group_norm", "to_q", "to_k", "to_v", "to_out.0")}
        stems |= {
            f"{side}.{down}_blocks.{level}.{down}samplers.0.conv" for level in range(levels - 1)
        }
    return {f"{s}.{part}" for s in stems for part in _LINEAR} | {
        "bn.running_mean",
        "bn.running_var",
    }


def other_adapters(names: Iterable[str]) -> list[str]:
    """The kinds of adapters among tensors that are no plain LoRAs, such as DoRA."""
    text = "\n".join(names)
    return sorted({kind for part, kind in _OTHER_ADAPTERS.items() if part in text})


def count_blocks(names: Iterable[str], stem: str) -> int:
    """One more than the largest index after `stem`, such as `transformer_blocks.`.

    It is not more than there are names, so that a file cannot ask for endless blocks.
    """
    pattern = re.compile(rf"(?:^|\.){re.escape(stem)}({_INDEX})\.")
    listed = list(names)
    indices = (int(found[1]) for name in listed if (found := pattern.search(name)))
    return min(max(indices, default=-1) + 1, len(listed))


def uses_bfl_vae(names: Iterable[str]) -> bool:
    """Whether an autoencoder has Black Forest Labs' names rather than those of diffusers."""
    return any(re.match(r"(encoder|decoder)\.(mid|down|up)\.", name) for name in names)


_BFL_TO_DIFFUSERS = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
    (r"^encoder\.quant_conv\.", "quant_conv."),
    (r"^decoder\.post_quant_conv\.", "post_quant_conv."),
)
_DIFFUSERS_TO_BFL = (
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.", r".up.\1.block."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"^quant_conv\.", "encoder.quant_conv."),
    (r"^post_quant_conv\.", "decoder.post_quant_conv."),
)


def vae_to_diffusers(names: Collection[str]) -> dict[str, str]:
    """From each of Black Forest Labs' names to that of diffusers."""
    levels = count_blocks(names, "up.")
    return {name: _mirror(_rewrite(name, _BFL_TO_DIFFUSERS), "up_blocks", levels) for name in names}


def vae_to_bfl(names: Collection[str]) -> dict[str, str]:
    """From each name of diffusers to Black Forest Labs'."""
    levels = count_blocks(names, "up_blocks.")
    return {name: _mirror(_rewrite(name, _DIFFUSERS_TO_BFL), "up", levels) for name in names}


def _rewrite(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _mirror(name: str, stem: str, levels: int) -> str:
    """Count the decoder's levels from the other end, as the two styles do."""
    return re.sub(
        rf"^decoder\.{stem}\.({_INDEX})\.",
        lambda found: f"decoder.{stem}.{levels - 1 - int(found[1])}.",
        name,
    )


def encoder_from_comfy(names: Collection[str]) -> dict[str, str]:
    """From names without `model.` (experts' biases as `X.bias`) to Hugging Face's.

    Names that are in Hugging Face's style already stay.
    """
    prefix = find_prefix(names, ENCODER_PREFIXES, ENCODER_ROOTS)
    return {name: _encoder_name(name.removeprefix(prefix)) for name in names}


def encoder_to_comfy(name: str) -> str:
    """From Hugging Face's name to Comfy's."""
    name = re.sub(r"(experts\.(?:gate_up|down)_proj)_bias$", r"\1.bias", name)
    return name.removeprefix("model.")


def _encoder_name(name: str) -> str:
    name = re.sub(r"(experts\.(?:gate_up|down)_proj)\.bias$", r"\1_bias", name)
    inner = name.split(".", 1)[0] in ("embed_tokens", "layers", "norm")
    return f"model.{name}" if inner else name


_GGUF_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_GGUF_LAYER = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate_inp": "mlp.router",
}
_GGUF_SINKS = "attn_sinks.weight"


def encoder_from_gguf(name: str) -> str:
    """From llama.cpp's name to Hugging Face's; the experts' split matrices and others stay."""
    if name in _GGUF_OUTSIDE:
        return _GGUF_OUTSIDE[name]
    found = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    if found is None:
        return name
    layer, inner = found[1], found[2]
    stem, _, part = inner.rpartition(".")
    if inner in (_GGUF_SINKS, _GGUF_SINKS.removesuffix(".weight")):
        return f"model.layers.{layer}.self_attn.sinks"
    return f"model.layers.{layer}.{_GGUF_LAYER[stem]}.{part}" if stem in _GGUF_LAYER else name


def encoder_to_gguf(name: str) -> str:
    """From Hugging Face's name to llama.cpp's; the experts' matrices stay."""
    outside = {theirs: ours for ours, theirs in _GGUF_OUTSIDE.items()}
    if name in outside:
        return outside[name]
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
    if found is None:
        return name
    stem, _, part = found[2].rpartition(".")
    if found[2] == "self_attn.sinks":
        return f"blk.{found[1]}.{_GGUF_SINKS}"
    inside: Mapping[str, str] = {theirs: ours for ours, theirs in _GGUF_LAYER.items()}
    return f"blk.{found[1]}.{inside[stem]}.{part}" if stem in inside else name
