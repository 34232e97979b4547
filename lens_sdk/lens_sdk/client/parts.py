"""The parts of the loop, chosen once by name and shared by many runs."""

from __future__ import annotations

from pathlib import Path

from lens_reasoner import (
    AgentLoop,
    Cache,
    Generator,
    Judge,
    LoopLimits,
    Reasoner,
    RubricWriter,
    SystemPrompt,
)
from lens_reasoner.openai_chat import ChatOptions
from lens_reasoner.parts import LoopParts
from lens_sdk.local import LocalLensGenerator
from lens_sdk.session import (
    PartChoice,
    choose_fidelity_checker,
    choose_judge,
    choose_reasoner,
    choose_reviser,
    choose_rubric_writer,
)


def choose_parts(
    generator: Generator,
    *,
    reasoner: PartChoice | Reasoner | None = "auto",
    judge: PartChoice | Judge | None = "auto",
    rubric_writer: PartChoice | RubricWriter | None = None,
    provider: ChatOptions | None = None,
    system_prompt: SystemPrompt | str | Path | None = None,
) -> LoopParts:
    """Assemble the same parts as `lens_sdk.build_loop`.

    Raises:
        ReasonerError: As `build_loop` does.
    """
    runtime = generator.runtime if isinstance(generator, LocalLensGenerator) else None
    chosen_reasoner = choose_reasoner(reasoner, runtime, provider)
    if system_prompt is not None:
        from lens_sdk.system_prompts import prompted

        chosen_reasoner = prompted(chosen_reasoner, system_prompt)
    chosen_judge, writer = choose_judge(judge, runtime, provider)
    return LoopParts(
        generator=generator,
        reasoner=chosen_reasoner,
        judge=chosen_judge,
        rubric_writer=choose_rubric_writer(rubric_writer, provider) or writer,
        fidelity_checker=choose_fidelity_checker("auto", judge, runtime, provider),
        reviser=choose_reviser("auto", reasoner, runtime, provider),
    )


def loop_of(
    parts: LoopParts, limits: LoopLimits | None = None, cache: Cache | None = None
) -> AgentLoop:
    """Build a loop from these parts."""
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
