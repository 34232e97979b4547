"""The seam to models that answer questions with probabilities and write nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pydantic import Field

from lens_reasoner.chat import Message
from lens_reasoner.types import Probability, Seconds, Usage, Value

MAX_QUESTIONS = 400
"""Most questions of one call, by OpenAI's reference."""


class Question(Value):
    """Something that is true of the conversation or not.

    Attributes:
        name: Short name, unique within its call.
        instructions: The question, answerable with yes or no.
    """

    name: str = Field(min_length=1)
    instructions: str = Field(min_length=1)


class Decision(Value):
    """The answer to one question.

    Attributes:
        name: Name of the question.
        probability: Probability of "yes"; None if the model declined to answer.
        refusal: Why there is no probability; empty if there is one.
    """

    name: str
    probability: Probability | None
    refusal: str = ""


class DecisionReply(Value):
    """The answers to every question of one call.

    Attributes:
        decisions: One per question, in the questions' order.
        usage: What the call consumed.
        model: The model that answered, by the server's own name for it.
        seconds: Wall-clock time, retries included.
    """

    decisions: tuple[Decision, ...]
    usage: Usage
    model: str
    seconds: Seconds


@runtime_checkable
class DecisionModel(Protocol):
    """Anything that answers yes-or-no questions about a conversation."""

    @property
    def model(self) -> str:
        """Name of the model, for records."""
        ...

    async def decide(
        self, messages: Sequence[Message], questions: Sequence[Question]
    ) -> DecisionReply:
        """Answer every question about `messages`, images included.

        Args:
            messages: What the questions are about.
            questions: With different names, at least one and at most `MAX_QUESTIONS`.

        Raises:
            ChatError: If there is no complete reply.
        """
        ...
