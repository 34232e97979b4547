"""Which part is at fault for what an image lacks, and whether another prompt could help."""

from __future__ import annotations

from collections.abc import Sequence

from lens_reasoner.revision import Fault, FidelityReport, Problem
from lens_reasoner.types import Criterion, Rubric
from lens_reasoner.verdict import CriterionVerdict, Verdict


def diagnose(
    verdict: Verdict, rubric: Rubric, fidelity: FidelityReport | None = None
) -> tuple[Problem, ...]:
    """Find the part at fault for each criterion that was answered "no".

    If the prompt omits or contradicts a criterion, the reasoner is at fault, whatever the image
    shows. If the prompt states it, the judge is at fault if its votes disagree, and otherwise the
    generator. A criterion that was not checked against the prompt, such as one about the image as a
    whole, counts as stated.

    Args:
        verdict: The verdict on one image.
        rubric: The criteria.
        fidelity: What the image's prompt says about them; None if unknown.
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
    """The problems of a round that call for another prompt; if empty, try new seeds instead.

    These are all problems with the reasoner at fault, and those with the generator at fault that
    every image of the round shares, because another seed would not have helped. The evidence is
    that of the first image with the problem.

    Args:
        pictures: The problems of each judged image of the round; empty for an image that met every
            criterion.
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
