"""Pictures under way in a batch, each with a schedule of its own."""

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
    """The picture that all pictures of a call start from.

    Attributes:
        canvas: The picture in the size that is drawn, and where it may change.
        tokens: Normalised, float32 `[1, tokens, channels]`.
        free: Which tokens may change, bool `[1, tokens, 1]`; None if all may.
    """

    canvas: Canvas
    tokens: Tensor
    free: Tensor | None


@dataclass(frozen=True)
class Schedule:
    """What all pictures of one call share.

    Attributes:
        cond: Features of the prompt, one row.
        uncond: Features of the negative prompt, one row; None runs that branch without text.
        guidance_scale: 1 runs only the branch with the prompt.
        interval: Noise levels at which both run.
        solver: How noise levels are integrated over.
        grid: (height, width) in tokens.
        sigmas: Noise levels of the steps that are run, float32 `[steps + 1]`, down to 0.
        times: What the model is told at them, float32 `[steps]` in [0, 1].
        source: What the pictures start from; None for pure noise.
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
        """Steps that are run."""
        return len(self.times)

    @cached_property
    def levels(self) -> list[float]:
        """`sigmas` as numbers."""
        levels: list[float] = self.sigmas.tolist()
        return levels

    @cached_property
    def key(self) -> tuple[float, ...]:
        """Tells equal timesteps from others."""
        return tuple(self.times.tolist())


@dataclass
class Row:
    """One picture under way.

    Attributes:
        schedule: What it shares with the other pictures of its call.
        latents: Its tokens, float32 `[tokens, channels]`.
        step: Steps done.
        kept: Tokens that follow the starting picture; None if all are sampled.
        estimate: What the picture would be if sampling ended at the latest step, as tokens.
        began: When it was made, by `time.perf_counter`.
        solver: Of its own steps.
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
        """Of the next step."""
        schedule = self.schedule
        return schedule.interval.scale_at(schedule.key[self.step], schedule.guidance_scale)

    def held(self, latents: Tensor, sigma: Tensor | float) -> Tensor:
        """Latents of a noise level with what is kept put back."""
        return latents if self.kept is None else self.kept.held(latents[None], float(sigma))[0]
