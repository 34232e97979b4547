"""The benchmark cases."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lens_core.bench.configs import BenchConfig
from lens_core.bench.kernels import BACKENDS
from lens_core.errors import ParameterError
from lens_core.speed import named_plan
from lens_core.speed.plan import SWITCHES

Kind = Literal[
    "ceiling",
    "attention",
    "encode",
    "denoise",
    "decode",
    "png",
    "generate",
    "split",
    "prompts",
    "accuracy",
    "paired",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

SAMPLING = {"lens": (20, 5.0), "lens-turbo": (4, 1.0)}
"""Steps and guidance of the published models."""

ONE_BY_ONE = "one by one"
"""Encoding text with one expert unpacked at a time, the fallback without grouped products."""

IN_DECODER = "decoder "
"""Prefix of a backend's name for the decoder's attention, which has one head over all latents."""

ALL = "all"
"""Stands for every plan in turn."""

EVERY_PLAN = (*SWITCHES, "exact", "fast", "fp8", "fp8-all", "graphs")
"""Each switch alone, then the named combinations."""

DENOISER_PLANS = ("plain", *(name for name in EVERY_PLAN if named_plan(name).changes_denoiser))
"""Plans that change the denoiser, and the plain one."""

PAIRED_STEPS = 2
PAIRED_GUIDANCE = 5.0


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        kind: What is measured.
        what: A number format; an attention backend, of the decoder if prefixed with `decoder `,
            otherwise of the denoiser; a branch (`cond`, `uncond`); a model (`lens`, `lens-turbo`),
            for `prompts` with a prompt of a new length per image; or another way to encode text.
        size: Side of the image in pixels; 0 if irrelevant.
        batch: Number of images at once.
        speed: Name of the speed plan; empty if irrelevant. For `paired`, the plan to compare with
            `plain`.
    """

    kind: Kind
    what: str = ""
    size: int = 0
    batch: int = 1
    speed: str = ""

    @property
    def key(self) -> str:
        """Name of the case in results, such as `denoise/cond/1024/b1/fast`."""
        size = str(self.size) if self.size else ""
        parts = (self.kind, self.what, size, f"b{self.batch}", self.speed)
        return "/".join(part for part in parts if part)


def list_cases(
    config: BenchConfig,
    speeds: Sequence[str],
    kinds: Sequence[str] = (),
    paired: Sequence[str] = (),
) -> list[Case]:
    """List all cases: those without a plan, then each plan with one image at a time, then batches.

    The most important results thus come first, even in a ten-minute run. Cases of the same plan are
    adjacent because plans compile.

    Args:
        config: Sizes and batches.
        speeds: Names of speed plans.
        kinds: Only these kinds; all if empty, with `paired` only if `paired` names plans.
        paired: Plans to compare with `plain`, alternating calls; `all` means every plan.

    Raises:
        ParameterError: A kind or plan is unknown.
    """
    if unknown := sorted({*kinds} - {*KINDS}):
        raise ParameterError(f"only {', '.join(unknown)}: choose from {', '.join(KINDS)}")
    compared = [name for one in paired for name in (EVERY_PLAN if one == ALL else (one,))]
    for speed in (*speeds, *compared):
        named_plan(speed)
    first, others = config.batches[:1], config.batches[1:]
    every = [*_common(config)]
    every += [case for speed in speeds for case in _with_plan(config, speed, first)]
    every += [case for speed in dict.fromkeys(compared) for case in _against_plain(config, speed)]
    for speed in dict.fromkeys((*speeds, *compared)):
        if speed != "plain" and named_plan(speed).changes_denoiser:
            every.append(Case("accuracy", "", config.sizes[0], 1, speed))
    every += [case for speed in speeds for case in _with_plan(config, speed, others)]
    return [case for case in every if not kinds or case.kind in kinds]


def _common(config: BenchConfig) -> Iterator[Case]:
    yield Case("ceiling")
    yield Case("ceiling", "fp8")
    for size in config.sizes:
        for backend in ("torch", *BACKENDS):
            yield Case("attention", backend, size)
    for batch in config.batches:
        yield Case("encode", batch=batch)
    yield Case("encode", ONE_BY_ONE)
    for size in config.sizes:
        for backend in ("torch", *BACKENDS):
            yield Case("attention", IN_DECODER + backend, size)
        for level in ("level 1", "level 6"):
            yield Case("png", level, size)


def _against_plain(config: BenchConfig, speed: str) -> Iterator[Case]:
    plan = named_plan(speed)
    for size in config.sizes:
        if plan.changes_denoiser:
            yield Case("paired", "sample", size, 1, speed)
        if plan.changes_vae:
            yield Case("paired", "decode", size, 1, speed)


def _with_plan(config: BenchConfig, speed: str, batches: Sequence[int]) -> Iterator[Case]:
    grid = [(size, batch) for batch in batches for size in config.sizes]
    for size, batch in grid:
        for branch in ("cond", "uncond"):
            yield Case("denoise", branch, size, batch, speed)
        yield Case("decode", "", size, batch, speed)
    for size, batch in grid:
        for model in SAMPLING:
            yield Case("generate", model, size, batch, speed)
            if batch == 1:
                yield Case("split", model, size, batch, speed)
    if 1 in batches:
        for model in SAMPLING:
            yield Case("prompts", model, config.sizes[0], 1, speed)
