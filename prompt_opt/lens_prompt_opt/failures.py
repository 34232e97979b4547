"""Why criteria were not met, which part was at fault, and which failures are alike."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from pydantic import Field

from lens_prompt_opt.cells import Cell, Outcome
from lens_reasoner.revision import Fault, Statement
from lens_reasoner.types import Criterion, CriterionKind, Rubric, Seconds, Usage, Value

_Picture = tuple[str, int, int, int]
_Question = tuple[_Picture, str]


class Failure(Value):
    """One criterion that one image did not meet.

    Attributes:
        request: The request's text.
        criterion: The criterion.
        evidence: What the judge saw instead.
        rewrite: The prompt given to the generator.
        statement: What the rewrite says about the criterion; None if unchecked.
        fault: "reasoner" if the rewrite omits or contradicts the criterion; else "judge" if votes
            on the same image disagree; else "generator". If the rewrite was not checked at all,
            "reasoner".
        image: Name of the image in the journal.
    """

    request: str
    criterion: Criterion
    evidence: str = ""
    rewrite: str = ""
    statement: Statement | None = None
    fault: Fault
    image: str = ""


class FailureMode(Value):
    """A group of similar failures.

    Attributes:
        name: Name, such as "count: missing from the rewrite".
        kinds: Kinds of the criteria concerned.
        fault: The part at fault; only modes of the "reasoner" are worth an edit.
        count: Number of failures.
        share: Share of all criteria that were checked.
        examples: Some of the failures.
    """

    name: str
    kinds: tuple[CriterionKind, ...]
    fault: Fault
    count: int = Field(ge=1)
    share: float = Field(ge=0, le=1)
    examples: tuple[Failure, ...] = ()


class FailureReport(Value):
    """Everything that failed in a set of outcomes.

    Attributes:
        modes: The reasoner's modes first, then by frequency.
        checked: Number of criteria with an answer.
        by_fault: Number of failures by the part at fault.
    """

    modes: tuple[FailureMode, ...]
    checked: int
    by_fault: dict[Fault, int]

    @property
    def worth_an_edit(self) -> tuple[FailureMode, ...]:
        """The modes that a better system prompt can fix."""
        return tuple(mode for mode in self.modes if mode.fault == "reasoner")


class Clusters(Value):
    """The modes that failures were sorted into.

    Attributes:
        names: Name of each failure's mode, in the order of the failures.
        usage: What sorting consumed.
        seconds: Duration of sorting.
    """

    names: tuple[str, ...]
    usage: Usage = Usage.zero()
    seconds: Seconds = 0.0


class FailureClusterer(Protocol):
    """Sorts failures into named modes."""

    async def cluster(self, failures: Sequence[Failure]) -> Clusters:
        """Name the mode of each failure.

        Raises:
            ReasonerError: The failures could not be sorted.
        """
        ...


_WORDS: Mapping[Statement | None, str] = {
    "missing": "left out of the rewrite",
    "contradicted": "contradicted by the rewrite",
    "stated": "stated but not drawn",
    None: "not met",
}


class ByKind:
    """Names modes by the kind of criterion and what happened to it; needs no language model."""

    async def cluster(self, failures: Sequence[Failure]) -> Clusters:
        """See `FailureClusterer.cluster`."""
        return Clusters(names=tuple(_name(failure) for failure in failures))


def _name(failure: Failure) -> str:
    what = "votes disagree" if failure.fault == "judge" else _WORDS[failure.statement]
    return f"{failure.criterion.kind}: {what}"


def collect_failures(
    outcomes: Sequence[Outcome],
    statements: Sequence[Mapping[str, Statement]],
    rubric: Callable[[str], Rubric | None],
    texts: Mapping[str, str],
) -> list[Failure]:
    """Collect every criterion answered "no", and every refusal, with the part at fault.

    Args:
        outcomes: The outcomes; several votes on one image count as one outcome.
        statements: For each outcome, what its rewrite says about its criteria.
        rubric: Returns a request's criteria.
        texts: Request texts by id.
    """
    votes = _votes(outcomes)
    failures = []
    for outcome, said in zip(outcomes, statements, strict=True):
        criteria = rubric(outcome.cell.request)
        if outcome.refused:
            failures.append(_refusal(outcome, texts[outcome.cell.request]))
        if outcome.cell.vote or criteria is None:
            continue
        for criterion in criteria.criteria:
            answers = votes[_picture(outcome.cell), criterion.name]
            if not answers["no"]:
                continue
            statement = said.get(criterion.name)
            disputed = criterion.name in outcome.disputed or bool(answers["yes"])
            failures.append(
                Failure(
                    request=texts[outcome.cell.request],
                    criterion=criterion,
                    evidence=outcome.evidence.get(criterion.name, ""),
                    rewrite=outcome.rewrite,
                    statement=statement,
                    fault=_fault(statement, disputed=disputed, looked_up=bool(said)),
                    image=outcome.image,
                )
            )
    return failures


DRAWN = Criterion(name="drawn at all", kind="other", question="Was a picture drawn at all?")
"""The criterion that a refused request fails."""


def _refusal(outcome: Outcome, request: str) -> Failure:
    return Failure(
        request=request,
        criterion=DRAWN,
        evidence=outcome.failure,
        rewrite=outcome.rewrite,
        fault="reasoner",
    )


def _fault(statement: Statement | None, *, disputed: bool, looked_up: bool) -> Fault:
    if not looked_up or statement in {"missing", "contradicted"}:
        return "reasoner"
    return "judge" if disputed else "generator"


def report_failures(
    failures: Sequence[Failure], names: Sequence[str], checked: int, *, examples: int = 4
) -> FailureReport:
    """Count failures by mode; a name with several faults becomes one mode for each.

    Args:
        failures: The failures.
        names: The mode of each.
        checked: Number of criteria with an answer.
        examples: Maximum number of examples per mode, each from another request.
    """
    groups: dict[tuple[str, Fault], list[Failure]] = {}
    for failure, name in zip(failures, names, strict=True):
        groups.setdefault((name, failure.fault), []).append(failure)
    modes = [_mode(name, alike, checked, examples) for (name, _), alike in groups.items()]
    modes.sort(key=lambda mode: (mode.fault != "reasoner", -mode.count, mode.name))
    by_fault: dict[Fault, int] = dict(Counter(failure.fault for failure in failures))
    return FailureReport(modes=tuple(modes), checked=checked, by_fault=by_fault)


def count_answered(outcomes: Iterable[Outcome]) -> int:
    """Number of criteria that were answered yes or no."""
    return sum(
        answer != "cannot_tell"
        for outcome in outcomes
        if not outcome.cell.vote
        for answer in outcome.answers.values()
    )


def _mode(name: str, alike: Sequence[Failure], checked: int, examples: int) -> FailureMode:
    kinds = Counter(failure.criterion.kind for failure in alike)
    shown: dict[str, Failure] = {}
    for failure in alike:
        shown.setdefault(failure.request, failure)
    return FailureMode(
        name=name,
        kinds=tuple(sorted(kinds, key=lambda kind: (-kinds[kind], kind))),
        fault=alike[0].fault,
        count=len(alike),
        share=min(len(alike) / max(checked, 1), 1.0),
        examples=tuple(shown.values())[:examples],
    )


def _picture(cell: Cell) -> _Picture:
    return cell.request, cell.seed, cell.draw, cell.generator


def _votes(outcomes: Iterable[Outcome]) -> defaultdict[_Question, Counter[str]]:
    votes: defaultdict[_Question, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        for name, answer in outcome.answers.items():
            votes[_picture(outcome.cell), name][answer] += 1
    return votes
