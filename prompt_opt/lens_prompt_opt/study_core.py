"""The steps that all studies share: split, run, record, estimate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lens_prompt_opt.budget import Budget
from lens_prompt_opt.estimate import StudyEstimate, StudyPlan, UnitPrices, estimate
from lens_prompt_opt.journal import Journal, MemoryJournal
from lens_prompt_opt.progress import ProgressCallback
from lens_prompt_opt.requests import Splits
from lens_prompt_opt.result import StudyResult
from lens_prompt_opt.run_directory import (
    CARD_FILE,
    RESULT_FILE,
    UNPROVEN_FILE,
    RunDirectory,
    generator_card_files,
)
from lens_prompt_opt.stopping import StopSwitch
from lens_prompt_opt.study_design import StudyDesign
from lens_prompt_opt.study_run import StudyRun
from lens_reasoner.prompts import SystemPrompt


class StudyCore(StudyDesign):
    """A study with any evaluator; `PromptStudy` builds one from a user's parts."""

    async def run(
        self,
        *,
        seed: SystemPrompt,
        budget: Budget,
        run_dir: str | Path | None,
        random_seed: int,
        stop: StopSwitch | None = None,
        told: ProgressCallback | None = None,
    ) -> StudyResult:
        """See `PromptStudy.optimize`."""
        splits = self.prompts.split(random_seed, shares=self.shares)
        with self._journal(run_dir, seed, splits, random_seed) as (journal, directory):
            before = directory.last_result() if directory is not None else None
            run = StudyRun(self, seed, splits, budget, journal, random_seed, stop=stop, told=told)
            result = await run.finish(Path(run_dir) if run_dir is not None else None)
            result = result.model_copy(update={"earlier_ends": _earlier_ends(before, result)})
            if directory is not None:
                _keep(directory, result)
            return result

    def estimate(self, budget: Budget, prices: UnitPrices, random_seed: int) -> StudyEstimate:
        """See `PromptStudy.estimate`."""
        splits = self.prompts.split(random_seed, shares=self.shares)
        generators = len(self.idle_evaluator().generators)
        prompts = 2 + generators if generators > 1 else 2
        guard = (
            min(self.gate.guard_requests, len(splits.selection)) if self.gate.pictures == 1 else 0
        )
        plan = StudyPlan(
            test=prompts * len(splits.test) * self.test_pictures * generators,
            challenge=2 * (len(splits.selection) * self.gate.pictures + guard) * generators,
            calibration=4 * min(self.calibration_requests, len(splits.search)),
        )
        return estimate(budget, prices, plan)

    @contextmanager
    def _journal(
        self, run_dir: str | Path | None, seed: SystemPrompt, splits: Splits, random_seed: int
    ) -> Iterator[tuple[Journal, RunDirectory | None]]:
        if run_dir is None:
            yield MemoryJournal(), None
            return
        directory = RunDirectory(run_dir)
        with directory.open(self.description(seed, splits, random_seed)) as journal:
            yield journal, directory


def _keep(directory: RunDirectory, result: StudyResult) -> None:
    """Write the files of a finished run."""
    directory.write(RESULT_FILE, result.model_dump(mode="json", exclude={"run_dir"}))
    directory.write(CARD_FILE, result.best.model_dump(mode="json"))
    if result.unproven is not None:
        directory.write(UNPROVEN_FILE, result.unproven.model_dump(mode="json"))
    else:
        # Left by an earlier end, before the budget was raised.
        (directory.path / UNPROVEN_FILE).unlink(missing_ok=True)
    files = generator_card_files(found.generator for found in result.per_generator)
    for name, found in zip(files, result.per_generator, strict=True):
        directory.write(name, found.card.model_dump(mode="json"))


def _earlier_ends(before: Mapping[str, Any] | None, result: StudyResult) -> int:
    """How often the run has ended with another result than now, based on its previous result."""
    if before is None:
        return 0
    now = result.model_dump(
        mode="json", include={"best": {"system_prompt"}, "history": {"decisions"}}
    )
    try:
        same = (
            before["best"]["system_prompt"] == now["best"]["system_prompt"]
            and before["history"]["decisions"] == now["history"]["decisions"]
        )
    except (KeyError, TypeError):  # The file is from another version.
        same = False
    earlier = before.get("earlier_ends")
    return (earlier if isinstance(earlier, int) else 0) + (not same)
