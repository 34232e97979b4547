"""The discriminator: small convolutional heads on image tokens of the frozen teacher."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lens_core.errors import ParameterError
from lens_core.text_features import TextFeatures
from lens_core.training.fields import denoiser_inputs
from lens_core.transformer import LensTransformer2DModel, LensTransformerBlock


class Teacher(nn.Module):
    """A frozen denoiser that also tells its image tokens after some blocks.

    One module for both, on the same blocks: where it is sharded, it gathers its weights whichever
    is asked for.

    Args:
        model: The denoiser; called like it, the teacher answers like it.
        taps: Blocks, counted from 0, in rising order.

    Raises:
        ParameterError: A block the denoiser does not have.
    """

    def __init__(self, model: LensTransformer2DModel, taps: Sequence[int]) -> None:
        super().__init__()
        blocks = len(model.transformer_blocks)
        if not taps or sorted(set(taps)) != list(taps) or taps[0] < 0 or taps[-1] >= blocks:
            raise ParameterError(
                f"taps {tuple(taps)} must be rising numbers of blocks from 0 to {blocks - 1}"
            )
        self.width = int(model.config.inner_dim)
        self.model = model.requires_grad_(False)
        self._trunk = _trunk(model, taps[-1] + 1)
        self._taps = tuple(taps)

    @property
    def blocks(self) -> list[LensTransformerBlock]:
        """The transformer blocks."""
        return cast(list[LensTransformerBlock], list(self.model.transformer_blocks))

    def forward(self, *inputs: Any, tapped: bool = False) -> tuple[Tensor, ...]:
        """Velocity; or, if tapped, the image tokens `[B, N, width]` after every tap.

        The tokens are computed no further than the last tap, with gradient to the latents.
        """
        if not tapped:
            velocity: tuple[Tensor, ...] = self.model(*inputs)
            return velocity
        captured: list[Tensor] = []
        hooks = [
            self.blocks[tap].register_forward_hook(lambda *call: captured.append(call[2][0]))
            for tap in self._taps
        ]
        try:
            self._trunk(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(captured)


def feature_maps(
    teacher: Teacher,
    noisy: Tensor,
    timesteps: Tensor,
    text: TextFeatures | None,
    grid: tuple[int, int],
    dtype: torch.dtype,
) -> list[Tensor]:
    """Float32 maps `[B, width, height, width in tokens]` of the teacher's tokens, one per tap."""
    tokens = teacher(*denoiser_inputs(noisy, timesteps, text, grid, dtype), tapped=True)
    return [
        part.float().transpose(1, 2).reshape(len(part), teacher.width, *grid) for part in tokens
    ]


class Discriminator(nn.Module):
    """One head per tap: a strided convolution, a norm, a logit per place, their mean.

    Args:
        width: Channels of the features.
        taps: Number of heads.
    """

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        half = width // 2
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, half, kernel_size=4, stride=2, padding=1),
                nn.GroupNorm(math.gcd(32, half), half),
                nn.LeakyReLU(0.2),
                nn.Conv2d(half, 1, kernel_size=1),
            )
            for _ in range(taps)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits `[B, taps]`; the mean over places makes them independent of the size."""
        logits = [
            head(part).mean(dim=(1, 2, 3)) for head, part in zip(self.heads, maps, strict=True)
        ]
        return torch.stack(logits, dim=1)


def _trunk(model: LensTransformer2DModel, blocks: int) -> LensTransformer2DModel:
    """The denoiser cut after some blocks, made of the same modules."""
    config = {**model.config, "num_layers": blocks}
    with torch.device("meta"):
        trunk: LensTransformer2DModel = LensTransformer2DModel.from_config(config)
    for name, part in model.named_children():
        setattr(trunk, name, part)
    trunk.transformer_blocks = nn.ModuleList(list(model.transformer_blocks)[:blocks])
    return trunk
