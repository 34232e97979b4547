"""Yes-or-no questions answered with probabilities by OpenAI's decisions endpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

from pydantic import BaseModel, ConfigDict

from lens_reasoner.chat import Message
from lens_reasoner.decisions import MAX_QUESTIONS, Decision, DecisionReply, Question
from lens_reasoner.errors import UnsupportedSettingError
from lens_reasoner.limits import estimate_tokens
from lens_reasoner.openai_connection import ConnectionOptions, OpenAIClient, OpenAIConnection
from lens_reasoner.openai_wire import ResponsesCount, counted, responses_body
from lens_reasoner.prices import DECISION_PRICES
from lens_reasoner.sync import run_sync
from lens_reasoner.types import Usage

DEFAULT_DECISION_MODEL = "gpt-6-luna"


class OpenAIDecisions(OpenAIClient):
    """A `DecisionModel` using `POST /decisions`; works with every supported `openai` version."""

    def __init__(
        self, model: str = DEFAULT_DECISION_MODEL, **options: Unpack[ConnectionOptions]
    ) -> None:
        """Choose model and server.

        Args:
            model: Name of the model.
            **options: Server, key, prices, retries and limits; see `ConnectionOptions`.

        Raises:
            MissingKeyError: The server is OpenAI and there is no API key.
        """
        connection = OpenAIConnection(model, **options)
        if options.get("prices") is None and connection.official:
            connection.prices = DECISION_PRICES
        super().__init__(connection)

    async def decide(
        self, messages: Sequence[Message], questions: Sequence[Question]
    ) -> DecisionReply:
        """See `DecisionModel.decide`.

        Raises:
            ChatError: There is no reply, or not an answer for each question.
            UnsupportedSettingError: There are no questions, too many, or names that are not unique.
        """
        names = [question.name for question in questions]
        if not 1 <= len(names) <= MAX_QUESTIONS or len(set(names)) < len(names):
            raise UnsupportedSettingError(
                f"{len(names)} questions with {len(set(names))} names cannot be decided in one "
                f"call: there must be 1 to {MAX_QUESTIONS}, with different names.",
                setting="questions",
                value=names,
                backend=self.model,
                hint="Name them differently, or split them over several calls.",
            )
        body: dict[str, Any] = {
            "model": self.model,
            "input": responses_body(messages, None)["input"],
            "questions": [{"type": "predicate", **q.model_dump()} for q in questions],
        }
        started = time.perf_counter()
        tokens = estimate_tokens([*messages, *(Message.user(q.instructions) for q in questions)])
        wire = await self._connection.send(
            "/decisions", body, lambda data: _read(data, names), tokens=tokens
        )
        return DecisionReply(
            decisions=wire.decisions,
            usage=self._connection.cost(wire.model or self.model, wire.usage),
            model=wire.model or self.model,
            seconds=time.perf_counter() - started,
        )

    def decide_sync(
        self, messages: Sequence[Message], questions: Sequence[Question]
    ) -> DecisionReply:
        """Synchronous version of `decide`, which also works in notebooks."""
        return run_sync(self.decide(messages, questions))


@dataclass(frozen=True)
class _WireDecisions:
    decisions: tuple[Decision, ...]
    usage: Usage
    model: str


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", defer_build=True)


class _Answer(_Part):
    type: Literal["predicate", "refusal"]
    name: str | None = None
    probability: float | None = None


class _Reply(_Part):
    answers: list[_Answer]
    model: str | None = None
    usage: ResponsesCount = None


def _read(data: dict[str, Any], names: Sequence[str]) -> _WireDecisions:
    """Read a reply; the answers are in the questions' order.

    Raises:
        ValueError: It is not a reply, or not to these questions.
    """
    reply = _Reply.model_validate(data)
    given = [answer.name or name for answer, name in zip(reply.answers, names, strict=False)]
    if len(reply.answers) != len(names) or given != list(names):
        raise ValueError(f"{len(names)} questions were asked, but {len(reply.answers)} answered")
    return _WireDecisions(
        decisions=tuple(map(_decision, reply.answers, names)),
        usage=counted(reply.usage),
        model=reply.model or "",
    )


def _decision(answer: _Answer, name: str) -> Decision:
    if answer.type == "refusal":
        return Decision(name=name, probability=None, refusal="The model declined to answer.")
    if answer.probability is None:
        raise ValueError(f"the answer to {name!r} has no probability")
    return Decision(name=name, probability=answer.probability)
