"""What a strategy works with: evaluation, failures, proposals and challenges, all accounted."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from lens_prompt_opt.budget import BudgetExhaustedError, Ledger, Stage
from lens_prompt_opt.cells import Cell, CellStream, Outcome
from lens_prompt_opt.decisions import Decision
from lens_prompt_opt.edits import Candidate, SectionEdit
from lens_prompt_opt.errors import EditError, ProposalError, StudyInterruptedError
from lens_prompt_opt.evaluation import Evaluator
from lens_prompt_opt.failures import (
    ByKind,
    Clusters,
    Failure,
    FailureClusterer,
    FailureReport,
    collect_failures,
    count_answered,
    report_failures,
)
from lens_prompt_opt.gate import GateKeeper
from lens_prompt_opt.guards import GuardFinding, OutcomeGuard, PromptGuard
from lens_prompt_opt.history import History
from lens_prompt_opt.journal import Journal, JsonRecord, call_key
from lens_prompt_opt.outages import is_outage
from lens_prompt_opt.proposer import ProposalBrief, Proposals, Proposer
from lens_prompt_opt.requests import Splits
from lens_prompt_opt.statistics.sequential import Expectation
from lens_reasoner.errors import ReasonerError
from lens_reasoner.revision import Statement
from lens_reasoner.types import Usage

_ENOUGH_TO_JUDGE = 8
_ENOUGH_FAILURES = 4


class Desk:
    """A study's services to its strategy.

    Nothing here looks at the clock or at the order in which calls end, so a run that is resumed
    takes the same way again, over results that are on disk already.

    Attributes:
        seed: The candidate the study started from.
        splits: The requests; strategies use `splits.search`, and selection only by `challenge`.
        history: What happened, for the report.
        ledger: What was spent.
    """

    def __init__(
        self,
        *,
        name: str,
        seed: Candidate,
        splits: Splits,
        evaluator: Evaluator,
        proposer: Proposer,
        clusterer: FailureClusterer,
        keeper: GateKeeper,
        prompt_guard: PromptGuard,
        outcome_guard: OutcomeGuard,
        journal: Journal,
        ledger: Ledger,
        history: History,
        show_pictures: bool = False,
    ) -> None:
        self.seed = seed
        self.splits = splits
        self.history = history
        self.ledger = ledger
        self._name = name
        self._evaluator = evaluator
        self._proposer = proposer
        self._clusterer = clusterer
        self._keeper = keeper
        self._prompt_guard = prompt_guard
        self._outcome_guard = outcome_guard
        self._journal = journal
        self._show_pictures = show_pictures
        self._outcomes: dict[tuple[str, Cell], Outcome] = {}
        self._statements: dict[tuple[str, Cell], Mapping[str, Statement]] = {}
        self._texts = {request.id: request.text for part in (splits.search,) for request in part}
        self._proposals = 0
        self._failed_proposals = 0
        self._blocks = 0

    @property
    def incumbent(self) -> Candidate:
        """The last candidate that was accepted, or the seed."""
        return self._keeper.incumbent

    @property
    def generators(self) -> int:
        """Number of generators."""
        return self._evaluator.generators

    @property
    def challenge_requests(self) -> int:
        """Requests in the selection split."""
        return len(self.splits.selection)

    @property
    def challenge_cells(self) -> int:
        """Most new pictures the next challenge can need; the incumbent's are shared by an epoch."""
        stream = self._keeper.stream(self.generators)
        cells = [cell for block in stream.blocks(len(stream)) for cell in block]
        return len(cells) + len(self.new_cells(self.incumbent, cells))

    @property
    def keeper(self) -> GateKeeper:
        """Rules and record of the challenges."""
        return self._keeper

    @property
    def max_characters(self) -> int:
        """Longest rendered prompt that passes the guards."""
        return self._prompt_guard.rules.max_characters

    def rng(self, purpose: str) -> random.Random:
        """Random numbers that depend on the study's seed and `purpose` alone."""
        return random.Random(f"{self._name}:{purpose}")

    def stream(self, purpose: str, *, pictures: int = 1) -> CellStream:
        """Cells over the search requests."""
        return CellStream(
            self.splits.search,
            f"{self._name}:{purpose}",
            pictures=pictures,
            generators=self.generators,
        )

    def batch(self, purpose: str, size: int) -> list[Cell]:
        """So many cells over the search requests, as evenly as possible.

        Requests come again with other seeds only when all have come; a longer batch of the same
        purpose begins with the shorter one.
        """
        count = len(self.splits.search)
        cells: list[Cell] = []
        for turn in range(-(-size // count)):
            stream = self.stream(f"{purpose}:{turn}")
            cells += [cell for block in stream.blocks(count) for cell in block]
        return cells[: size * self.generators]

    def new_cells(self, candidate: Candidate, cells: Sequence[Cell]) -> list[Cell]:
        """Those of `cells` that were not evaluated yet."""
        known = self._outcomes
        return [cell for cell in cells if (candidate.id, cell) not in known]

    def fits(self, cells: int) -> bool:
        """Whether a block of so many new cells fits, beside what the final claim needs."""
        return self.ledger.fits(cells)

    async def evaluate(self, candidate: Candidate, cells: Sequence[Cell]) -> list[Outcome]:
        """Outcomes of a candidate, in the order of the cells; known ones cost nothing.

        Raises:
            BudgetExhaustedError: If the new cells do not fit; nothing was paid then.
            StudyInterruptedError: If a service is out, or most cells of a block gave no score.
        """
        [outcomes] = await self._evaluate([(candidate, cells)], reserve=True)
        return outcomes

    async def evaluate_claim(
        self, first: Candidate, second: Candidate, cells: Sequence[Cell]
    ) -> tuple[list[Outcome], list[Outcome]]:
        """Outcomes of two candidates from what is held back for the final claim.

        Raises:
            BudgetExhaustedError: If it does not fit after all; nothing was paid then.
        """
        work = [(first, cells), (second, cells)]
        one, other = await self._evaluate(work, reserve=False)
        return one, other

    async def evaluate_many(
        self, work: Sequence[tuple[Candidate, Sequence[Cell]]]
    ) -> list[list[Outcome]]:
        """`evaluate` for several candidates as one block: all of it fits, or nothing is paid."""
        return await self._evaluate(work, reserve=True)

    async def _evaluate(
        self, work: Sequence[tuple[Candidate, Sequence[Cell]]], *, reserve: bool
    ) -> list[list[Outcome]]:
        known = self._outcomes
        new = {
            (candidate.id, cell): (candidate.prompt, cell)
            for candidate, cells in work
            for cell in cells
            if (candidate.id, cell) not in known
        }
        if new:
            if not self.ledger.fits(len(new), reserve=reserve):
                raise BudgetExhaustedError
            started = time.perf_counter()
            outcomes = await self._evaluator.evaluate(list(new.values()))
            self._count_time(time.perf_counter() - started)
            _refuse_if_unjudged(outcomes)
            known.update(zip(new, outcomes, strict=True))
        return [[known[candidate.id, cell] for cell in cells] for candidate, cells in work]

    def _count_time(self, seconds: float) -> None:
        """Enter a block's time; on resuming, the time it took at first."""
        self._blocks += 1
        key = f"block:{self._blocks}"
        record = self._journal.get(key)
        if record is None:
            record = {"seconds": seconds}
            self._journal.put(key, record)
        self.ledger.wall_seconds += record["seconds"]

    def outcomes(self, candidate: Candidate, cells: Sequence[Cell]) -> list[Outcome]:
        """What is known of a candidate on `cells`, without paying."""
        pairs = ((candidate.id, cell) for cell in cells)
        return [self._outcomes[pair] for pair in pairs if pair in self._outcomes]

    def kinds(self, request: str) -> Mapping[str, str]:
        """The kind of each criterion of a request; empty before its rubric is known."""
        rubric = self._evaluator.rubric(request)
        if rubric is None:
            return {}
        return {criterion.name: criterion.kind for criterion in rubric.criteria}

    async def statements(
        self, candidate: Candidate, outcomes: Sequence[Outcome]
    ) -> list[Mapping[str, Statement]]:
        """What the rewrites of `outcomes` say about their criteria, as far as it is known."""
        new = [o for o in outcomes if (candidate.id, o.cell) not in self._statements]
        found = await self._evaluator.statements(new) if new else []
        for outcome, said in zip(new, found, strict=True):
            self._statements[candidate.id, outcome.cell] = said
        return [self._statements[candidate.id, outcome.cell] for outcome in outcomes]

    async def failures(
        self, candidate: Candidate, outcomes: Sequence[Outcome], *, attribute: bool = True
    ) -> FailureReport:
        """What failed, sorted into modes.

        Args:
            candidate: The candidate the outcomes are of.
            outcomes: Outcomes on the search split.
            attribute: Whether to look up whose fault each failure was; otherwise all count
                against the system prompt.
        """
        return await self.failures_of([(candidate, outcomes)], attribute=attribute)

    async def failures_of(
        self,
        observed: Sequence[tuple[Candidate, Sequence[Outcome]]],
        *,
        attribute: bool = True,
    ) -> FailureReport:
        """`failures` of several candidates together; it is noted under the first."""
        failures: list[Failure] = []
        for candidate, outcomes in observed:
            failed = [o for o in outcomes if "no" in o.answers.values()]
            said: Sequence[Mapping[str, Statement]] = [{} for _ in failed]
            if attribute:
                said = await self.statements(candidate, failed)
            failures += collect_failures(failed, said, self._evaluator.rubric, self._texts)

        async def call() -> tuple[JsonRecord, Usage, float]:
            clusters = await self._clusterer.cluster(failures)
            return clusters.model_dump(mode="json"), clusters.usage, clusters.seconds

        names: Sequence[str] = ()
        if failures:
            parts = [failure.model_dump_json() for failure in failures]
            record = await self._paid("propose", "cluster", parts, call)
            if record is None:
                names = (await ByKind().cluster(failures)).names
            else:
                names = Clusters.model_validate(record).names
        checked = sum(count_answered(outcomes) for _, outcomes in observed)
        report = report_failures(failures, names, checked)
        self.history.failures(observed[0][0], report)
        return report

    async def propose(self, brief: ProposalBrief) -> list[tuple[SectionEdit, ...]]:
        """Alternatives from the proposer; none if this call of it failed.

        Raises:
            BudgetExhaustedError: If a proposal does not fit.
            ProposalError: If the proposer failed several times in a row.
        """
        if not self.ledger.fits(0, proposals=1):
            raise BudgetExhaustedError
        self._proposals += 1
        numbered = brief.model_copy(
            update={"seed": self.rng(f"proposal:{self._proposals}").getrandbits(31)}
        )
        pictures = {}
        if self._show_pictures:
            names = {f.image for mode in brief.failures.modes for f in mode.examples if f.image}
            pictures = {name: self._journal.picture(name) for name in sorted(names)}

        async def call() -> tuple[JsonRecord, Usage, float]:
            proposals = await self._proposer.propose(numbered, pictures)
            return proposals.model_dump(mode="json"), proposals.usage, proposals.seconds

        parts = [self._proposer.name, numbered.model_dump_json()]
        record = await self._paid("propose", "propose", parts, call)
        self._failed_proposals = self._failed_proposals + 1 if record is None else 0
        if self._failed_proposals >= _ENOUGH_FAILURES:
            raise ProposalError(
                f"The proposer {self._proposer.name!r} failed {_ENOUGH_FAILURES} times in a row.",
                hint="See the notes of calls.jsonl, and choose another model.",
            )
        if record is None:
            return []
        return list(Proposals.model_validate(record).edits)[: brief.wanted]

    async def _paid(
        self,
        stage: Stage,
        what: str,
        parts: Sequence[object],
        call: Callable[[], Awaitable[tuple[JsonRecord, Usage, float]]],
    ) -> JsonRecord | None:
        """The result of a call, kept on disk; None, kept as well, if the call failed by itself."""
        key = call_key(what, *parts)
        kept = self._journal.get(key)
        if kept is None:
            kept = await _attempt(call)
            self._journal.put(key, kept)
        self.ledger.add(stage, Usage.model_validate(kept["usage"]), kept["seconds"])
        if "failure" in kept:
            self.history.note(f"{what} failed: {kept['failure']}")
            return None
        result: JsonRecord = kept["value"]
        return result

    def candidate(
        self,
        parent: Candidate,
        edits: Sequence[SectionEdit],
        *,
        origin: str,
        round: int,
        other_parents: Sequence[Candidate] = (),
    ) -> Candidate | None:
        """The candidate that `edits` make, if they fit and pass the guards; else it is noted."""
        try:
            made = Candidate.edited(
                parent,
                edits,
                origin=origin,
                round=round,
                protected=self._prompt_guard.rules.protected,
                other_parents=other_parents,
            )
        except EditError as error:
            self.history.dropped(parent, str(error))
            return None
        findings = self._prompt_guard.check(made)
        self.history.candidate(made, findings)
        return None if findings else made

    async def guard(
        self, challenger: Sequence[Outcome], incumbent: Sequence[Outcome]
    ) -> list[GuardFinding]:
        """See `Arena.guard`."""
        findings = self._outcome_guard.check(challenger, incumbent)
        mine = await self._evaluator.statements(challenger)
        theirs = await self._evaluator.statements(incumbent)
        return findings + self._outcome_guard.check_intent(mine, theirs)

    async def challenge(
        self, challenger: Candidate, *, expected: Expectation | None = None
    ) -> Decision:
        """Hold a candidate against the incumbent on the selection split; see the gate."""
        decision = await self._keeper.challenge(challenger, self, expected=expected)
        self.history.decision(decision)
        return decision


async def _attempt(
    call: Callable[[], Awaitable[tuple[JsonRecord, Usage, float]]],
) -> JsonRecord:
    started = time.perf_counter()
    try:
        value, usage, seconds = await call()
    except ReasonerError as error:
        if is_outage(error):
            raise StudyInterruptedError(
                f"The study stopped while improving the prompt: {error}",
                hint="What was paid for is kept; run it again with the same run_dir to go on.",
            ) from error
        spent = getattr(error, "usage", None) or Usage.zero()
        return {
            "failure": f"{type(error).__name__}: {error.message}",
            "usage": spent.model_dump(mode="json"),
            "seconds": time.perf_counter() - started,
        }
    return {"value": value, "usage": usage.model_dump(mode="json"), "seconds": seconds}


def _refuse_if_unjudged(outcomes: Sequence[Outcome]) -> None:
    missing = [outcome for outcome in outcomes if outcome.score is None]
    if len(outcomes) >= _ENOUGH_TO_JUDGE and 2 * len(missing) > len(outcomes):
        raise StudyInterruptedError(
            f"{len(missing)} of {len(outcomes)} pictures got no score; the first because of: "
            f"{missing[0].failure or 'no criterion could be answered'}.",
            hint="Check the judge and the criteria; scores from so few would mislead.",
        )
