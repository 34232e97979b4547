"""Prompt studies begun from a client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lens_reasoner import Generator, Judge, LoopConfigError, Reasoner, SystemPrompt
from lens_sdk.session import PartChoice
from lens_sdk.settings import Settings

if TYPE_CHECKING:
    from lens_prompt_opt import Budget, ProgressCallback, PromptSet, StudyResult


async def optimize(
    settings: Settings,
    choices: Mapping[str, PartChoice | Generator | Reasoner | Judge | None],
    requests: PromptSet | Sequence[str] | str | Path,
    *,
    budget: Budget | Mapping[str, float],
    folder: str | Path,
    seed_prompt: SystemPrompt | str | Path | None,
    on_progress: ProgressCallback | None,
    defaults: Mapping[str, object] | None,
    order: Mapping[str, Any],
) -> StudyResult:
    """Run a study in a folder, or go on with the one that is there; see `AsyncLens.optimize`."""
    from lens_prompt_opt import Budget, PromptSet
    from lens_sdk.optimize_run import ORDER_FILE, OptimizeRun, StudyOrder

    limits = Budget.model_validate(budget) if isinstance(budget, Mapping) else budget
    provider = settings.provider
    if (Path(folder) / ORDER_FILE).exists():
        changed = limits.model_dump(exclude_none=True)
        run = await asyncio.to_thread(OptimizeRun.resume, folder, budget=changed, provider=provider)
        return await run.run(on_progress=on_progress)
    if isinstance(requests, str | Path):
        prompts = PromptSet.load(requests)
    else:
        prompts = requests if isinstance(requests, PromptSet) else PromptSet.of(requests)
    names = {role: _name(role, choice) for role, choice in choices.items()}
    asked = StudyOrder.model_validate(
        {
            "generators": (names["model"],),
            "reasoner": names["reasoner"],
            "judge": names["judge"],
            "rubric": settings.rubric,
            "proposer": settings.proposer,
            "budget": limits,
            **order,
        }
    )
    run = await asyncio.to_thread(
        OptimizeRun.begin,
        asked,
        folder,
        prompts=prompts.with_defaults(defaults or {}),
        seed=seed_prompt,
        provider=provider,
    )
    return await run.run(on_progress=on_progress)


def _name(role: str, choice: object) -> str:
    if isinstance(choice, str):
        return choice
    raise LoopConfigError(
        f"A study writes down what it uses by name, and the {role} of this client is an object or "
        "none.",
        hint="Name it, as in Lens(model='lens-nano', judge='nano'), or use "
        "lens_prompt_opt.PromptStudy with parts of your own.",
    )
