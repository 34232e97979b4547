"""Prompt studies started from a client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
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
    """Run a study in a folder, or continue the one that is there; see `AsyncLens.optimize`."""
    from lens_prompt_opt import Budget
    from lens_sdk.optimize_run import ORDER_FILE, OptimizeRun, StudyOrder

    limits = Budget.model_validate(budget) if isinstance(budget, Mapping) else budget
    if (Path(folder) / ORDER_FILE).exists():
        changed = limits.model_dump(exclude_none=True)
        opened = partial(OptimizeRun.resume, folder, budget=changed)
    else:
        names = {role: _name(role, choice) for role, choice in choices.items()}
        usual = {
            "generators": (names["model"],),
            "reasoner": names["reasoner"],
            "judge": names["judge"],
            "rubric": settings.rubric,
            "proposer": settings.proposer,
            "budget": limits,
        }
        opened = partial(
            OptimizeRun.begin,
            StudyOrder.model_validate({**usual, **order}),
            folder,
            prompts=_prompts(requests).with_defaults(defaults or {}),
            seed=seed_prompt,
        )
    run = await asyncio.to_thread(opened, provider=settings.provider)
    return await run.run(on_progress=on_progress)


def _prompts(requests: PromptSet | Sequence[str] | str | Path) -> PromptSet:
    from lens_prompt_opt import PromptSet

    if isinstance(requests, str | Path):
        return PromptSet.load(requests)
    return requests if isinstance(requests, PromptSet) else PromptSet.of(requests)


def _name(role: str, choice: object) -> str:
    if isinstance(choice, str):
        return choice
    raise LoopConfigError(
        f"A study records its parts by name, and the {role} of this client is an object or none.",
        hint="Name it, as in Lens(model='lens-nano', judge='nano'), or use "
        "lens_prompt_opt.PromptStudy with your own parts.",
    )
