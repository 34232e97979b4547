"""The Lens denoiser: a double-stream multimodal diffusion transformer (arXiv 2605.21573).

Time runs from data to noise: at sigma 0 the latents are data, at sigma 1 they are noise, and the
model predicts the velocity `noise - data`. Module names are the released checkpoint's tensor names.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormContinuous
from torch import Tensor, nn

from lens_core.branch import Branch, BranchCache
from lens_core.checkpoint_files import check_shapes, read_config, read_shapes, refuse_float16
from lens_core.errors import CheckpointError, ComponentError, ParameterError, PrecisionError
from lens_core.modulation import ModulationTable, ModulationTableMixin
from lens_core.rotary import Rotary, apply_rotary, image_positions, rotary_table, text_positions

Joint = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values `[B, tokens, heads, head_dim]`."""

JointProjection = Callable[
    ["LensAttention", Tensor, Tensor | None, Rotary, Rotary | None],
    Joint,
]
"""Makes the joint queries, keys and values of both streams; `project_jointly` or faster."""


class SwiGLU(nn.Module):
    """`w2(silu(w1 x) * w3 x)` without biases, hidden size `int(dim / 3 * 8)`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = int(dim / 3 * 8)
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., dim]` to `[..., dim]`."""
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


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


class LensTransformer2DModel(
    ModulationTableMixin,
    ModelMixin,  # type: ignore[misc]
    ConfigMixin,  # type: ignore[misc]
    PeftAdapterMixin,  # type: ignore[misc]
):
    """Predicts the velocity of image tokens given text features and time.

    The defaults are the released 3.8B configuration: 4,104,225,152 parameters in 1,264 tensors.

    Args:
        patch_size: Side of the latent patch folded into one token.
        in_channels: Channels of an image token, `out_channels * patch_size ** 2`.
        out_channels: Channels of the VAE's latents.
        num_layers: Number of double-stream blocks.
        attention_head_dim: Channels of one head; the sum of `axes_dims_rope`.
        num_attention_heads: Number of heads.
        inner_dim: Model width, `num_attention_heads * attention_head_dim`.
        enc_hidden_dim: Width of one text feature tensor.
        axes_dims_rope: Rotary channels of the frame, row and column axes.
        gate_mlp: SwiGLU MLPs; the only released form.
        rms_norm: RMS instead of layer normalisation; the only released form.
        multi_layer_encoder_feature: Several encoder layers, concatenated; the only released form.
        selected_layer_index: Encoder layers (from 0) whose raw outputs are the text features.

    Raises:
        ComponentError: The arguments contradict each other or ask for a form never released.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["LensTransformerBlock"]  # noqa: RUF012
    _repeated_blocks = ["LensTransformerBlock"]  # noqa: RUF012

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        patch_size: int = 2,
        in_channels: int = 128,
        out_channels: int = 32,
        num_layers: int = 48,
        attention_head_dim: int = 64,
        num_attention_heads: int = 24,
        inner_dim: int = 1536,
        enc_hidden_dim: int = 2880,
        axes_dims_rope: Sequence[int] = (8, 28, 28),
        gate_mlp: bool = True,
        rms_norm: bool = True,
        multi_layer_encoder_feature: bool = True,
        selected_layer_index: Sequence[int] = (5, 11, 17, 23),
    ) -> None:
        super().__init__()
        _check_config(dict(self.config))
        self.txt_norm = nn.ModuleList(
            nn.RMSNorm(enc_hidden_dim, eps=1e-5) for _ in selected_layer_index
        )
        self.img_in = nn.Linear(in_channels, inner_dim)
        self.txt_in = nn.Linear(enc_hidden_dim * len(selected_layer_index), inner_dim)
        self.time_text_embed = LensTimeEmbedding(inner_dim)
        self.transformer_blocks = nn.ModuleList(
            LensTransformerBlock(inner_dim, num_attention_heads, attention_head_dim)
            for _ in range(num_layers)
        )
        self.norm_out = AdaLayerNormContinuous(
            inner_dim, inner_dim, elementwise_affine=False, eps=1e-6
        )
        self.proj_out = nn.Linear(inner_dim, out_channels * patch_size**2)
        self.gradient_checkpointing = False
        self.modulation_table: ModulationTable | None = None
        self.reuses_branches = True

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Sequence[Tensor] | None,
        encoder_hidden_states_mask: Tensor | None,
        timestep: Tensor,
        img_shapes: Sequence[tuple[int, int, int]],
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        branch_cache: BranchCache | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Velocity of the image tokens.

        Args:
            hidden_states: Image tokens `[B, h * w, in_channels]`, row-major.
            encoder_hidden_states: One `[B, S, enc_hidden_dim]` tensor per selected layer. None (or
                S = 0) runs without text: the same function as a mask that is False everywhere.
            encoder_hidden_states_mask: `[B, S]`, True where a text token counts. None means all.
            timestep: `[B]` in [0, 1]; 1 is noise.
            img_shapes: `[(1, h, w)]` in tokens, shared by the batch.
            return_dict: Return an object with `.sample` rather than a tuple.
            attention_kwargs: Accepted for the ecosystem's sake; `scale` is the LoRA scale.
            branch_cache: Given at every step of a generation, keeps what the text and the size
                alone decide: the projected text, the rotary tables and the mask.

        Returns:
            Velocity `[B, h * w, in_channels]`.

        Raises:
            ParameterError: Shapes that do not fit each other.
            PrecisionError: float16 input; Lens overflows it.
        """
        frames, height, width = img_shapes[0]
        self._check_inputs(hidden_states, encoder_hidden_states, frames * height * width)
        branch = self._branch(
            encoder_hidden_states,
            encoder_hidden_states_mask,
            (height, width),
            hidden_states.device,
            branch_cache,
        )
        image, text = self.img_in(hidden_states), branch.text
        temb = self.time_text_embed(timestep, hidden_states.dtype)
        table = self.modulation_table
        times = [temb] * len(self.transformer_blocks) if table is None else table(timestep)
        last = len(self.transformer_blocks) - 1
        for index, block in enumerate(self.transformer_blocks):
            rotaries = branch.image_rotary, branch.text_rotary
            arguments = (image, text, times[index], *rotaries, branch.mask, index < last)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                image, text = self._gradient_checkpointing_func(block, *arguments)
            else:
                image, text = block(*arguments)
        sample = self.proj_out(self.norm_out(image, temb))
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Load a folder in the diffusers layout, name by name.

        diffusers alone would fill missing tensors with random numbers and only log it.

        Args:
            pretrained_model_name_or_path: A folder or a hub repository.
            **kwargs: As in diffusers: `subfolder`, `torch_dtype`, `device_map` and so on.

        Raises:
            CheckpointError: Tensors are missing, unexpected or of another shape; no safetensors.
            PrecisionError: float16 was asked for.
        """
        refuse_float16(kwargs.get("torch_dtype", kwargs.get("dtype")), "the requested dtype")
        if not kwargs.pop("use_safetensors", True):
            raise CheckpointError("use_safetensors=False would read a pickle; Lens never does")
        wants_report = kwargs.pop("output_loading_info", False)
        source = Path(pretrained_model_name_or_path)
        folder = Path(source, kwargs.get("subfolder") or "")
        if not folder.is_dir() and (folder.is_absolute() or source.is_dir()):
            raise CheckpointError(f"{folder} is not there; a checkpoint has a folder for each part")
        if folder.is_dir() and kwargs.get("variant") is None:
            with torch.device("meta"):
                expected = cls.from_config(read_config(folder)).state_dict()
            check_shapes(folder, read_shapes(folder, "diffusion_pytorch_model"), expected)
        model, report = super().from_pretrained(
            pretrained_model_name_or_path,
            use_safetensors=True,
            output_loading_info=True,
            **kwargs,
        )
        if any(report.values()):
            raise CheckpointError(f"{folder}: not every tensor was loaded: {report}")
        return (model, report) if wants_report else model

    def _check_inputs(self, image: Tensor, features: Sequence[Tensor] | None, tokens: int) -> None:
        if image.dtype == torch.float16:
            raise PrecisionError(
                "float16 overflows in Lens (values reach 139,000, the format ends at 65,504): "
                "use torch.bfloat16 or torch.float32"
            )
        if image.ndim != 3 or image.shape[1:] != (tokens, self.config.in_channels):
            raise ParameterError(
                f"hidden_states has shape {tuple(image.shape)}, but img_shapes asks for "
                f"[batch, {tokens}, {self.config.in_channels}]"
            )
        if features is not None and len(features) != len(self.txt_norm):
            raise ParameterError(
                f"encoder_hidden_states has {len(features)} tensors; this model reads "
                f"{len(self.txt_norm)} encoder layers {tuple(self.config.selected_layer_index)}"
            )

    def _branch(
        self,
        features: Sequence[Tensor] | None,
        mask: Tensor | None,
        grid: tuple[int, int],
        device: torch.device,
        cache: BranchCache | None,
    ) -> Branch:
        """The constants of a branch, from the cache if there is one."""

        def build() -> Branch:
            axes = self.config.axes_dims_rope
            image = rotary_table(image_positions(*grid, device), axes)
            text, keys = self._embed_text(features, mask, grid[0] * grid[1])
            if text is None:
                return Branch(None, None, image, None)
            positions = text_positions(text.shape[1], *grid, device)
            return Branch(text, keys, image, rotary_table(positions, axes))

        if cache is None or not self.reuses_branches:
            return build()
        return cache.get(features, mask, grid, build)

    def _embed_text(
        self, features: Sequence[Tensor] | None, mask: Tensor | None, image_tokens: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Text tokens `[B, S, dim]` and the joint key mask, None where nothing is masked out."""
        if features is None or features[0].shape[1] == 0:
            return None, None
        if mask is not None and not mask.any():
            return None, None
        normed = [norm(part) for norm, part in zip(self.txt_norm, features, strict=True)]
        text = self.txt_in(torch.cat(normed, dim=-1))
        if mask is None or mask.all():
            return text, None
        keys = F.pad(mask.bool(), (image_tokens, 0), value=True)
        return text, keys[:, None, None, :]


def _check_config(config: dict[str, Any]) -> None:
    head_dim, heads = config["attention_head_dim"], config["num_attention_heads"]
    if config["inner_dim"] != head_dim * heads:
        raise ComponentError(
            f"inner_dim {config['inner_dim']} must equal num_attention_heads {heads} x "
            f"attention_head_dim {head_dim}"
        )
    axes = tuple(config["axes_dims_rope"])
    if sum(axes) != head_dim or len(axes) != 3 or any(dim % 2 for dim in axes):
        raise ComponentError(
            f"axes_dims_rope {axes} must be three even numbers adding up to "
            f"attention_head_dim {head_dim}"
        )
    if config["in_channels"] != config["out_channels"] * config["patch_size"] ** 2:
        raise ComponentError(
            f"in_channels {config['in_channels']} must equal out_channels "
            f"{config['out_channels']} x patch_size {config['patch_size']} squared"
        )
    for name in ("gate_mlp", "rms_norm", "multi_layer_encoder_feature"):
        if not config[name]:
            raise ComponentError(f"{name}=False was never released and is not supported")
