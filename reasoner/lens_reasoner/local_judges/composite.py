"""Several judges as one, each asked about what it does best."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence

from lens_reasoner.errors import JudgeError, LoopConfigError
from lens_reasoner.image import GeneratedImage
from lens_reasoner.judge import Judge
from lens_reasoner.together import together
from lens_reasoner.types import Criterion, CriterionKind, Rubric, Usage
from lens_reasoner.verdict import CriterionVerdict, Verdict


class CompositeJudge:
    """Sends each criterion to the judges for its kind, one after another until one can tell.

    If none of them can tell, `otherwise` is asked. A failed judge counts as "cannot tell"; the
    verdict only fails if no criterion was answered and a judge failed. `CriterionVerdict.judge`
    says who answered.

    Example:
        ```python
        judge = CompositeJudge({"text": [OcrJudge()]}, otherwise=RubricJudge())
        ```
    """

    def __init__(
        self, routes: Mapping[CriterionKind, Sequence[Judge]], *, otherwise: Judge | None = None
    ) -> None:
        """Choose the judges.

        Args:
            routes: For each kind of criterion, its judges in the order in which to ask them.
            otherwise: Asked last, and about all other kinds; None leaves those undecided.

        Raises:
            LoopConfigError: There is no judge at all.
        """
        self._routes = {kind: tuple(judges) for kind, judges in routes.items()}
        self._otherwise = otherwise
        if not self._judges:
            raise LoopConfigError("CompositeJudge was given no judges.", hint="Give it some.")

    @property
    def _judges(self) -> tuple[Judge, ...]:
        """All judges without duplicates, in the order in which they are asked."""
        every = [judge for judges in self._routes.values() for judge in judges]
        every += [self._otherwise] if self._otherwise is not None else []
        return tuple({id(judge): judge for judge in every}.values())

    @property
    def name(self) -> str:
        """The judges' names."""
        return "+".join(judge.name for judge in self._judges)

    @property
    def fingerprint(self) -> str:
        """A hash of the judges' fingerprints and of the routes."""
        known = [f"{j.name} {getattr(j, 'fingerprint', '')}" for j in self._judges]
        routes = {kind: [j.name for j in judges] for kind, judges in sorted(self._routes.items())}
        last = self._otherwise.name if self._otherwise else ""
        return hashlib.sha256(repr((known, routes, last)).encode()).hexdigest()[:16]

    def _route(self, criterion: Criterion) -> tuple[Judge, ...]:
        judges = self._routes.get(criterion.kind, ())
        return (*judges, self._otherwise) if self._otherwise is not None else judges

    async def judge(self, image: GeneratedImage, rubric: Rubric) -> Verdict:
        """See `Judge.judge`."""
        started = time.perf_counter()
        answers: dict[str, CriterionVerdict] = {}
        failures: dict[int, JudgeError] = {}
        spent, views = [Usage.zero()], []
        for turn in range(max(len(self._route(c)) for c in rubric.criteria)):
            pending = [c for c in rubric.criteria if not _decided(answers.get(c.name))]
            for judge, outcome in await self._turn(turn, pending, image, rubric):
                spent.append(outcome.usage or Usage())
                if isinstance(outcome, JudgeError):
                    failures[id(judge)] = outcome
                    continue
                views += [outcome.view] if outcome.view is not None else []
                for verdict in outcome.verdicts:
                    named = verdict.model_copy(update={"judge": verdict.judge or outcome.judge})
                    answers[verdict.criterion] = named
        if failures and not any(_decided(answer) for answer in answers.values()):
            first = next(iter(failures.values()))
            raise JudgeError(first.message, usage=Usage.total(spent), hint=first.hint) from first
        return Verdict(
            image_sha256=image.sha256,
            verdicts=tuple(
                self._final(criterion, answers.get(criterion.name), failures)
                for criterion in rubric.criteria
            ),
            judge=self.name,
            view=views[0] if views else None,
            seconds=time.perf_counter() - started,
            usage=Usage.total(spent),
        )

    def _final(
        self,
        criterion: Criterion,
        answer: CriterionVerdict | None,
        failures: Mapping[int, JudgeError],
    ) -> CriterionVerdict:
        """The answer; without one, "cannot_tell" and whether a failure is the reason."""
        if answer is not None and _decided(answer):
            return answer
        failed = [failures[id(j)].message for j in self._route(criterion) if id(j) in failures]
        if answer is None or failed:
            return CriterionVerdict(
                criterion=criterion.name,
                answer="cannot_tell",
                evidence=" ".join(failed) or "There is no judge for this kind of criterion.",
                weight=criterion.weight,
                failed=bool(failed),
            )
        return answer

    async def _turn(
        self, turn: int, pending: Sequence[Criterion], image: GeneratedImage, rubric: Rubric
    ) -> list[tuple[Judge, Verdict | JudgeError]]:
        """Ask all judges of this turn about their criteria, concurrently."""
        shares: dict[int, tuple[Judge, list[Criterion]]] = {}
        for criterion in pending:
            route = self._route(criterion)
            if turn < len(route):
                shares.setdefault(id(route[turn]), (route[turn], []))[1].append(criterion)

        async def ask(
            judge: Judge, criteria: list[Criterion]
        ) -> tuple[Judge, Verdict | JudgeError]:
            try:
                part = rubric.model_copy(update={"criteria": tuple(criteria)})
                return judge, await judge.judge(image, part)
            except JudgeError as error:
                return judge, error

        return await together(ask(judge, share) for judge, share in shares.values())


def _decided(verdict: CriterionVerdict | None) -> bool:
    return verdict is not None and verdict.answer != "cannot_tell"
