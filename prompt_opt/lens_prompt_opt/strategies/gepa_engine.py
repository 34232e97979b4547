"""GEPA (github.com/gepa-ai/gepa) as a search engine, through an adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, TypeVar

from lens_prompt_opt.budget import BudgetExhaustedError
from lens_prompt_opt.cells import Cell, Outcome
from lens_prompt_opt.desk import Desk
from lens_prompt_opt.edits import Candidate, SectionEdit
from lens_prompt_opt.errors import EditError, StudyConfigError
from lens_prompt_opt.proposer import ProposalBrief
from lens_reasoner.prompts import SystemPrompt

_WHOLE = "system_prompt"

T = TypeVar("T")


@dataclass(frozen=True)
class GepaEngine:
    """Runs `gepa.optimize` with its defaults on the search split; the study pays and keeps record.

    As it comes, GEPA takes a child if it has a higher sum on 3 requests than its parent, evaluates
    it on the whole validation set, and returns the candidate with the highest mean there. Its
    reflection is replaced by the study's proposer, so that engines are compared with equal help.
    The gate is not asked; the final claim on the test split is the study's, as for every strategy.
    Resuming works by running it again over results that are on disk.

    Attributes:
        sectioned: Whether each section is a component of its own, changed in turn, or the prompt
            as a whole is the only one, as users of GEPA do it.
        validation_share: Share of the search requests that is GEPA's validation set.
        merge: Whether GEPA may merge candidates; only of use with sections.
        name: Name for records.
    """

    sectioned: bool = False
    validation_share: float = 0.5
    merge: bool = False
    name: str = "gepa"

    @property
    def description(self) -> dict[str, object]:
        """See `Strategy.description`."""
        return asdict(self)

    async def search(self, desk: Desk) -> Candidate:
        """See `Strategy.search`.

        Raises:
            StudyConfigError: If GEPA is not installed.
        """
        try:
            gepa: Any = import_module("gepa")
        except ImportError as error:
            raise StudyConfigError(
                "The gepa engine needs the package 'gepa'.",
                hint="Install it with: pip install lens-sdk[gepa]",
            ) from error
        # The study's budget ends the search; results that are known already cost nothing here,
        # though GEPA counts them again.
        calls = 20 * desk.ledger.cells_left(most=100_000)
        cells = desk.batch("gepa", len(desk.splits.search))
        cut = round(len(cells) * (1 - self.validation_share))
        adapter = _Adapter(desk, asyncio.get_running_loop(), self.sectioned)
        try:
            result = await asyncio.to_thread(
                gepa.optimize,
                seed_candidate=adapter.components(desk.seed.prompt),
                trainset=cells[:cut],
                valset=cells[cut:],
                adapter=adapter,
                max_metric_calls=calls,
                seed=desk.rng("gepa").getrandbits(31),
                logger=_Silent(),
                use_merge=self.merge,
                stop_callbacks=adapter.stop,
            )
        finally:
            # Cancelling a study does not end the thread; it must not go on paying.
            await adapter.close()
        return adapter.candidate(result.best_candidate)


class _Silent:
    def log(self, message: str) -> None:
        pass


class _Adapter:
    """What GEPA asks of its user; called in its thread, works in the study's loop."""

    def __init__(self, desk: Desk, loop: asyncio.AbstractEventLoop, sectioned: bool) -> None:
        self._desk = desk
        self._loop = loop
        self._sectioned = sectioned
        self._reports: dict[str, list[Outcome]] = {}
        self._exhausted = False
        self._round = 0
        self._closed = False
        self._under_way: set[asyncio.Future[Any]] = set()

    async def close(self) -> None:
        """End what GEPA waits for, and begin nothing more for it."""
        self._closed = True
        for work in self._under_way:
            work.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def components(self, prompt: SystemPrompt) -> dict[str, str]:
        """A prompt as GEPA's candidate."""
        if not self._sectioned:
            return {_WHOLE: prompt.render()}
        return {section.name: section.text for section in prompt.sections}

    def candidate(self, components: Mapping[str, str]) -> Candidate:
        """GEPA's candidate as ours."""
        sections = dict(components) if self._sectioned else _parsed(components[_WHOLE])
        seed = self._desk.seed
        before = {section.name: section.text for section in seed.prompt.sections}
        edits = [
            SectionEdit(section=name, kind="replace" if name in before else "add", text=text)
            for name, text in sections.items()
            if text != before.get(name)
        ]
        edits += [
            SectionEdit(section=name, kind="remove") for name in before if name not in sections
        ]
        if not edits:
            return seed
        made = self._desk.candidate(seed, edits, origin="gepa", round=self._round)
        return made or seed

    def stop(self, state: Any) -> bool:
        """Tell GEPA that the budget is used up."""
        return self._exhausted

    def evaluate(
        self, batch: list[Cell], candidate: dict[str, str], capture_traces: bool = False
    ) -> Any:
        """Scores of a candidate; without a score counts as 0, as GEPA knows no missing ones."""
        made = self.candidate(candidate)
        outcomes: list[Outcome]
        try:
            outcomes = self._wait(self._desk.evaluate(made, batch))
        except BudgetExhaustedError:
            # GEPA stops before its next step; what it is told here decides nothing.
            self._exhausted = True
            outcomes = [Outcome(cell, 0.0) for cell in batch]
        self._reports[made.id] = outcomes
        return import_module("gepa").EvaluationBatch(
            outputs=outcomes,
            scores=[outcome.score or 0.0 for outcome in outcomes],
            trajectories=outcomes if capture_traces else None,
        )

    def make_reflective_dataset(
        self,
        candidate: dict[str, str],
        eval_batch: Any,
        components_to_update: list[str],
    ) -> dict[str, list[dict[str, object]]]:
        """What GEPA records of the evaluation; our proposer reads the outcomes themselves."""
        records: list[dict[str, object]] = [
            {
                "Inputs": outcome.cell.request,
                "Generated Outputs": outcome.rewrite,
                "Feedback": ", ".join(n for n, a in outcome.answers.items() if a == "no"),
            }
            for outcome in eval_batch.outputs
        ]
        return dict.fromkeys(components_to_update, records)

    def propose_new_texts(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        """New texts from the study's proposer, told of the failures of the last minibatch."""
        texts: dict[str, str] = self._wait(self._propose(candidate, components_to_update))
        return texts

    async def _propose(
        self, candidate: Mapping[str, str], components: Sequence[str]
    ) -> dict[str, str]:
        self._round += 1
        made = self.candidate(candidate)
        report = await self._desk.failures(made, self._reports[made.id], attribute=False)
        brief = ProposalBrief(
            prompt=made.prompt,
            failures=report,
            scope="section" if self._sectioned else "whole",
        )
        for edits in await self._desk.propose(brief):
            try:
                changed = Candidate.edited(made, edits)
            except EditError:
                continue
            if not self._sectioned:
                return {_WHOLE: changed.prompt.render()}
            texts = {section.name: section.text for section in changed.prompt.sections}
            return {name: texts[name] for name in candidate if name in texts}
        return {name: candidate[name] for name in components}

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(self._unless_closed(work), self._loop).result()

    async def _unless_closed(self, work: Coroutine[Any, Any, T]) -> T:
        if self._closed:
            work.close()
            raise asyncio.CancelledError
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        try:
            return await task
        finally:
            self._under_way.discard(task)


def _parsed(rendered: str) -> dict[str, str]:
    sections: dict[str, list[str]] = {}
    name = ""
    for line in rendered.split("\n"):
        if line.startswith("## "):
            name = line[3:].strip()
            sections[name] = []
        elif name:
            sections[name].append(line)
    return {name: "\n".join(lines).strip() for name, lines in sections.items()}
