"""Why an image lacks something, and whether another prompt could help."""

from __future__ import annotations

from collections.abc import Sequence

from lens_reasoner.revision import Fault, FidelityReport, Problem
from lens_reasoner.types import Criterion, Rubric
from lens_reasoner.verdict import CriterionVerdict, Verdict


def diagnose(
    verdict: Verdict, rubric: Rubric, fidelity: FidelityReport | None = None
) -> tuple[Problem, ...]:
    """Who is to blame for each criterion that was answered "no".

    A prompt that leaves a criterion out or contradicts it is the reasoner's fault, whatever was
    drawn from it. If the prompt states it, a judge whose votes disagree is not believed, and a
    judge of one mind shows the generator's fault. Where nobody looked a criterion up in the
    prompt, as with checks of the image as a whole, the prompt is taken to state it.

    Args:
        verdict: The answers about one image.
        rubric: The criteria.
        fidelity: What its prompt says about them; None if that is not known.
    """
    criteria = {criterion.name: criterion for criterion in rubric.criteria}
    return tuple(
        _problem(answer, criteria[answer.criterion], fidelity)
        for answer in verdict.verdicts
        if answer.answer == "no" and answer.criterion in criteria
    )


def _problem(
    answer: CriterionVerdict, criterion: Criterion, fidelity: FidelityReport | None
) -> Problem:
    return Problem(
        criterion=criterion.name,
        question=criterion.question,
        source=criterion.source,
        evidence=answer.evidence,
        fault=_fault(answer, fidelity),
    )


def _fault(answer: CriterionVerdict, fidelity: FidelityReport | None) -> Fault:
    status = fidelity.status(answer.criterion) if fidelity is not None else None
    if status in {"missing", "contradicted"}:
        return "reasoner"
    if answer.agreement is not None and answer.agreement < 1:
        return "judge"
    return "generator"


def prompt_problems(pictures: Sequence[Sequence[Problem]]) -> tuple[Problem, ...]:
    """What of a round calls for another prompt; nothing means that new seeds may do.

    That is every fault of the reasoner's, and the generator's where all images of the round
    share it: another seed would not have helped. Evidence is the first image's that has it.

    Args:
        pictures: The problems of each judged image of the round; none for an image that met
            every criterion.
    """
    found: dict[str, Problem] = {}
    for problem in (problem for picture in pictures for problem in picture):
        repeated = all(
            any(p.criterion == problem.criterion and p.fault == "generator" for p in picture)
            for picture in pictures
        )
        if problem.fault == "reasoner" or (problem.fault == "generator" and repeated):
            found.setdefault(problem.criterion, problem)
    return tuple(found.values())
