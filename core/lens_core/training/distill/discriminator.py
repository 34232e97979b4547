"""The discriminator: small convolutional heads on image tokens of the frozen teacher."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lens_core.errors import ParameterError
from lens_core.text_features import TextFeatures
from lens_core.training.fields import LensField
from lens_core.transformer import LensTransformer2DModel


class TeacherFeatures:
    """Image tokens after some blocks of a teacher, computed no further than the last of them.

    Args:
        teacher: Frozen; its weights are shared, not copied.
        taps: Blocks, counted from 0, in rising order.

    Raises:
        ParameterError: A block the teacher does not have.
    """

    def __init__(self, teacher: LensTransformer2DModel, taps: Sequence[int]) -> None:
        blocks = len(teacher.transformer_blocks)
        if not taps or sorted(set(taps)) != list(taps) or taps[0] < 0 or taps[-1] >= blocks:
            raise ParameterError(
                f"taps {tuple(taps)} must be rising numbers of blocks from 0 to {blocks - 1}"
            )
        self.width = int(teacher.config.inner_dim)
        self._trunk = _trunk(teacher, taps[-1] + 1)
        self._captured: list[Tensor] = []
        for tap in taps:
            self._trunk.transformer_blocks[tap].register_forward_hook(
                lambda module, inputs, output: self._captured.append(output[0])
            )

    def __call__(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextFeatures | None,
        grid: tuple[int, int],
        dtype: torch.dtype,
    ) -> list[Tensor]:
        """Float32 maps `[B, width, height, width in tokens]`, one per tap."""
        self._captured.clear()
        LensField(self._trunk, grid, dtype)(noisy, timesteps, text)
        maps = [
            tokens.float().transpose(1, 2).reshape(len(tokens), -1, *grid)
            for tokens in self._captured
        ]
        self._captured.clear()
        return maps


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


def _trunk(teacher: LensTransformer2DModel, blocks: int) -> LensTransformer2DModel:
    """The teacher cut after some blocks, on the same weights."""
    config = {**teacher.config, "num_layers": blocks}
    with torch.device("meta"):
        trunk: LensTransformer2DModel = LensTransformer2DModel.from_config(config)
    weights = teacher.state_dict()
    trunk.load_state_dict({name: weights[name] for name in trunk.state_dict()}, assign=True)
    trunk.requires_grad_(False)
    return trunk
