"""One pipeline call, from text features to images, one size at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lens_core import pipeline_inputs as inputs
from lens_core.denoising import Denoiser, ExactDenoiser, ReferenceDenoiser
from lens_core.errors import ParameterError, SamplingCancelledError
from lens_core.guidance import GuidanceInterval
from lens_core.integration import AfterStep, StepOutcome, integrate, set_schedule
from lens_core.picture_groups import Size, SizeGroup, group_by_size
from lens_core.pipeline_output import Collected, Pictures, finished, to_pictures
from lens_core.solvers import SolverName, make_solver
from lens_core.starting_points import (
    Canvas,
    KeptRegion,
    StartingPictures,
    first_step,
    with_noise,
)
from lens_core.steps import Cancel, StepListener, StepReport
from lens_core.text_features import TextFeatures

if TYPE_CHECKING:
    from lens_core.pipeline import LensPipeline, StepCallback


@dataclass(frozen=True)
class PictureCall:
    """Arguments of a call apart from its text, validated as far as possible without the text.

    Attributes:
        sizes: One for all prompts, or one per prompt.
        levels: Noise levels before the time shift, one per step of the full schedule.
        shift: The time shift; None uses Lens's rule.
        guidance_scale: 1 means no guidance.
        interval: Noise levels at which guidance is on.
        solver: Name of the ODE solver.
        images_per_prompt: Number of images per prompt.
        output_type: Form of the result.
        batch_size: Maximum images sampled at once; None samples all of one size together.
        start: Starting images; None starts from pure noise.
        generator: Source of the noise.
        seed: Seeds of per-image generators, instead of `generator`.
        latents: The noise itself, instead of generating it.
        reference: Reproduce the published code's rounding and choices.
        callback: diffusers callback, called after each step.
        on_step: Called with a `StepReport` after each step.
        cancel: Event that stops sampling.

    Raises:
        ParameterError: A value is out of range, or two values exclude each other.
    """

    sizes: Sequence[Size]
    levels: np.ndarray
    shift: float | None
    guidance_scale: float
    interval: GuidanceInterval
    solver: SolverName
    images_per_prompt: int
    output_type: inputs.OutputType
    batch_size: int | None
    start: StartingPictures | None
    generator: inputs.Generators
    seed: int | Sequence[int] | None
    latents: Tensor | Sequence[Tensor] | None
    reference: bool
    callback: StepCallback | None
    on_step: StepListener | None
    cancel: Cancel | None

    def __post_init__(self) -> None:
        inputs.SamplingSettings(
            (1, 1), self.steps, self.guidance_scale, self.images_per_prompt, self.output_type
        )
        if self.batch_size is not None:
            inputs.check_count("batch_size", self.batch_size)
        if self.seed is not None and self.generator is not None:
            raise ParameterError("give seed or generator, not both")
        if self.reference:
            self._refuse_unpublished()

    def _refuse_unpublished(self) -> None:
        unpublished = {
            "guidance_interval": self.interval != GuidanceInterval(),
            "solver": self.solver != "euler",
            "shift": self.shift is not None,
        }
        for name in (name for name, given in unpublished.items() if given):
            raise ParameterError(f"the published code, which reference repeats, has no {name}")

    @property
    def steps(self) -> int:
        """Number of steps in the full schedule."""
        return len(self.levels)

    @property
    def begin(self) -> int:
        """Number of initial schedule steps to skip."""
        return 0 if self.start is None else first_step(self.steps, self.start.strength)


class PictureRun:
    """Generates the images of one call.

    Args:
        pipeline: The pipeline whose components are used.
        call: Arguments of the call.
        cond: Features of the prompts, one row each.
        uncond: Features of the negative prompts; None runs that branch without text.

    Raises:
        ParameterError: The number of generators, seeds, sizes or starting images does not match.
    """

    def __init__(
        self,
        pipeline: LensPipeline,
        call: PictureCall,
        cond: TextFeatures,
        uncond: TextFeatures | None,
    ) -> None:
        self._pipeline, self._call = pipeline, call
        self._cond, self._uncond = cond, uncond
        self._start = None if call.start is None else call.start.spread(cond.batch)
        self._groups = group_by_size(
            call.sizes, cond.batch, call.images_per_prompt, call.batch_size
        )
        self._count = cond.batch * call.images_per_prompt
        self._generator = call.generator
        if call.seed is not None:
            self._generator = inputs.seeded(call.seed, self._count)
        inputs.check_generators(self._generator, self._count)
        self._latest: StepReport | None = None

    @property
    def _sizes(self) -> int:
        return len({(group.height, group.width) for group in self._groups})

    def images(self) -> Pictures:
        """Generate all images.

        Raises:
            ParameterError: The latents do not match the images in number or shape.
            SamplingCancelledError: The call was cancelled; holds the finished images.
            NonFiniteError: The latents contain NaN or infinity; names the step.
        """
        collected = Collected(self._count, self._sizes)
        for group in self._groups:
            try:
                collected.add(group, self._draw(group))
            except SamplingCancelledError as error:
                error.images = collected.one_by_one
                raise
            if self._pipeline.interrupt:
                break
        return collected.images

    def _draw(self, group: SizeGroup) -> Pictures:
        call, pipeline = self._call, self._pipeline
        self._latest = None
        self._refuse_cancelled(0)
        multiple = pipeline.size_multiple
        grid = (group.height // multiple, group.width // multiple)
        denoiser = self._denoiser(group, grid)
        noise = self._noise(group, grid, denoiser.latents_dtype)
        tokens = grid[0] * grid[1]
        set_schedule(pipeline.scheduler, tokens, call.levels, call.shift, noise.device)
        sigma = float(pipeline.scheduler.sigmas[call.begin])
        denoiser.guidance_scale = call.interval.scale_at(sigma, call.guidance_scale)
        canvas, kept, latents = None, None, noise
        if self._start is not None:
            canvas = Canvas.of(self._start, group.prompts, group.height, group.width)
            latents, kept = self._on_canvas(canvas, noise)
        with pipeline.progress_bar(total=call.steps - call.begin) as progress:
            after_step = self._after_step(group, denoiser, progress)
            levels = pipeline.scheduler.sigmas[call.begin :].tolist()
            solver = make_solver(call.solver, levels)
            final = integrate(
                pipeline.scheduler, denoiser, latents, call.begin, solver, kept, after_step
            )
        if call.output_type == "latent":
            return final
        pixels = pipeline.decode(final, group.height, group.width)
        return finished(pixels, call.output_type, canvas, denoiser.pixels_to_bytes)

    def _denoiser(self, group: SizeGroup, grid: tuple[int, int]) -> Denoiser:
        build = ReferenceDenoiser if self._call.reference else ExactDenoiser
        uncond = None if self._uncond is None else self._rows(self._uncond, group)
        scale = self._call.guidance_scale
        return build(self._pipeline.transformer, self._rows(self._cond, group), uncond, scale, grid)

    def _rows(self, features: TextFeatures, group: SizeGroup) -> TextFeatures:
        if len(self._groups) == 1:
            return features.repeat(self._call.images_per_prompt)
        return features.select(group.prompts)

    def _noise(self, group: SizeGroup, grid: tuple[int, int], dtype: torch.dtype) -> Tensor:
        channels = self._pipeline.transformer.config.in_channels
        shape = (len(group.rows), grid[0] * grid[1], channels)
        generator = self._generator
        if isinstance(generator, Sequence):
            generator = [generator[row] for row in group.rows]
        device = self._pipeline._execution_device
        return inputs.initial_latents(shape, self._given(group), generator, device, dtype)

    def _given(self, group: SizeGroup) -> Tensor | None:
        """Return the caller's noise for a group, if given."""
        given = self._call.latents
        if given is None or (isinstance(given, Tensor) and len(self._groups) == 1):
            return given
        if isinstance(given, Tensor) and self._sizes == 1 and len(given) == self._count:
            return given[list(group.rows)]
        if isinstance(given, Tensor) or len(given) != self._count:
            raise ParameterError(
                f"latents must be a list of {self._count} tensors [tokens, channels], one per "
                "picture, as the sizes of the pictures differ"
            )
        chosen = [given[row] for row in group.rows]
        if len({tuple(one.shape) for one in chosen}) > 1:
            raise ParameterError(
                f"latents of pictures of {group.width}x{group.height} have different shapes"
            )
        return torch.stack(chosen)

    def _on_canvas(self, canvas: Canvas, noise: Tensor) -> tuple[Tensor, KeptRegion | None]:
        """Return the noisy latents to start sampling from, and the region to keep."""
        tokens = canvas.tokens(self._pipeline.vae, noise.device).to(noise)
        sigma = float(self._pipeline.scheduler.sigmas[self._call.begin])
        free = canvas.free_tokens(self._pipeline.size_multiple)
        kept = None if free is None else KeptRegion(tokens, noise, free.to(noise.device))
        return with_noise(tokens, noise, sigma), kept

    def _after_step(self, group: SizeGroup, denoiser: Denoiser, progress: Any) -> AfterStep:
        call, pipeline = self._call, self._pipeline
        pipeline.guidance_scale = call.guidance_scale

        def after(state: StepOutcome) -> tuple[Tensor, bool]:
            scale = call.guidance_scale
            if call.callback is not None:
                state = self._tell(call.callback, denoiser, state)
                scale = inputs.changed_guidance(pipeline.guidance_scale, scale)
            denoiser.guidance_scale = call.interval.scale_at(state.sigma, scale)
            progress.update()
            if call.on_step is not None or call.cancel is not None:
                self._latest = self._report(group, state)
            if call.on_step is not None and self._latest is not None:
                call.on_step(self._latest)
            if state.index + 1 < state.total:
                self._refuse_cancelled(state.index + 1)
            return state.latents, not pipeline.interrupt

        return after

    def _tell(self, callback: StepCallback, denoiser: Denoiser, state: StepOutcome) -> StepOutcome:
        """Call a callback, which may replace the latents or change LoRAs for later steps."""
        pipeline = self._pipeline
        loras = pipeline.transformer.lora_state
        given = callback(pipeline, state.index, state.timestep, {"latents": state.latents})
        left = pipeline.scheduler.timesteps[self._call.begin + state.index + 1 :]
        if pipeline.transformer.lora_state is not loras and len(left):
            denoiser.prepare(left)
        return replace(state, latents=inputs.replaced_latents(given, state.latents))

    def _report(self, group: SizeGroup, state: StepOutcome) -> StepReport:
        pipeline = self._pipeline
        return StepReport(
            step=state.index + 1,
            total=state.total,
            sigma=state.sigma,
            rows=group.rows,
            height=group.height,
            width=group.width,
            latents=state.latents,
            estimate=state.estimate(),
            _preview=pipeline.preview,
            _decode=lambda latents, height, width: to_pictures(
                pipeline.decode(latents, height, width)
            ),
        )

    def _refuse_cancelled(self, steps_done: int) -> None:
        if self._call.cancel is not None and self._call.cancel.is_set():
            raise SamplingCancelledError(
                f"sampling was cancelled after step {steps_done} of "
                f"{self._call.steps - self._call.begin}",
                self._latest,
            )
