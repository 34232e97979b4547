"""Sampling in a batch whose pictures are at different steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lens_core.chat import DEFAULT_DATE
from lens_core.conditioning import TextConditioner, TextRequest
from lens_core.errors import NonFiniteError, ParameterError
from lens_core.pipeline_inputs import SamplingSettings, initial_latents
from lens_core.sampling import compute_mu, guide, linear_sigmas
from lens_core.sizes import validate_size
from lens_core.text_features import TextFeatures
from lens_reasoner import GenerationSettings

if TYPE_CHECKING:
    from PIL.Image import Image

    from lens_core.pipeline import LensPipeline


@dataclass(frozen=True)
class Schedule:
    """What all pictures of one call share.

    Attributes:
        cond: Features of the prompt, one row.
        uncond: Features of the negative prompt, one row; None runs that branch without text.
        guidance_scale: 1 runs only the branch with the prompt.
        grid: (height, width) in tokens.
        sigmas: Noise levels, float32 `[steps + 1]` from 1 to 0.
        times: What the model is told, float32 `[steps]` in [0, 1].
    """

    cond: TextFeatures
    uncond: TextFeatures | None
    guidance_scale: float
    grid: tuple[int, int]
    sigmas: Tensor
    times: Tensor

    @property
    def steps(self) -> int:
        """Euler steps."""
        return len(self.times)


@dataclass
class Row:
    """One picture under way.

    Attributes:
        schedule: What it shares with the other pictures of its call.
        latents: Its tokens, float32 `[tokens, channels]`.
        step: Steps done.
        estimate: What the picture would be if sampling ended at the latest step, as tokens.
        began: When it was made, by `time.perf_counter`.
    """

    schedule: Schedule
    latents: Tensor
    step: int = 0
    estimate: Tensor | None = None
    began: float = field(default_factory=time.perf_counter)

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step == self.schedule.steps


class RowSampler:
    """Euler sampling with exact guidance, as `LensPipeline` does, but row by row.

    The rows of a batch may be at different steps, with prompts, guidance and numbers of steps of
    their own; only their size must be the same. Prompts of different lengths run together under a
    mask, where the pipeline runs each length by itself, so results agree up to rounding.
    """

    def __init__(self, pipeline: LensPipeline) -> None:
        self._pipeline = pipeline
        self._device: torch.device = pipeline._execution_device

    @torch.no_grad()
    def schedule(self, prompt: str, settings: GenerationSettings) -> Schedule:
        """Encode the prompts of a call and lay out its steps.

        Args:
            prompt: The prompt.
            settings: With size, steps and guidance filled in.

        Raises:
            LensCoreError: A setting that Lens cannot honour.
        """
        checked = _checked(settings, self._pipeline.size_multiple)
        pipeline = self._pipeline
        conditioner = TextConditioner(
            pipeline.transformer, pipeline.feature_source, pipeline.tokenizer, self._device
        )
        date = str(settings.extra.get("date", DEFAULT_DATE))
        request = TextRequest(prompt, settings.negative_prompt, date=date)
        guided = checked.guidance_scale > 1
        scheduler = copy.deepcopy(pipeline.scheduler)
        scheduler.set_timesteps(
            sigmas=linear_sigmas(checked.steps),
            mu=compute_mu(checked.tokens, checked.steps),
            device=self._device,
        )
        return Schedule(
            cond=conditioner.positive(request),
            uncond=conditioner.negative(request, 1, blank_as_text=False) if guided else None,
            guidance_scale=checked.guidance_scale,
            grid=checked.grid,
            sigmas=scheduler.sigmas,
            times=scheduler.timesteps / 1000,
        )

    def row(self, schedule: Schedule, seed: int) -> Row:
        """A picture before its first step; its noise comes from its own seed."""
        height, width = schedule.grid
        shape = (1, height * width, int(self._pipeline.transformer.config.in_channels))
        noise = torch.Generator().manual_seed(seed)
        return Row(schedule, initial_latents(shape, None, [noise], self._device, torch.float32)[0])

    @torch.no_grad()
    def advance(self, rows: Sequence[Row]) -> None:
        """Do one step of every row.

        Args:
            rows: At least one, all of one size, none of them done.
        """
        latents = torch.stack([row.latents for row in rows])
        times = torch.stack([row.schedule.times[row.step] for row in rows])
        grid = rows[0].schedule.grid
        cond = self._velocity([row.schedule.cond for row in rows], latents, times, grid)
        guided = [i for i, row in enumerate(rows) if row.schedule.guidance_scale != 1]
        if guided:
            texts = [rows[i].schedule.uncond for i in guided]
            uncond = self._velocity(texts, latents[guided], times[guided], grid)
            for place, i in enumerate(guided):
                scale = rows[i].schedule.guidance_scale
                cond[i] = guide(cond[i], uncond[place], scale)
        for row, velocity in zip(rows, cond, strict=True):
            now, following = row.schedule.sigmas[row.step : row.step + 2]
            row.estimate = row.latents - now * velocity
            row.latents = row.latents + (following - now) * velocity
            row.step += 1

    def picture(self, row: Row, *, estimated: bool = False) -> Image:
        """The picture of a row, or what it would be if it ended now.

        Raises:
            NonFiniteError: Its latents are not numbers any more.
        """
        from PIL import Image

        latents = row.estimate if estimated and row.estimate is not None else row.latents
        if not bool(torch.isfinite(latents).all()):
            raise NonFiniteError(
                "the latents of a picture became NaN or infinite; check the weights and any LoRA"
            )
        height, width = (side * self._pipeline.size_multiple for side in row.schedule.grid)
        pixels = self._pipeline.decode(latents[None], height, width)[0].permute(1, 2, 0)
        return Image.fromarray((pixels.float() * 255).round().to(torch.uint8).cpu().numpy())

    def _velocity(
        self,
        texts: Sequence[TextFeatures | None],
        latents: Tensor,
        times: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:
        """Velocity of one branch, float32; rows without text run apart from those with text."""
        velocity = torch.empty_like(latents)
        told = [i for i, text in enumerate(texts) if text is not None]
        blank = [i for i, text in enumerate(texts) if text is None]
        if told:
            layers, mask = _together([text for text in texts if text is not None])
            velocity[told] = self._call(latents[told], layers, mask, times[told], grid)
        if blank:
            velocity[blank] = self._call(latents[blank], None, None, times[blank], grid)
        return velocity

    def _call(
        self,
        latents: Tensor,
        layers: list[Tensor] | None,
        mask: Tensor | None,
        times: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:
        transformer = self._pipeline.transformer
        result: Tensor = transformer(
            hidden_states=latents.to(transformer.dtype),
            encoder_hidden_states=layers,
            encoder_hidden_states_mask=mask,
            timestep=times,
            img_shapes=[(1, *grid)],
            return_dict=False,
        )[0]
        return result.float()


def _together(texts: Sequence[TextFeatures]) -> tuple[list[Tensor], Tensor | None]:
    """Features of single rows as one batch, and its mask where their lengths differ."""
    longest = max(text.embeds.shape[2] for text in texts)
    padded: list[TextFeatures] = [text.padded(longest) for text in texts]
    mask = torch.cat([text.mask for text in padded])
    layers = torch.cat([text.embeds for text in padded], dim=1)
    return list(layers.unbind(0)), None if bool(mask.all()) else mask


def _checked(settings: GenerationSettings, multiple: int) -> SamplingSettings:
    width, height = settings.width, settings.height
    steps, scale = settings.num_inference_steps, settings.guidance_scale
    if width is None or height is None or steps is None or scale is None:
        raise ParameterError(f"size, steps and guidance must be filled in: {settings!r}")
    validate_size(height, width, multiple)
    return SamplingSettings((height // multiple, width // multiple), steps, scale, 1, "pil")
