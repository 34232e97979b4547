"""All criteria in one structured call, which is the cheapest way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pydantic import BaseModel, Field

from lens_reasoner.chat import ChatModel, ImagePart, Message, identity_of
from lens_reasoner.errors import ChatError
from lens_reasoner.judging.mode import (
    DEFAULT_JUDGE_MODEL,
    PROBABILITY,
    RULES,
    UNDECIDED,
    Ballot,
    no_verdict,
    one_line,
    shuffled,
)
from lens_reasoner.reasoner import JUDGE_SETTING, default_chat
from lens_reasoner.types import Answer, Criterion
from lens_reasoner.verdict import CriterionVerdict

_INSTRUCTIONS = f"""You check a picture against numbered criteria.
For each criterion, first look and write in "evidence", in one short line, what is to be seen that \
decides it; only then answer: "yes" if it is satisfied, "no" if it is not, {UNDECIDED}. Judge \
each criterion by itself. {RULES} Answer every criterion once, with its number as "id"."""


class _Item(BaseModel):
    # Fields are written in this order: the evidence before the answer.
    id: int
    evidence: str
    answer: Answer


class _Answers(BaseModel):
    verdicts: tuple[_Item, ...]


class _ProbableItem(_Item):
    probability: float = Field(ge=0, le=1)


class _ProbableAnswers(_Answers):
    verdicts: tuple[_ProbableItem, ...]


class OneCall:
    """Asks about all criteria at once, in an order shuffled by the seed.

    The shuffling keeps any criterion from always having the same position. The image is paid for
    once.
    """

    def __init__(
        self,
        chat: ChatModel | None = None,
        *,
        temperature: float | None = 0.0,
        probability: bool = False,
    ) -> None:
        """Choose the model.

        Args:
            chat: The model; None means OpenAI's `DEFAULT_JUDGE_MODEL`.
            temperature: Sampling temperature; None leaves it to the server, which reasoning models
                require.
            probability: Whether to ask for the model's own probability with each answer.

        Raises:
            MissingKeyError: No model is given and there is no API key for the default one.
        """
        self._chat = chat or default_chat(DEFAULT_JUDGE_MODEL, setting=JUDGE_SETTING)
        self._temperature = temperature
        self._schema: type[_Answers] = _ProbableAnswers if probability else _Answers
        self._instructions = _INSTRUCTIONS + (PROBABILITY if probability else "")

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._chat.model

    @property
    def identity(self) -> str:
        """Model, temperature and a hash of the instructions."""
        digest = hashlib.sha256(self._instructions.encode()).hexdigest()[:8]
        return f"one-call/{identity_of(self._chat)}/t={self._temperature}/{digest}"

    async def ask(self, picture: ImagePart, criteria: Sequence[Criterion], *, seed: str) -> Ballot:
        """See `JudgeMode.ask`. Criteria that the model does not answer are "cannot_tell"."""
        order = shuffled(criteria, seed)
        questions = "\n".join(f"{i}. {one_line(c.question)}" for i, c in enumerate(order, start=1))
        messages = [Message.system(self._instructions), Message.user(questions, picture)]
        try:
            reply = await self._chat.complete(
                messages, schema=self._schema, temperature=self._temperature
            )
        except ChatError as error:
            raise no_verdict(error) from error
        answers = reply.parsed_as(self._schema)
        return Ballot(_by_criterion(order, answers.verdicts), reply.model, reply.usage)

    def calls(self, criteria: int) -> int:
        """Always 1."""
        return 1


def _by_criterion(order: list[Criterion], items: Sequence[_Item]) -> dict[str, CriterionVerdict]:
    """One answer per criterion; a missing or contradictory answer is "cannot_tell"."""
    verdicts = {}
    for number, criterion in enumerate(order, start=1):
        given = [item for item in items if item.id == number]
        answer: Answer = "cannot_tell"
        probability = None
        if not given:
            evidence = "The judge gave no answer."
        elif len({item.answer for item in given}) > 1:
            evidence = "The judge contradicted itself: " + " / ".join(i.evidence for i in given)
        else:
            answer, evidence = given[0].answer, given[0].evidence
            if isinstance(given[0], _ProbableItem):
                probability = given[0].probability
        verdicts[criterion.name] = CriterionVerdict(
            criterion=criterion.name,
            answer=answer,
            evidence=one_line(evidence),
            weight=criterion.weight,
            probability=probability,
            failed=not given,
        )
    return verdicts
