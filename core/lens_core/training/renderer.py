"""The frozen parts around the denoiser: prompts to features, latents to pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lens_core.chat import DEFAULT_DATE, MAX_SEQUENCE_LENGTH
from lens_core.conditioning import TextConditioner
from lens_core.errors import ComponentError
from lens_core.pipeline import LensPipeline
from lens_core.sampling import compute_mu, shifted_sigmas
from lens_core.text_features import TextFeatures
from lens_core.training.config import Size


@dataclass(frozen=True)
class Renderer:
    """Everything but the denoiser of a pipeline.

    Attributes:
        pipeline: Its denoiser only says which encoder layers are wanted.
        device: Where to compute.
    """

    pipeline: LensPipeline
    device: torch.device

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> TextFeatures:
        """Features of prompts, one row each.

        Raises:
            ComponentError: The pipeline has no text encoder.
        """
        conditioner = TextConditioner(
            self.pipeline.transformer,
            self.pipeline.text_encoder,
            self.pipeline.tokenizer,
            self.device,
        )
        return conditioner.encode(list(texts), DEFAULT_DATE, MAX_SEQUENCE_LENGTH)

    def grid(self, size: Size) -> tuple[int, int]:
        """Height and width in tokens of a picture size in pixels.

        Raises:
            ComponentError: A side that is not a multiple of a token's.
        """
        multiple = self.pipeline.size_multiple
        if any(side % multiple for side in size):
            raise ComponentError(f"size {size} must be two multiples of {multiple}")
        return size[0] // multiple, size[1] // multiple

    def sigmas(self, size: Size, levels: np.ndarray) -> list[float]:
        """Noise levels of inference at a picture size, from 1 down, and a final 0.

        Args:
            size: Picture size in pixels.
            levels: Before the time shift, one per step.
        """
        height, width = self.grid(size)
        shifted: list[float] = shifted_sigmas(
            levels, compute_mu(height * width, len(levels))
        ).tolist()
        return shifted

    def noise(self, size: Size, generators: Sequence[torch.Generator]) -> Tensor:
        """Noise tokens `[B, N, C]`, a row from each generator."""
        height, width = self.grid(size)
        shape = (height * width, int(self.pipeline.transformer.config.in_channels))
        rows = [torch.randn(shape, generator=generator) for generator in generators]
        return torch.stack(rows).to(self.device)

    @torch.no_grad()
    def pictures(self, latents: Tensor, size: Size) -> list[Image.Image]:
        """Pictures of normalised tokens `[B, N, C]`; NaN and infinity become black."""
        pixels = self.pipeline.decode(latents.nan_to_num(), *size).permute(0, 2, 3, 1)
        rounded = (pixels.nan_to_num() * 255).round().to(torch.uint8).cpu().numpy()
        return [Image.fromarray(picture) for picture in rounded]
