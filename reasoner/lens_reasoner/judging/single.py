"""One call per criterion, as in the technical report: more expensive, but criteria cannot interact.

The image comes first in each message, so that from the second call on the provider's prompt cache
applies.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

from pydantic import BaseModel, Field

from lens_reasoner.chat import ChatModel, ImagePart, Message, identity_of
from lens_reasoner.errors import ChatError, JudgeError, LoopConfigError
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
from lens_reasoner.together import together
from lens_reasoner.types import Answer, Criterion, Usage
from lens_reasoner.verdict import CriterionVerdict

_INSTRUCTIONS = f"""You check a picture against one criterion.
First look and write in "evidence", in one short line, what is to be seen that decides it; only \
then answer: "yes" if it is satisfied, "no" if it is not, {UNDECIDED}. {RULES}"""


class _Answer(BaseModel):
    evidence: str
    answer: Answer


class _ProbableAnswer(_Answer):
    probability: float = Field(ge=0, le=1)


class PerCriterion:
    """Asks about each criterion in a separate call.

    The first call runs alone, to fill the provider's cache; then `concurrency` calls run at a time.
    A failed call leaves its criterion undecided. The verdict only fails if all calls fail.
    """

    def __init__(
        self,
        chat: ChatModel | None = None,
        *,
        temperature: float | None = 0.0,
        probability: bool = False,
        concurrency: int = 4,
    ) -> None:
        """Choose the model.

        Args:
            chat: The model; None means OpenAI's `DEFAULT_JUDGE_MODEL`.
            temperature: Sampling temperature; None leaves it to the server, which reasoning models
                require.
            probability: Whether to ask for the model's own probability with each answer.
            concurrency: Maximum calls at a time.

        Raises:
            LoopConfigError: `concurrency` is not positive.
            MissingKeyError: No model is given and there is no API key for the default one.
        """
        if concurrency < 1:
            raise LoopConfigError(
                f"concurrency={concurrency} allows no calls.", hint="Give at least 1."
            )
        self._chat = chat or default_chat(DEFAULT_JUDGE_MODEL, setting=JUDGE_SETTING)
        self._temperature = temperature
        self._schema: type[_Answer] = _ProbableAnswer if probability else _Answer
        self._instructions = _INSTRUCTIONS + (PROBABILITY if probability else "")
        self._concurrency = concurrency

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._chat.model

    @property
    def identity(self) -> str:
        """Model, temperature and a hash of the instructions."""
        digest = hashlib.sha256(self._instructions.encode()).hexdigest()[:8]
        return f"per-criterion/{identity_of(self._chat)}/t={self._temperature}/{digest}"

    async def ask(self, picture: ImagePart, criteria: Sequence[Criterion], *, seed: str) -> Ballot:
        """See `JudgeMode.ask`."""
        order = shuffled(criteria, seed)
        free = asyncio.Semaphore(self._concurrency)

        async def limited(criterion: Criterion) -> Ballot | JudgeError:
            async with free:
                return await self._ask_one(picture, criterion)

        first = await limited(order[0])
        rest = await together(limited(criterion) for criterion in order[1:])
        outcomes = [first, *rest]
        ballots = [outcome for outcome in outcomes if isinstance(outcome, Ballot)]
        usage = Usage.total(outcome.usage or Usage() for outcome in outcomes)
        if not ballots:
            assert isinstance(first, JudgeError)
            raise JudgeError(first.message, usage=usage, hint=first.hint) from first.__cause__
        verdicts = {name: v for ballot in ballots for name, v in ballot.verdicts.items()}
        for criterion, outcome in zip(order, outcomes, strict=True):
            if isinstance(outcome, JudgeError):
                verdicts[criterion.name] = CriterionVerdict(
                    criterion=criterion.name,
                    answer="cannot_tell",
                    evidence=one_line(outcome.message),
                    weight=criterion.weight,
                    failed=True,
                )
        return Ballot(verdicts, ballots[0].model, usage)

    async def _ask_one(self, picture: ImagePart, criterion: Criterion) -> Ballot | JudgeError:
        messages = [
            Message.system(self._instructions),
            Message.user(picture, one_line(criterion.question)),
        ]
        try:
            reply = await self._chat.complete(
                messages, schema=self._schema, temperature=self._temperature
            )
        except ChatError as error:
            return no_verdict(error)
        answer = reply.parsed_as(self._schema)
        verdict = CriterionVerdict(
            criterion=criterion.name,
            answer=answer.answer,
            evidence=one_line(answer.evidence),
            weight=criterion.weight,
            probability=answer.probability if isinstance(answer, _ProbableAnswer) else None,
        )
        return Ballot({criterion.name: verdict}, reply.model, reply.usage)

    def calls(self, criteria: int) -> int:
        """One per criterion."""
        return criteria
