"""What a strategy works with: evaluation, failures, proposals and challenges, within budget."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from lens_prompt_opt.budget import BudgetExhaustedError, Ledger
from lens_prompt_opt.cells import Cell, CellStream, Outcome
from lens_prompt_opt.decisions import Decision
from lens_prompt_opt.edits import Candidate, SectionEdit
from lens_prompt_opt.errors import EditError, ProposalError
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
from lens_prompt_opt.journal import Journal, JsonRecord
from lens_prompt_opt.outcome_book import OutcomeBook, Work
from lens_prompt_opt.paid_calls import PaidCalls
from lens_prompt_opt.proposer import ProposalBrief, Proposals, Proposer
from lens_prompt_opt.requests import Splits
from lens_prompt_opt.statistics.sequential import Expectation
from lens_prompt_opt.stopping import StopSwitch
from lens_reasoner.revision import Statement
from lens_reasoner.types import Usage

_ENOUGH_FAILURES = 4
_LOOKUPS = 48


class Desk:
    """A study's services to its strategy.

    Nothing here depends on the clock or on the order in which calls end, so a resumed run repeats
    the same steps on the recorded results.

    Attributes:
        seed: The candidate the study started from.
        splits: The requests. Strategies use `splits.search`, and the selection split only through
            `challenge`.
        history: What happened, for the report.
        ledger: What was spent.
        places: Indexes in the study of the generators that count in this search.
    """

    def __init__(
        self,
        *,
        name: str,
        seed: Candidate,
        splits: Splits,
        evaluator: Evaluator,
        book: OutcomeBook,
        proposer: Proposer,
        clusterer: FailureClusterer,
        keeper: GateKeeper,
        prompt_guard: PromptGuard,
        outcome_guard: OutcomeGuard,
        journal: Journal,
        ledger: Ledger,
        history: History,
        stop: StopSwitch,
        places: tuple[int, ...],
        show_pictures: bool = False,
    ) -> None:
        self.seed = seed
        self.splits = splits
        self.history = history
        self.ledger = ledger
        self.places = places
        self._name = name
        self._evaluator = evaluator
        self._book = book
        self._proposer = proposer
        self._clusterer = clusterer
        self._keeper = keeper
        self._prompt_guard = prompt_guard
        self._outcome_guard = outcome_guard
        self._journal = journal
        self._show_pictures = show_pictures
        self._calls = PaidCalls(journal, ledger, history, stop)
        self._texts = {request.id: request.text for request in splits.search}
        self._proposals = 0
        self._failed_proposals = 0

    @property
    def incumbent(self) -> Candidate:
        """The last accepted candidate, or the seed."""
        return self._keeper.incumbent

    @property
    def generators(self) -> int:
        """Number of generators."""
        return len(self.places)

    @property
    def challenge_cells(self) -> int:
        """Maximum new images of the next challenge; the incumbent's are shared within an epoch."""
        stream = self._keeper.stream(self.places)
        cells = [cell for block in stream.blocks(len(stream)) for cell in block]
        cells += self._keeper.guard_cells(self.places)
        return len(cells) + len(self._book.unknown(self.incumbent, cells))

    def rng(self, purpose: str) -> random.Random:
        """A random generator that only depends on the study's seed and `purpose`."""
        return random.Random(f"{self._name}:{purpose}")

    def stream(self, purpose: str, *, pictures: int = 1) -> CellStream:
        """Cells for the search requests."""
        return CellStream(
            self.splits.search,
            f"{self._name}:{purpose}",
            pictures=pictures,
            generators=self.places,
        )

    def batch(self, purpose: str, size: int) -> list[Cell]:
        """`size` cells per generator over the search requests, as evenly as possible.

        Requests repeat, with other seeds, only after all have appeared. A longer batch for the same
        purpose begins with the shorter one.
        """
        count = len(self.splits.search)
        cells: list[Cell] = []
        for turn in range(-(-size // count)):
            stream = self.stream(f"{purpose}:{turn}")
            cells += [cell for block in stream.blocks(count) for cell in block]
        return cells[: size * self.generators]

    def fits(self, cells: int) -> bool:
        """Whether a block of this many new cells fits, beside the reserve for the final claim."""
        return self.ledger.fits(cells)

    async def evaluate(self, candidate: Candidate, cells: Sequence[Cell]) -> list[Outcome]:
        """Evaluate a candidate; outcomes are in the cells' order, and known ones cost nothing.

        Raises:
            BudgetExhaustedError: The new cells do not fit; nothing was paid.
            StudyInterruptedError: A service is down, or most cells of a block got no score.
        """
        [outcomes] = await self._book.evaluate([(candidate, cells)])
        return outcomes

    async def evaluate_many(self, work: Work) -> list[list[Outcome]]:
        """`evaluate` for several candidates as one block: all of it fits, or nothing is paid."""
        return await self._book.evaluate(work)

    def outcomes(self, candidate: Candidate, cells: Sequence[Cell]) -> list[Outcome]:
        """The known outcomes of a candidate on `cells`; costs nothing."""
        return self._book.known(candidate, cells)

    def kinds(self, request: str) -> Mapping[str, str]:
        """The kind of each criterion of a request; empty while its rubric is unknown."""
        rubric = self._evaluator.rubric(request)
        if rubric is None:
            return {}
        return {criterion.name: criterion.kind for criterion in rubric.criteria}

    async def failures(
        self, candidate: Candidate, outcomes: Sequence[Outcome], *, attribute: bool = True
    ) -> FailureReport:
        """Attribute failures and sort them into modes.

        Args:
            candidate: The candidate.
            outcomes: Its outcomes on the search split.
            attribute: Whether to find out which part is at fault; otherwise all failures count
                against the system prompt.
        """
        return await self.failures_of([(candidate, outcomes)], attribute=attribute)

    async def failures_of(
        self,
        observed: Sequence[tuple[Candidate, Sequence[Outcome]]],
        *,
        attribute: bool = True,
    ) -> FailureReport:
        """`failures` for several candidates together; recorded under the first."""
        failures: list[Failure] = []
        for candidate, outcomes in observed:
            failed = [o for o in outcomes if "no" in o.answers.values() or o.refused]
            said: Sequence[Mapping[str, Statement]] = [{} for _ in failed]
            if attribute:
                said = await self._book.statements(candidate, failed)
            failures += collect_failures(failed, said, self._evaluator.rubric, self._texts)

        async def call() -> tuple[JsonRecord, Usage, float]:
            clusters = await self._clusterer.cluster(failures)
            return clusters.model_dump(mode="json"), clusters.usage, clusters.seconds

        names: Sequence[str] = ()
        if failures:
            parts = [failure.model_dump_json() for failure in failures]
            record = await self._calls.make("cluster", "cluster", parts, call)
            if record is None:
                names = (await ByKind().cluster(failures)).names
            else:
                names = Clusters.model_validate(record).names
        checked = sum(count_answered(outcomes) for _, outcomes in observed)
        report = report_failures(failures, names, checked)
        self.history.failures(observed[0][0], report)
        return report

    async def propose(self, brief: ProposalBrief) -> list[tuple[SectionEdit, ...]]:
        """Ask the proposer for alternative edits; none if this call failed.

        Protected sections, the length limit and the seed are filled in here.

        Raises:
            BudgetExhaustedError: A proposal does not fit the budget.
            ProposalError: The proposer failed several times in a row.
        """
        if not self.ledger.fits(0, proposals=1):
            raise BudgetExhaustedError
        self._proposals += 1
        rules = self._prompt_guard.rules
        numbered = brief.model_copy(
            update={
                "seed": self.rng(f"proposal:{self._proposals}").getrandbits(31),
                "protected": rules.protected,
                "max_characters": rules.max_characters,
            }
        )
        pictures = self._pictures(brief) if self._show_pictures else {}

        async def call() -> tuple[JsonRecord, Usage, float]:
            proposals = await self._proposer.propose(numbered, pictures)
            return proposals.model_dump(mode="json"), proposals.usage, proposals.seconds

        parts = [self._proposer.name, numbered.model_dump_json()]
        record = await self._calls.make("propose", "propose", parts, call)
        self._failed_proposals = self._failed_proposals + 1 if record is None else 0
        if self._failed_proposals >= _ENOUGH_FAILURES:
            raise ProposalError(
                f"The proposer {self._proposer.name!r} failed {_ENOUGH_FAILURES} times in a row.",
                hint="See the notes in calls.jsonl, and choose another model.",
            )
        if record is None:
            return []
        return list(Proposals.model_validate(record).edits)[: brief.wanted]

    def _pictures(self, brief: ProposalBrief) -> dict[str, bytes]:
        """Failed images of the examples, those of the most frequent modes first."""
        examples = (failure for mode in brief.failures.modes for failure in mode.examples)
        names = dict.fromkeys(failure.image for failure in examples if failure.image)
        return {name: self._journal.picture(name) for name in names}

    def candidate(
        self,
        parent: Candidate,
        edits: Sequence[SectionEdit],
        *,
        origin: str,
        round: int,
        other_parents: Sequence[Candidate] = (),
    ) -> Candidate | None:
        """The edited candidate; None (recorded) if the edits do not apply or a guard rejects it."""
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
        # One block of lookups, which may cost money, is enough.
        mine = await self._evaluator.statements(challenger[:_LOOKUPS])
        theirs = await self._evaluator.statements(incumbent[:_LOOKUPS])
        return findings + self._outcome_guard.check_intent(mine, theirs)

    async def challenge(
        self, challenger: Candidate, *, expected: Expectation | None = None
    ) -> Decision:
        """Test a candidate against the incumbent on the selection split; see the gate."""
        decision = await self._keeper.challenge(challenger, self, expected=expected)
        self.history.decision(decision)
        return decision
