"""The Lens denoiser: a double-stream multimodal diffusion transformer (arXiv 2605.21573).

Time runs from data to noise: at sigma 0 the latents are data, at sigma 1 they are noise, and the
model predicts the velocity `noise - data`. Module names are the released checkpoint's tensor names.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormContinuous
from torch import Tensor, nn

from lens_core.blocks import LensTimeEmbedding, LensTransformerBlock
from lens_core.branch import Branch, BranchCache
from lens_core.checkpoint_files import (
    check_stored,
    read_config,
    read_headers,
    refuse_float16,
    refuse_float16_autocast,
)
from lens_core.checkpoints.configs import config_errors
from lens_core.checkpoints.hub import fetched_folder
from lens_core.checkpoints.lora_state import LoraState
from lens_core.diffusers_mixin import DiffusersMixin
from lens_core.errors import CheckpointError, ComponentError, ParameterError, PrecisionError
from lens_core.modulation import ModulationTable, ModulationTableMixin
from lens_core.prediction import Prediction, predict_plainly
from lens_core.rotary import image_positions, rotary_table, text_positions

__all__ = ["LensTransformer2DModel", "LensTransformerBlock"]


class LensTransformer2DModel(
    ModulationTableMixin,
    DiffusersMixin,
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
        self.predict: Prediction = predict_plainly
        self.lora_state = LoraState()

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
        """Predict the velocity of the image tokens.

        Args:
            hidden_states: Image tokens `[B, h * w, in_channels]`, row-major.
            encoder_hidden_states: One `[B, S, enc_hidden_dim]` tensor per selected layer. None (or
                S = 0) runs without text: the same function as a mask that is False everywhere.
            encoder_hidden_states_mask: `[B, S]`, True where a text token counts. None means all.
            timestep: `[B]` in [0, 1]; 1 is noise.
            img_shapes: `[(1, h, w)]` in tokens, shared by the batch; or the same for each row.
            return_dict: Return an object with `.sample` rather than a tuple.
            attention_kwargs: Accepted for compatibility with diffusers; must be empty. LoRA weights
                are set with the pipeline's `set_adapters`.
            branch_cache: Give the same one at every step of a generation to compute only once what
                the text and the size alone decide: projected text, rotary tables and mask.

        Returns:
            Velocity `[B, h * w, in_channels]`.

        Raises:
            ParameterError: Shapes that do not fit each other, or `attention_kwargs`.
            PrecisionError: float16 input or autocast; Lens overflows it.
        """
        if attention_kwargs:
            raise ParameterError(
                f"attention_kwargs {attention_kwargs!r} would have no effect; set_adapters() "
                "of the pipeline sets the weights of LoRAs"
            )
        height, width = _shared_grid(img_shapes)
        self._check_image(hidden_states, height * width)
        self._check_text(encoder_hidden_states, encoder_hidden_states_mask, len(hidden_states))
        branch = self._branch(
            encoder_hidden_states,
            encoder_hidden_states_mask,
            (height, width),
            hidden_states.device,
            branch_cache,
        )
        table = self.modulation_table
        modulations = None if table is None else table(timestep)
        sample = self.predict(self, hidden_states, timestep, modulations, branch)
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
            CheckpointError: Tensors are missing, unexpected, of another shape or kind; no
                safetensors; a repository that cannot be had.
            PrecisionError: float16 was asked for.
        """
        refuse_float16(kwargs.get("torch_dtype", kwargs.get("dtype")), "the requested dtype")
        if not kwargs.pop("use_safetensors", True):
            raise CheckpointError("use_safetensors=False would read a pickle; Lens never does")
        wants_report = kwargs.pop("output_loading_info", False)
        folder = fetched_folder(Path(pretrained_model_name_or_path), kwargs)
        config = read_config(folder)
        with config_errors(folder, "Lens"), torch.device("meta"):
            expected = cls.from_config(config).state_dict()
        stored = read_headers(folder, "diffusion_pytorch_model", kwargs.get("variant"))
        check_stored(folder, stored, expected)
        model, report = super().from_pretrained(
            folder,
            use_safetensors=True,
            output_loading_info=True,
            **kwargs,
        )
        if any(report.values()):
            raise CheckpointError(f"{folder}: not every tensor was loaded: {report}")
        return (model, report) if wants_report else model

    def _check_image(self, image: Tensor, tokens: int) -> None:
        refuse_float16_autocast(image.device)
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

    def _check_text(
        self, features: Sequence[Tensor] | None, mask: Tensor | None, batch: int
    ) -> None:
        if features is None:
            return
        if len(features) != len(self.txt_norm):
            raise ParameterError(
                f"encoder_hidden_states has {len(features)} tensors; this model reads "
                f"{len(self.txt_norm)} encoder layers {tuple(self.config.selected_layer_index)}"
            )
        shapes = {tuple(part.shape) for part in features}
        tokens = features[0].shape[1]
        if shapes != {(batch, tokens, self.config.enc_hidden_dim)}:
            raise ParameterError(
                f"encoder_hidden_states has shapes {sorted(shapes)}; this call needs one of "
                f"[{batch}, tokens, {self.config.enc_hidden_dim}]"
            )
        if mask is not None and tuple(mask.shape) != (batch, tokens):
            raise ParameterError(
                f"encoder_hidden_states_mask has shape {tuple(mask.shape)}; the text has "
                f"[{batch}, {tokens}]"
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


def _shared_grid(img_shapes: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """Height and width in tokens of every picture of a batch."""
    shapes = {tuple(shape) for shape in img_shapes}
    if len(shapes) != 1 or any(len(shape) != 3 or shape[0] != 1 for shape in shapes):
        raise ParameterError(
            f"img_shapes {list(img_shapes)} must be (1, height, width) in tokens, the same for all "
            "pictures of a batch; run pictures of other sizes apart"
        )
    return img_shapes[0][1:]


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
