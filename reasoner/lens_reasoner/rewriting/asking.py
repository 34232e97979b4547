"""Asking a model for a prompt, and once more if checks in code find issues."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, JsonValue

from lens_reasoner.chat import ChatModel, ChatReply, Message
from lens_reasoner.errors import ChatError
from lens_reasoner.rewriting.issues import as_instruction, find_issues
from lens_reasoner.types import RewriteIssue, Usage

AGAIN = """Where the object has "earlier_prompt", you wrote that prompt, and "faults" lists what \
is wrong with it: write it again without these faults and change nothing else."""
"""How a system prompt explains the second call."""


@dataclass(frozen=True)
class Draft:
    """A model's best reply and the issues that remain.

    Attributes:
        reply: The reply.
        issues: What is wrong with the reply's prompt.
        usage: What all calls consumed.
    """

    reply: ChatReply
    issues: tuple[RewriteIssue, ...]
    usage: Usage


@dataclass(frozen=True)
class PromptAuthor:
    """A model with its instructions and answer schema.

    Attributes:
        chat: The model.
        instructions: The system message.
        schema: Schema of the answer.
        prompt_of: Extracts the prompt from a reply; an empty string if there is none.
        max_tokens: Maximum tokens of an answer.
    """

    chat: ChatModel
    instructions: str
    schema: type[BaseModel]
    prompt_of: Callable[[ChatReply], str]
    max_tokens: int | None = None

    async def write(self, request: str, material: Mapping[str, JsonValue]) -> Draft:
        """Ask for a prompt, and once more if the checks in `issues.py` fail.

        Returns the prompt with fewer issues. If the second call fails, the first reply is used.

        Args:
            request: The user's request, which the prompt is checked against.
            material: What the model works with, sent as JSON in the user message.

        Raises:
            ChatError: The first call gave no usable reply.
        """
        first = await self._ask(material)
        draft = Draft(first, self._issues(request, first), first.usage)
        if not draft.issues:
            return draft
        faults: list[JsonValue] = [as_instruction(issue) for issue in draft.issues]
        again = {**material, "earlier_prompt": self.prompt_of(first), "faults": faults}
        try:
            second = await self._ask(again)
        except ChatError as error:
            return Draft(first, draft.issues, first.usage + (error.usage or Usage()))
        usage, issues = first.usage + second.usage, self._issues(request, second)
        if self.prompt_of(second) and len(issues) < len(draft.issues):
            return Draft(second, issues, usage)
        return Draft(first, draft.issues, usage)

    async def _ask(self, material: Mapping[str, JsonValue]) -> ChatReply:
        messages = [
            Message.system(self.instructions),
            Message.user(json.dumps(material, ensure_ascii=False)),
        ]
        return await self.chat.complete(messages, schema=self.schema, max_tokens=self.max_tokens)

    def _issues(self, request: str, reply: ChatReply) -> tuple[RewriteIssue, ...]:
        prompt = self.prompt_of(reply)
        return find_issues(request, prompt) if prompt else ()
