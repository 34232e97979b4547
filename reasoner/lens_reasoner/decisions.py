"""The protocol for models that answer questions with probabilities instead of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pydantic import Field

from lens_reasoner.chat import Message
from lens_reasoner.types import Probability, Seconds, Usage, Value

MAX_QUESTIONS = 400
"""Maximum questions per call, by OpenAI's reference."""


class Question(Value):
    """A statement about the conversation that is true or false, phrased as a question.

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
    """The answers to all questions of one call.

    Attributes:
        decisions: One per question, in the questions' order.
        usage: What the call consumed.
        model: The model that answered, as the server names it.
        seconds: Wall-clock time, including retries.
    """

    decisions: tuple[Decision, ...]
    usage: Usage
    model: str
    seconds: Seconds


@runtime_checkable
class DecisionModel(Protocol):
    """Answers yes-or-no questions about a conversation."""

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
            questions: Between 1 and `MAX_QUESTIONS` questions with unique names.

        Raises:
            ChatError: There is no complete reply.
        """
        ...
