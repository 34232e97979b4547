"""What judges say about images, and the scores that follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum

from pydantic import Field

from lens_reasoner.chat import ImageDetail
from lens_reasoner.types import Answer, Probability, Seconds, Usage, Value, Weight


class Opinion(Value):
    """One vote on one criterion.

    Attributes:
        answer: "cannot_tell" counts neither for nor against.
        evidence: One line on what the judge saw.
        probability: Probability of "yes", if the judge gives one.
    """

    answer: Answer
    evidence: str = ""
    probability: Probability | None = None


class CriterionVerdict(Value):
    """A judge's answer to one criterion.

    Attributes:
        criterion: Name of the criterion.
        answer: "cannot_tell" counts neither for nor against.
        evidence: One line on what the judge saw.
        weight: The criterion's weight.
        probability: Probability of "yes", if the judge gives one.
        agreement: Share of the votes that gave `answer`; None if there was only one vote.
        votes: All votes in the order they were cast, if there were several.
        judge: Who answered, if several judges share the rubric; otherwise empty.
        failed: True if "cannot_tell" only means that the call failed, so that a retry may succeed.
    """

    criterion: str
    answer: Answer
    evidence: str = ""
    weight: Weight = 1.0
    probability: Probability | None = None
    agreement: Probability | None = None
    votes: tuple[Opinion, ...] = ()
    judge: str = ""
    failed: bool = False


class View(Value):
    """The form in which the judge was shown the image.

    Attributes:
        width: Width in pixels after downscaling.
        height: Height in pixels after downscaling.
        detail: Level of detail at which the model was asked to look.
    """

    width: int = Field(ge=1)
    height: int = Field(ge=1)
    detail: ImageDetail


class Verdict(Value):
    """A judge's answers about one image.

    Attributes:
        image_sha256: `GeneratedImage.sha256` of the image.
        verdicts: One answer per criterion of the rubric.
        judge: Name of the judge.
        view: What a language model was shown; None for judges that read the file itself.
        seconds: Duration of judging.
        usage: What judging consumed.
    """

    image_sha256: str
    verdicts: tuple[CriterionVerdict, ...]
    judge: str
    view: View | None = None
    seconds: Seconds = 0.0
    usage: Usage = Usage()

    @property
    def score(self) -> float | None:
        """Weighted share of "yes" among the answered criteria; None if none was answered."""
        answered = [v for v in self.verdicts if v.answer != "cannot_tell"]
        if not answered:
            return None
        return _weight(v for v in answered if v.answer == "yes") / _weight(answered)

    @property
    def least_score(self) -> float | None:
        """The score with failed calls counted as "no"; None if no criterion was answered.

        It keeps an image from winning because most of the answers about it were lost.
        """
        if self.score is None:
            return None
        counted = [v for v in self.verdicts if v.answer != "cannot_tell" or v.failed]
        return _weight(v for v in counted if v.answer == "yes") / _weight(counted)

    @property
    def expected_score(self) -> float | None:
        """Weighted mean probability of "yes"; None if nothing is known about any criterion.

        A "yes" or "no" without a probability counts as certain; a "cannot_tell" without a
        probability is left out.
        """
        known = [v for v in self.verdicts if v.probability is not None or v.answer != "cannot_tell"]
        if not known:
            return None
        return fsum(v.weight * _probability(v) for v in known) / _weight(known)

    @property
    def coverage(self) -> float:
        """Weighted share of the criteria that were answered with "yes" or "no"."""
        if not self.verdicts:
            return 0.0
        answered = (v for v in self.verdicts if v.answer != "cannot_tell")
        return _weight(answered) / _weight(self.verdicts)

    @property
    def all_satisfied(self) -> bool:
        """Whether there are criteria and all were answered "yes"."""
        return bool(self.verdicts) and all(v.answer == "yes" for v in self.verdicts)


def _probability(verdict: CriterionVerdict) -> float:
    if verdict.probability is not None:
        return verdict.probability
    return 1.0 if verdict.answer == "yes" else 0.0


def _weight(verdicts: Iterable[CriterionVerdict]) -> float:
    # fsum rounds once, so a full set of "yes" gives exactly 1 in any order.
    return fsum(verdict.weight for verdict in verdicts)
