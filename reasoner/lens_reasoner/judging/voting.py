"""Extra votes on the criteria that the first vote leaves uncertain."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

from lens_reasoner.chat import ChatModel, ImagePart
from lens_reasoner.errors import JudgeError
from lens_reasoner.judging.mode import Ballot, JudgeMode
from lens_reasoner.judging.one_call import OneCall
from lens_reasoner.types import Answer, Criterion, Usage
from lens_reasoner.verdict import CriterionVerdict, Opinion

VOTING_TEMPERATURE = 0.7
"""Default temperature of the extra votes; identical votes would carry no information."""


class ExtraVotes:
    """Asks again about criteria whose answer is "cannot_tell" or whose probability is near 0.5.

    The majority of the "yes" and "no" votes decides; a tie is "cannot_tell". Each vote sees the
    criteria in another order. Failed votes are left out.
    """

    def __init__(
        self,
        first: JudgeMode,
        again: JudgeMode | None = None,
        *,
        votes: int = 2,
        margin: float = 0.3,
    ) -> None:
        """Choose the voters.

        Args:
            first: Answers all criteria.
            again: Casts the extra votes; None means `first`, whose answers should then vary.
            votes: Extra votes per uncertain criterion.
            margin: A probability closer to 0.5 than this is uncertain.
        """
        self._first = first
        self._again = again or first
        self._votes = votes
        self._margin = margin

    @classmethod
    def of(cls, chat: ChatModel | None = None, *, votes: int = 2) -> ExtraVotes:
        """Votes by one model with probabilities, the extra ones at `VOTING_TEMPERATURE`.

        Raises:
            MissingKeyError: No model is given and there is no API key for the default one.
        """
        return cls(
            OneCall(chat, probability=True),
            OneCall(chat, probability=True, temperature=VOTING_TEMPERATURE),
            votes=votes,
        )

    @property
    def model(self) -> str:
        """Name of the model that votes first."""
        return self._first.model

    @property
    def identity(self) -> str:
        """Both modes and the voting rule."""
        rule = f"votes={self._votes},margin={self._margin}"
        return f"extra-votes({self._first.identity};{self._again.identity};{rule})"

    async def ask(self, picture: ImagePart, criteria: Sequence[Criterion], *, seed: str) -> Ballot:
        """See `JudgeMode.ask`."""
        first = await self._first.ask(picture, criteria, seed=seed)
        open_ones = [c for c in criteria if self._uncertain(first.verdicts[c.name])]
        ballots, usage = [first], first.usage
        for number in range(1, self._votes + 1 if open_ones else 1):
            try:
                ballot = await self._again.ask(picture, open_ones, seed=f"{seed}:vote {number}")
            except JudgeError as error:
                usage = usage + (error.usage or Usage())
                continue
            ballots.append(ballot)
            usage = usage + ballot.usage
        voted = {c.name: _count([b.verdicts[c.name] for b in ballots]) for c in open_ones}
        return Ballot({**first.verdicts, **voted}, first.model, usage)

    def _uncertain(self, verdict: CriterionVerdict) -> bool:
        if verdict.answer == "cannot_tell":
            return True
        return verdict.probability is not None and abs(verdict.probability - 0.5) < self._margin

    def calls(self, criteria: int) -> int:
        """The calls of the first vote; the number of extra votes depends on its answers."""
        return self._first.calls(criteria)


def _count(votes: Sequence[CriterionVerdict]) -> CriterionVerdict:
    """The verdict of several votes on one criterion; failed votes do not count."""
    votes = [vote for vote in votes if not vote.failed] or votes[:1]
    if len(votes) == 1:
        return votes[0]
    given = [vote.answer for vote in votes]
    yes, no = given.count("yes"), given.count("no")
    answer: Answer = "cannot_tell" if yes == no else "yes" if yes > no else "no"
    probabilities = [vote.probability for vote in votes if vote.probability is not None]
    speaker = next((vote for vote in votes if vote.answer == answer), None)
    said = " / ".join(f"{vote.answer}: {vote.evidence}" for vote in votes)
    return votes[0].model_copy(
        update={
            "answer": answer,
            "evidence": speaker.evidence if speaker else f"The votes are split: {said}",
            "probability": fsum(probabilities) / len(probabilities) if probabilities else None,
            "agreement": given.count(answer) / len(given),
            "votes": tuple(
                Opinion(answer=v.answer, evidence=v.evidence, probability=v.probability)
                for v in votes
            ),
        }
    )
