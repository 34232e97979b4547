"""Sampling in a batch whose images are at different steps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from lens_core.chat import DEFAULT_DATE
from lens_core.conditioning import TextConditioner, TextRequest
from lens_core.errors import NonFiniteError, ParameterError
from lens_core.guidance import GuidanceInterval
from lens_core.modulation import ModulationTable
from lens_core.pipeline_inputs import SamplingSettings, initial_latents
from lens_core.pipeline_output import finished
from lens_core.sampling import chosen_mu, guide, read_shift
from lens_core.sizes import validate_size
from lens_core.solvers import read_solver
from lens_core.starting_points import (
    Canvas,
    KeptRegion,
    StartingPictures,
    first_step,
    with_noise,
)
from lens_core.text_features import TextFeatures
from lens_reasoner import GenerationSettings
from lens_sdk.server.rows import Row, Schedule, Source
from lens_sdk.server.scheduler import Preview

if TYPE_CHECKING:
    from PIL.Image import Image

    from lens_core.pipeline import LensPipeline

MOST_TABULATED = 256
"""Steps up to which a modulation table keeps earlier schedules: 0.45 GB for Lens in bfloat16."""


class RowSampler:
    """Samples with exact guidance like `LensPipeline`, but each row on its own schedule.

    The rows of a batch may be at different steps and differ in prompt, guidance and number of
    steps; only their size must be the same. Prompts of different lengths run together under a mask,
    whereas the pipeline runs each length separately, so results agree up to rounding. If the
    transformer keeps a modulation table, the table covers the timesteps of all rows.
    """

    def __init__(self, pipeline: LensPipeline) -> None:
        self._pipeline = pipeline
        self._device: torch.device = pipeline._execution_device
        self._recent: dict[tuple[float, ...], Tensor] = {}
        self._table: ModulationTable | None = None

    @torch.no_grad()
    def schedule(
        self, prompt: str, settings: GenerationSettings, start: StartingPictures | None = None
    ) -> Schedule:
        """Encode the prompts of a call and plan its steps.

        Args:
            prompt: The prompt.
            settings: Settings with size, steps and guidance filled in.
            start: The image to start from; None starts from noise.

        Raises:
            LensCoreError: Lens does not support a setting.
        """
        checked = _checked(settings, self._pipeline.size_multiple)
        pipeline = self._pipeline
        pipeline.transformer.refresh_prepared()
        conditioner = TextConditioner(
            pipeline.transformer, pipeline.feature_source, pipeline.tokenizer, self._device
        )
        date = str(settings.extra.get("date", DEFAULT_DATE))
        request = TextRequest(prompt, settings.negative_prompt, date=date)
        guided = checked.guidance_scale > 1
        shift = read_shift(settings.extra.get("shift"))
        scheduler = copy.deepcopy(pipeline.scheduler)
        scheduler.set_timesteps(
            sigmas=pipeline.default_sigmas(checked.steps),
            mu=chosen_mu(checked.tokens, checked.steps, shift),
            device=self._device,
        )
        begin = 0 if start is None else first_step(checked.steps, start.strength)
        return Schedule(
            cond=conditioner.positive(request),
            uncond=conditioner.negative(request, 1, blank_as_text=False) if guided else None,
            guidance_scale=checked.guidance_scale,
            interval=GuidanceInterval.read(settings.extra.get("guidance_interval")),
            solver=read_solver(settings.extra.get("solver")),
            grid=checked.grid,
            sigmas=scheduler.sigmas[begin:],
            times=scheduler.timesteps[begin:] / 1000,
            source=None if start is None else self._source(start, checked.grid),
        )

    def row(self, schedule: Schedule, seed: int) -> Row:
        """Create an image before its first step; its noise comes from its own seed."""
        height, width = schedule.grid
        shape = (1, height * width, int(self._pipeline.transformer.config.in_channels))
        noise = torch.Generator().manual_seed(seed)
        latents = initial_latents(shape, None, [noise], self._device, torch.float32)
        source, kept = schedule.source, None
        if source is not None:
            if source.free is not None:
                kept = KeptRegion(source.tokens, latents, source.free)
            latents = with_noise(source.tokens, latents, float(schedule.sigmas[0]))
        return Row(schedule, latents[0], kept=kept)

    @torch.no_grad()
    def advance(self, rows: Sequence[Row]) -> None:
        """Advance every row by one step.

        Args:
            rows: At least one row; all have the same size, and none is done.
        """
        self._tabulate(rows)
        latents = torch.stack([row.latents for row in rows])
        times = torch.stack([row.schedule.times[row.step] for row in rows])
        grid = rows[0].schedule.grid
        cond = self._velocity([row.schedule.cond for row in rows], latents, times, grid)
        guided = [i for i, row in enumerate(rows) if row.guidance_scale != 1]
        if guided:
            texts = [rows[i].schedule.uncond for i in guided]
            uncond = self._velocity(texts, latents[guided], times[guided], grid)
            for place, i in enumerate(guided):
                cond[i] = guide(cond[i], uncond[place], rows[i].guidance_scale)
        for row, velocity in zip(rows, cond, strict=True):
            now, following = row.schedule.sigmas[row.step : row.step + 2]
            scale = row.guidance_scale
            direction = row.solver.direction(row.step, row.latents, velocity, scale)
            row.estimate = row.held(row.latents - now * direction, 0.0)
            row.latents = row.held(row.latents + (following - now) * direction, following)
            row.step += 1

    @torch.no_grad()
    def picture(self, row: Row) -> Image:
        """Decode a row's image; the area its mask protects stays unchanged.

        Raises:
            NonFiniteError: The latents became NaN or infinite.
        """
        if not bool(torch.isfinite(row.latents).all()):
            raise NonFiniteError(
                "the latents of an image became NaN or infinite; check the weights and any LoRA"
            )
        source = row.schedule.source
        pixels = self._pipeline.decode(row.latents[None], *self._size(row))
        canvas = None if source is None else source.canvas
        pictures: Any = finished(pixels, "pil", canvas, _to_bytes)
        return cast("Image", pictures[0])

    @torch.no_grad()
    def preview(self, row: Row) -> Preview:
        """A small preview of a row as estimated at its latest step, at almost no cost."""
        height, width = self._size(row)
        tokens = row.latents if row.estimate is None else row.estimate
        picture = self._pipeline.preview(tokens[None], height, width)[0]
        return Preview(picture, (width, height))

    def rest(self) -> None:
        """Release what a memory plan keeps on the device only during work."""
        self._pipeline.maybe_free_model_hooks()

    def _size(self, row: Row) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = row.schedule.grid
        return height * self._pipeline.size_multiple, width * self._pipeline.size_multiple

    def _source(self, start: StartingPictures, grid: tuple[int, int]) -> Source:
        multiple = self._pipeline.size_multiple
        canvas = Canvas.of(start, [0], grid[0] * multiple, grid[1] * multiple)
        tokens = canvas.tokens(self._pipeline.vae, self._device).to(self._device, torch.float32)
        free = canvas.free_tokens(multiple)
        return Source(canvas, tokens, None if free is None else free.to(self._device))

    def _tabulate(self, rows: Sequence[Row]) -> None:
        """Ensure that the modulation table, if there is one, has all timesteps of these rows.

        Earlier schedules stay in the table while there is room, since sizes take turns.
        """
        transformer = self._pipeline.transformer
        if not transformer.keeps_modulation_table:
            return
        needed = {row.schedule.key: row.schedule.times for row in rows}
        known = needed.keys() <= self._recent.keys()
        if known and self._table is not None and transformer.modulation_table is self._table:
            return
        self._recent |= needed
        for key in [key for key in self._recent if key not in needed]:
            if sum(map(len, self._recent)) <= MOST_TABULATED:
                break
            del self._recent[key]
        transformer.follow_schedule(torch.cat([*self._recent.values()]))
        self._table = transformer.modulation_table

    def _velocity(
        self,
        texts: Sequence[TextFeatures | None],
        latents: Tensor,
        times: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:
        """Velocity of one branch, float32; rows with and without text run separately."""
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


def _to_bytes(pixels: Tensor) -> Tensor:
    return (pixels.float() * 255).round().to(torch.uint8)


def _together(texts: Sequence[TextFeatures]) -> tuple[list[Tensor], Tensor | None]:
    """Features of single rows as one batch, and a mask if their lengths differ."""
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
