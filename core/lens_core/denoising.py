"""Two ways to ask the denoiser for a guided velocity: exactly, or as the published code does."""

from typing import Protocol

import torch
from torch import Tensor

from lens_core.branch import BranchCache
from lens_core.sampling import guide
from lens_core.text_features import TextFeatures, TextGroup
from lens_core.transformer import LensTransformer2DModel


class Denoiser(Protocol):
    """Gives the guided velocity of latents at a time.

    Attributes:
        latents_dtype: Precision in which noise is drawn and latents are kept between steps.
        guidance_scale: Of the steps to come; may be set between two.
    """

    latents_dtype: torch.dtype
    guidance_scale: float

    def prepare(self, timesteps: Tensor) -> None:
        """Told which timesteps come, `[T]`, the scheduler's: first, and when LoRAs changed."""
        ...

    def velocity(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Guided velocity.

        Args:
            latents: Tokens `[B, h * w, channels]` in `latents_dtype`.
            timestep: The scheduler's, a scalar from 0 to 1000.

        Returns:
            `[B, h * w, channels]` in `latents_dtype`.
        """
        ...

    def pixels_to_bytes(self, pixels: Tensor) -> Tensor:
        """Turn pixels in [0, 1] into 8 bits."""
        ...


class ExactDenoiser:
    """Latents and time in float32; every text on its exact length, so there is never a mask.

    Args:
        transformer: The denoiser, in any precision.
        cond: Features of the prompts.
        uncond: Features of the negative prompts; None runs that branch without text.
        guidance_scale: At 1 only the conditional branch is run.
        grid: (height, width) in tokens.
    """

    latents_dtype = torch.float32

    def __init__(
        self,
        transformer: LensTransformer2DModel,
        cond: TextFeatures,
        uncond: TextFeatures | None,
        guidance_scale: float,
        grid: tuple[int, int],
    ) -> None:
        self._transformer = transformer
        self._shape = (1, *grid)
        self.guidance_scale = guidance_scale
        self._cond = _with_caches(cond.groups())
        everything = torch.arange(cond.batch, device=cond.embeds.device)
        self._uncond = _with_caches(
            [TextGroup(everything, None)] if uncond is None else uncond.groups()
        )

    def prepare(self, timesteps: Tensor) -> None:
        """Let the transformer tabulate its modulations, if it does; see `Denoiser`."""
        self._transformer.follow_schedule(timesteps / 1000)
        self._cond, self._uncond = (
            _with_caches([group for group, _ in branch]) for branch in (self._cond, self._uncond)
        )

    def velocity(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Guided velocity in float32; see `Denoiser`."""
        time = (timestep / 1000).expand(len(latents))
        cond = self._branch(self._cond, latents, time)
        if self.guidance_scale == 1:
            return cond
        return guide(cond, self._branch(self._uncond, latents, time), self.guidance_scale)

    def pixels_to_bytes(self, pixels: Tensor) -> Tensor:
        """Round pixels in [0, 1] to 8 bits."""
        return (pixels.float() * 255).round().to(torch.uint8)

    def _branch(
        self, groups: list[tuple[TextGroup, BranchCache]], latents: Tensor, time: Tensor
    ) -> Tensor:
        velocity = torch.empty_like(latents)
        for group, cache in groups:
            velocity[group.rows] = self._transformer(
                hidden_states=latents[group.rows].to(self._transformer.dtype),
                encoder_hidden_states=group.layers,
                encoder_hidden_states_mask=None,
                timestep=time[group.rows],
                img_shapes=[self._shape],
                return_dict=False,
                branch_cache=cache,
            )[0].float()
        return velocity


def _with_caches(groups: list[TextGroup]) -> list[tuple[TextGroup, BranchCache]]:
    return [(group, BranchCache()) for group in groups]


class ReferenceDenoiser:
    """The published code's choices of rounding and batching, for comparison.

    Noise and latents are in the transformer's dtype, the time is rounded to it twice, both
    branches always run as one batch under a mask, and pixels are truncated to 8 bits.

    Args:
        transformer: The denoiser.
        cond: Features of the prompts.
        uncond: Features of the negative prompts; None stands for zero features, masked out.
        guidance_scale: Weight of the difference between the branches.
        grid: (height, width) in tokens.
    """

    def __init__(
        self,
        transformer: LensTransformer2DModel,
        cond: TextFeatures,
        uncond: TextFeatures | None,
        guidance_scale: float,
        grid: tuple[int, int],
    ) -> None:
        self.latents_dtype = transformer.dtype
        self._transformer = transformer
        self._shape = (1, *grid)
        self.guidance_scale = guidance_scale
        uncond = cond.zeros_like() if uncond is None else uncond
        tokens = max(cond.embeds.shape[2], uncond.embeds.shape[2])
        cond, uncond = cond.padded(tokens), uncond.padded(tokens)
        self._layers = list(torch.cat((cond.embeds, uncond.embeds), dim=1).unbind(0))
        self._mask = torch.cat((cond.mask, uncond.mask))

    def prepare(self, timesteps: Tensor) -> None:
        """Undo a modulation table, whose rows are not rounded as a batch's are."""
        self._transformer.restore_modulations()
        self._transformer.refresh_prepared()

    def velocity(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Guided velocity in the transformer's dtype; see `Denoiser`."""
        time = timestep.to(latents.dtype) / 1000
        both = self._transformer(
            hidden_states=torch.cat((latents, latents)),
            encoder_hidden_states=self._layers,
            encoder_hidden_states_mask=self._mask,
            timestep=time.expand(2 * len(latents)),
            img_shapes=[self._shape],
            return_dict=False,
        )[0]
        cond, uncond = both.chunk(2)
        return guide(cond, uncond, self.guidance_scale)

    def pixels_to_bytes(self, pixels: Tensor) -> Tensor:
        """Truncate pixels in [0, 1] to 8 bits."""
        return (pixels.float() * 255).to(torch.uint8)
