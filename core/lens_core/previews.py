"""Fast previews of latents with a linear map from tokens to colours.

Decoding takes as long as a step. The map takes no measurable time and shows shapes and colours at a
quarter of the size. It is fitted to each autoencoder by least squares.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKLFlux2
from PIL import Image
from torch import Tensor

from lens_core.checkpoint_files import read_json
from lens_core.errors import CheckpointError, ParameterError
from lens_core.latents import check_grid, decode_tokens
from lens_core.memory.placements import working_device

FILE_NAME = "preview_map.json"
"""File name, in the checkpoint's `vae` folder."""

CELL = 4
"""Preview pixels per token side: a quarter of the image's size at 16 pixels per token."""

_RIDGE = 1e-4
_FIT_GRID = 8
_FIT_PICTURES = 12
_TOKENS_PER_CHANNEL = 10


@dataclass(frozen=True)
class PreviewMap:
    """A linear map from normalised tokens to colours, one square cell of pixels per token.

    Attributes:
        weight: Float32 `[channels, cell * cell * 3]`, colours in [0, 1], row by row.
        bias: Float32 `[cell * cell * 3]`.
    """

    weight: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        outputs, cell = self.bias.numel(), self.cell
        if self.weight.ndim != 2 or self.weight.shape[1] != outputs or 3 * cell**2 != outputs:
            raise ParameterError(
                f"a preview map of weight {tuple(self.weight.shape)} and bias "
                f"{tuple(self.bias.shape)} does not give square cells of three colours"
            )

    @property
    def cell(self) -> int:
        """Preview pixels per token side."""
        return round(math.sqrt(self.bias.numel() / 3))

    def pixels(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Map tokens to pixels.

        Args:
            tokens: Normalised, `[B, height * width, channels]`.
            height: Height in tokens.
            width: Width in tokens.

        Returns:
            Float32 `[B, 3, height * cell, width * cell]` in [0, 1].

        Raises:
            ParameterError: The number of tokens is not `height * width`.
        """
        check_grid(tokens, height, width)
        colours = tokens.float() @ self.weight.to(tokens.device) + self.bias.to(tokens.device)
        cells = colours.reshape(len(tokens), height, width, self.cell, self.cell, 3)
        return cells.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3).clamp(0, 1)

    def pictures(self, tokens: Tensor, height: int, width: int) -> list[Image.Image]:
        """Map tokens to PIL images; see `pixels`."""
        rows = (self.pixels(tokens, height, width) * 255).round().to(torch.uint8)
        return [Image.fromarray(row) for row in rows.permute(0, 2, 3, 1).cpu().numpy()]

    @classmethod
    def fitted(cls, tokens: Tensor, pixels: Tensor, cell: int = CELL) -> Self:
        """Fit a map to known images by least squares.

        Args:
            tokens: Normalised, `[B, h, w, channels]`.
            pixels: Their images, `[B, 3, H, W]` in [0, 1]; H and W are multiples of h and w.
            cell: Preview pixels per token side.

        Raises:
            ParameterError: There are too few tokens for the number of channels.
        """
        batch, height, width, channels = tokens.shape
        small = torch.nn.functional.adaptive_avg_pool2d(
            pixels.float().cpu(), (height * cell, width * cell)
        )
        cells = small.reshape(batch, 3, height, cell, width, cell).permute(0, 2, 4, 3, 5, 1)
        targets = cells.reshape(-1, cell * cell * 3).double()
        inputs = tokens.float().cpu().reshape(-1, channels).double()
        if len(inputs) <= channels:
            raise ParameterError(f"{len(inputs)} tokens are too few to fit {channels} channels")
        mean, middle = inputs.mean(0), targets.mean(0)
        centred = inputs - mean
        # Without some ridge regularisation, channels that never vary could take any value.
        gram = centred.T @ centred / len(inputs) + _RIDGE * torch.eye(channels).double()
        weight = torch.linalg.solve(gram, centred.T @ (targets - middle) / len(inputs))
        return cls(weight.float(), (middle - mean @ weight).float())

    def save(self, path: Path) -> None:
        """Write the map as JSON."""
        values = {
            "weight": [[round(x, 6) for x in row] for row in self.weight.tolist()],
            "bias": [round(x, 6) for x in self.bias.tolist()],
        }
        path.write_text(json.dumps(values) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a map written by `save`.

        Raises:
            CheckpointError: The file is not a valid preview map.
        """
        values: dict[str, Any] = read_json(path)
        try:
            return cls(torch.tensor(values["weight"]), torch.tensor(values["bias"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not a preview map: {error}") from error


def find_preview_map(checkpoint: str | Path) -> PreviewMap | None:
    """Load the map from a checkpoint folder, if it has one."""
    path = Path(checkpoint) / "vae" / FILE_NAME
    return PreviewMap.load(path) if path.is_file() else None


@torch.no_grad()
def fit_preview_map(
    vae: AutoencoderKLFlux2, seed: int = 0, device: torch.device | None = None
) -> PreviewMap:
    """Fit a map to an autoencoder by decoding random latents.

    The latents vary slowly from token to token, like those of real images. With the FLUX.2
    autoencoder this decodes 20 images of 128 x 128 pixels, a third of the work of decoding one of
    1024 x 1024.

    Args:
        vae: The autoencoder.
        seed: Seed of the latents.
        device: Where to compute, if the autoencoder is moved there only for each call.
    """
    generator = torch.Generator().manual_seed(seed)
    channels = vae.bn.num_features
    tokens, pixels = [], []
    for _ in range(max(_FIT_PICTURES, _TOKENS_PER_CHANNEL * channels // _FIT_GRID**2)):
        smooth = _smooth_noise(channels, generator)
        decoded = decode_tokens(smooth.to(working_device(vae)), vae, _FIT_GRID, _FIT_GRID)
        tokens.append(smooth.reshape(1, _FIT_GRID, _FIT_GRID, channels))
        pixels.append((decoded / 2 + 0.5).clamp(0, 1).cpu())
    return PreviewMap.fitted(torch.cat(tokens), torch.cat(pixels))


def _smooth_noise(channels: int, generator: torch.Generator) -> Tensor:
    """Sum noise at several scales into tokens `[1, 64, channels]` of unit variance."""
    total = torch.zeros(1, channels, _FIT_GRID, _FIT_GRID)
    for side in (1, 2, 4, _FIT_GRID):
        noise = torch.randn(1, channels, side, side, generator=generator)
        total += torch.nn.functional.interpolate(noise, size=_FIT_GRID, mode="nearest") / 2
    return total.flatten(2).transpose(1, 2)
