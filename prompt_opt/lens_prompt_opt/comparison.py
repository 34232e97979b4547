"""The optimised prompt compared with the seed prompt, on cells that no decision was based on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import fmean

from lens_prompt_opt.card import GainClaim, KindChange
from lens_prompt_opt.cells import Outcome, mean_score, paired_differences, undecided_share
from lens_prompt_opt.edits import Candidate, SectionEdit
from lens_prompt_opt.result import PicturePair, Side
from lens_prompt_opt.statistics.intervals import IntervalMethod
from lens_reasoner.prompts import SystemPrompt
from lens_reasoner.types import Rubric


class Comparison:
    """Two prompts on the same cells."""

    def __init__(
        self,
        after: Sequence[Outcome],
        before: Sequence[Outcome],
        kinds: Callable[[str], Mapping[str, str]],
        method: IntervalMethod,
        confidence: float,
    ) -> None:
        """Pair the outcomes.

        Args:
            after: Outcomes of the optimised prompt.
            before: Outcomes of the seed prompt on the same cells, in the same order.
            kinds: Kind of each criterion of a request.
            method: How intervals are computed.
            confidence: Their confidence.
        """
        self._after = after
        self._before = before
        self._kinds = kinds
        self._method = method
        self._confidence = confidence

    def claim(self, pictures: int) -> GainClaim | None:
        """The claim; None if no cell has a score under both prompts."""
        differences = list(paired_differences(self._after, self._before).values())
        if not differences:
            return None
        kinds = {kind for o in self._after for kind in self._kinds(o.cell.request).values()}
        changes = [self._change(kind) for kind in sorted(kinds)]
        return GainClaim(
            gain=fmean(differences),
            interval=self._method.interval(differences, self._confidence),
            confidence=self._confidence,
            method=self._method.name,
            # Means over the cells of the gain, so that the gain is their difference.
            seed_score=mean_score(old for _, old in self._scored) or 0.0,
            best_score=mean_score(new for new, _ in self._scored) or 0.0,
            requests=len(differences),
            pictures=pictures,
            kinds=tuple(change for change in changes if change is not None),
            undecided=(
                undecided_share(self._before) or 0.0,
                undecided_share(self._after) or 0.0,
            ),
        )

    @property
    def _scored(self) -> list[tuple[Outcome, Outcome]]:
        """Pairs (after, before) in which both have a score."""
        pairs = zip(self._after, self._before, strict=True)
        return [(a, b) for a, b in pairs if a.score is not None and b.score is not None]

    def pictures(
        self, texts: Mapping[str, str], rubric: Callable[[str], Rubric | None]
    ) -> tuple[PicturePair, ...]:
        """Pairs of outcomes with what is needed to show them.

        Args:
            texts: Request texts by id.
            rubric: Returns a request's criteria.
        """
        return tuple(
            PicturePair(
                request=texts[one.cell.request],
                seed=one.cell.seed,
                generator=one.cell.generator,
                before=_side(other),
                after=_side(one),
                questions=_questions(rubric(one.cell.request)),
            )
            for one, other in zip(self._after, self._before, strict=True)
        )

    def tested(self, edit: SectionEdit) -> SectionEdit:
        """The edit with its test result, on the kinds of criteria it aims at or else on all."""
        rates = self._rates(edit.hypothesis.kinds)
        if not rates:
            return edit
        gains = [new - old for new, old in rates]
        return edit.tested(fmean(gains), self._method.interval(gains, self._confidence))

    def _change(self, kind: str) -> KindChange | None:
        rates = self._rates((kind,))
        if not rates:
            return None
        return KindChange(
            kind=kind,
            before=fmean(old for _, old in rates),
            after=fmean(new for new, _ in rates),
            interval=self._method.interval([new - old for new, old in rates], self._confidence),
            requests=len(rates),
        )

    def _rates(self, kinds: Collection[str]) -> list[tuple[float, float]]:
        """Pass rates (after, before) by request, over criteria decided under both prompts."""
        found: dict[str, list[tuple[float, float]]] = {}
        for one, other in zip(self._after, self._before, strict=True):
            for name, kind in self._kinds(one.cell.request).items():
                new, old = one.met(name), other.met(name)
                if (not kinds or kind in kinds) and new is not None and old is not None:
                    found.setdefault(one.cell.request, []).append((float(new), float(old)))
        return [
            (fmean(new for new, _ in pairs), fmean(old for _, old in pairs))
            for pairs in found.values()
        ]


def _side(outcome: Outcome) -> Side:
    return Side(
        image=outcome.image,
        score=outcome.score,
        rewrite=outcome.rewrite,
        answers=dict(outcome.answers),
        evidence={name: text for name, text in outcome.evidence.items() if text},
        failure=outcome.failure,
    )


def _questions(rubric: Rubric | None) -> dict[str, str]:
    return {c.name: c.question for c in rubric.criteria} if rubric is not None else {}


def surviving_edits(prompt: SystemPrompt, lineage: Sequence[Candidate]) -> tuple[SectionEdit, ...]:
    """The edits whose text is still in `prompt`, in the order of its sections."""
    latest = {edit.section: edit for candidate in lineage for edit in candidate.edits}
    return tuple(
        latest[section.name]
        for section in prompt.sections
        if section.name in latest and latest[section.name].text.strip() == section.text
    )
