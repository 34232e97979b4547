"""Criteria answered by a model that only returns probabilities."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lens_reasoner.chat import ImagePart, Message, identity_of
from lens_reasoner.decisions import MAX_QUESTIONS, Decision, DecisionModel, DecisionReply, Question
from lens_reasoner.errors import ChatError, JudgeError
from lens_reasoner.judging.mode import RULES, Ballot, no_verdict, one_line, shuffled
from lens_reasoner.types import Criterion, Usage
from lens_reasoner.verdict import CriterionVerdict


class ByDecisions:
    """Asks for the probability that each criterion is satisfied.

    Cheap and graded, but without evidence: a reviser only learns which criteria failed.
    """

    def __init__(self, decider: DecisionModel, *, undecided: float = 0.05) -> None:
        """Choose the model.

        Args:
            decider: The model.
            undecided: A probability closer to 0.5 than this is "cannot_tell".
        """
        self._decider = decider
        self._undecided = undecided

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._decider.model

    @property
    def identity(self) -> str:
        """Model, threshold and a hash of the rules."""
        digest = hashlib.sha256(RULES.encode()).hexdigest()[:8]
        return f"decisions/{identity_of(self._decider)}/{self._undecided}/{digest}"

    async def ask(self, picture: ImagePart, criteria: Sequence[Criterion], *, seed: str) -> Ballot:
        """See `JudgeMode.ask`."""
        order = shuffled(criteria, seed)
        replies: list[DecisionReply] = []
        verdicts: dict[str, CriterionVerdict] = {}
        for start in range(0, len(order), MAX_QUESTIONS):
            part = order[start : start + MAX_QUESTIONS]
            reply = await self._decide(picture, part)
            replies.append(reply)
            for criterion, decision in zip(part, reply.decisions, strict=True):
                verdicts[criterion.name] = self._verdict(criterion, decision)
        return Ballot(verdicts, replies[0].model, Usage.total(reply.usage for reply in replies))

    async def _decide(self, picture: ImagePart, criteria: Sequence[Criterion]) -> DecisionReply:
        questions = [
            Question(name=f"q{number}", instructions=one_line(criterion.question))
            for number, criterion in enumerate(criteria, start=1)
        ]
        try:
            reply = await self._decider.decide(
                [Message.user(f"Look at this picture. {RULES}", picture)], questions
            )
        except ChatError as error:
            raise no_verdict(error) from error
        if [decision.name for decision in reply.decisions] != [q.name for q in questions]:
            raise JudgeError(
                f"{reply.model!r} answered other questions than those asked.", usage=reply.usage
            )
        return reply

    def _verdict(self, criterion: Criterion, decision: Decision) -> CriterionVerdict:
        chance = decision.probability
        if chance is None:
            evidence = f"The model declined to answer. {one_line(decision.refusal)}".strip()
        else:
            evidence = f"Probability of yes: {chance:.2f}."
        undecided = chance is None or abs(chance - 0.5) < self._undecided
        return CriterionVerdict(
            criterion=criterion.name,
            answer="cannot_tell"
            if undecided or chance is None
            else "yes"
            if chance > 0.5
            else "no",
            evidence=evidence,
            weight=criterion.weight,
            probability=chance,
        )

    def calls(self, criteria: int) -> int:
        """One per `MAX_QUESTIONS` criteria."""
        return -(-criteria // MAX_QUESTIONS)
