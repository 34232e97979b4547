"""GEPA (github.com/gepa-ai/gepa) as a search strategy, through an adapter."""

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
    """Runs `gepa.optimize` with its defaults on the search split, within the study's budget.

    By default, GEPA accepts a child if its sum of scores on 3 requests is higher than its parent's,
    evaluates it on the whole validation set, and returns the candidate with the highest mean there.
    Its reflection is replaced by the study's proposer, so that strategies are compared with equal
    help. The gate is not used; the study makes the final claim on the test split, as for every
    strategy. A resumed study runs GEPA again on the recorded results.

    Attributes:
        sectioned: Whether each section is a separate component, changed in turn. Otherwise the
            whole prompt is the only component, as usual with GEPA.
        validation_share: Share of the search requests for GEPA's validation set.
        merge: Whether GEPA may merge candidates; only useful with sections.
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
            StudyConfigError: GEPA is not installed.
        """
        try:
            gepa: Any = import_module("gepa")
        except ImportError as error:
            raise StudyConfigError(
                "The gepa engine needs the package 'gepa'.",
                hint="Install it with: pip install lens-sdk[gepa]",
            ) from error
        # The study's budget ends the search. GEPA also counts results that are already known, which
        # cost nothing here.
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
            # Cancelling a study does not stop the thread, which must not make further calls.
            await adapter.close()
        return adapter.candidate(result.best_candidate)


class _Silent:
    def log(self, message: str) -> None:
        pass


class _Adapter:
    """GEPA's adapter; called in GEPA's thread, works in the study's event loop."""

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
        """Cancel the calls in flight, and start no more."""
        self._closed = True
        for work in self._under_way:
            work.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def components(self, prompt: SystemPrompt) -> dict[str, str]:
        """Convert a prompt to GEPA's candidate."""
        if not self._sectioned:
            return {_WHOLE: prompt.render()}
        return {section.name: section.text for section in prompt.sections}

    def candidate(self, components: Mapping[str, str]) -> Candidate:
        """Convert GEPA's candidate to ours."""
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
        """Stop GEPA when the budget is exhausted."""
        return self._exhausted

    def evaluate(
        self, batch: list[Cell], candidate: dict[str, str], capture_traces: bool = False
    ) -> Any:
        """Scores of a candidate. A missing score becomes 0, because GEPA has no missing scores."""
        made = self.candidate(candidate)
        outcomes: list[Outcome]
        try:
            outcomes = self._wait(self._desk.evaluate(made, batch))
        except BudgetExhaustedError:
            # GEPA stops before its next step, so these scores decide nothing.
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
        """GEPA's record of the evaluation; our proposer uses the outcomes themselves."""
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
        """New texts from the study's proposer, based on the failures of the last minibatch."""
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
