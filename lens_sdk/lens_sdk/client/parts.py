"""The parts of the loop, chosen by name once and used by many runs."""

from __future__ import annotations

from lens_reasoner import AgentLoop, Cache, Generator, Judge, LoopLimits, Reasoner, RubricWriter
from lens_reasoner.parts import LoopParts
from lens_sdk.local import LocalLensGenerator
from lens_sdk.session import (
    PartChoice,
    choose_fidelity_checker,
    choose_judge,
    choose_reasoner,
    choose_reviser,
)


def choose_parts(
    generator: Generator,
    *,
    reasoner: PartChoice | Reasoner | None = "auto",
    judge: PartChoice | Judge | None = "auto",
    rubric_writer: RubricWriter | None = None,
) -> LoopParts:
    """The parts that `lens_sdk.build_loop` would put together; see there.

    Raises:
        ReasonerError: As `build_loop` does.
    """
    runtime = generator.runtime if isinstance(generator, LocalLensGenerator) else None
    chosen_judge, writer = choose_judge(judge, runtime)
    return LoopParts(
        generator=generator,
        reasoner=choose_reasoner(reasoner, runtime),
        judge=chosen_judge,
        rubric_writer=rubric_writer or writer,
        fidelity_checker=choose_fidelity_checker("auto", judge, runtime),
        reviser=choose_reviser("auto", reasoner, runtime),
    )


def loop_of(
    parts: LoopParts, limits: LoopLimits | None = None, cache: Cache | None = None
) -> AgentLoop:
    """A loop of these parts."""
    return AgentLoop(
        generator=parts.generator,
        reasoner=parts.reasoner,
        judge=parts.judge,
        rubric_writer=parts.rubric_writer,
        fidelity_checker=parts.fidelity_checker,
        reviser=parts.reviser,
        limits=limits,
        cache=cache,
    )
