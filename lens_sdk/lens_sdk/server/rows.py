"""Images in progress in a batch, each with its own schedule."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from lens_core.guidance import GuidanceInterval
from lens_core.solvers import Solver, SolverName, make_solver
from lens_core.starting_points import Canvas, KeptRegion
from lens_core.text_features import TextFeatures


@dataclass(frozen=True)
class Source:
    """The image that all images of a call start from.

    Attributes:
        canvas: The image in the generated size, and where it may change.
        tokens: Normalised latents, float32 `[1, tokens, channels]`.
        free: Which tokens may change, bool `[1, tokens, 1]`; None if all may.
    """

    canvas: Canvas
    tokens: Tensor
    free: Tensor | None


@dataclass(frozen=True)
class Schedule:
    """What all images of one call share.

    Attributes:
        cond: Features of the prompt, one row.
        uncond: Features of the negative prompt, one row; None runs that branch without text.
        guidance_scale: Guidance scale; 1 runs only the branch with the prompt.
        interval: Noise levels at which both branches run.
        solver: The solver that integrates over the noise levels.
        grid: (height, width) in tokens.
        sigmas: Noise levels of the steps that are run, float32 `[steps + 1]`, down to 0.
        times: The model's timestep input for each step, float32 `[steps]` in [0, 1].
        source: The image to start from; None starts from pure noise.
    """

    cond: TextFeatures
    uncond: TextFeatures | None
    guidance_scale: float
    interval: GuidanceInterval
    solver: SolverName
    grid: tuple[int, int]
    sigmas: Tensor
    times: Tensor
    source: Source | None = None

    @property
    def steps(self) -> int:
        """Number of steps that are run."""
        return len(self.times)

    @cached_property
    def levels(self) -> list[float]:
        """`sigmas` as Python floats."""
        levels: list[float] = self.sigmas.tolist()
        return levels

    @cached_property
    def key(self) -> tuple[float, ...]:
        """A key that is the same for equal timesteps."""
        return tuple(self.times.tolist())


@dataclass
class Row:
    """One image in progress.

    Attributes:
        schedule: What the image shares with the others of its call.
        latents: The image's tokens, float32 `[tokens, channels]`.
        step: Number of steps done.
        kept: Tokens that follow the starting image; None if all are sampled.
        estimate: Tokens of the image as estimated at the latest step.
        began: Time of creation, by `time.perf_counter`.
        solver: The solver with the history of this image's steps.
    """

    schedule: Schedule
    latents: Tensor
    step: int = 0
    kept: KeptRegion | None = None
    estimate: Tensor | None = None
    began: float = field(default_factory=time.perf_counter)
    solver: Solver = field(init=False)

    def __post_init__(self) -> None:
        self.solver = make_solver(self.schedule.solver, self.schedule.levels)

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step == self.schedule.steps

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the next step."""
        schedule = self.schedule
        return schedule.interval.scale_at(schedule.key[self.step], schedule.guidance_scale)

    def held(self, latents: Tensor, sigma: Tensor | float) -> Tensor:
        """Latents at a noise level, with the kept tokens put back."""
        return latents if self.kept is None else self.kept.held(latents[None], float(sigma))[0]
