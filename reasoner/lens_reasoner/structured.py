"""Structured replies: parsed, validated, and requested once more if they are invalid."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from pydantic import BaseModel, ValidationError

from lens_reasoner.chat import ChatReply, Message, Schema
from lens_reasoner.errors import ChatError
from lens_reasoner.types import Usage

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
# Templates that open the thought themselves leave only its end in the reply.
_END_OF_THOUGHT = re.compile(
    r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|<\|channel\|>final[^<]*<\|message\|>"
)
_MOST_PROBLEMS = 8

_AGAIN = (
    "That reply does not have the required form:\n{problems}\n"
    "Reply again to the same request with nothing but the corrected JSON. {form}"
)


class OffSchema(ValueError):  # noqa: N818 - callers only see the ChatError it becomes
    """A reply that does not match the schema; the message lists what is wrong."""


def read_json(text: str, schema: type[Schema]) -> Schema:
    """Parse a reply.

    Besides plain JSON, this accepts JSON in a fenced block or surrounded by text, as servers
    without JSON schemas return it. Thoughts before the reply are skipped.

    Raises:
        OffSchema: The text has no value that matches the schema.
    """
    problem: ValidationError | None = None
    for candidate in _candidates(text):
        try:
            return schema.model_validate_json(candidate)
        except ValidationError as error:
            # A validation error says more than that the surrounding text is not JSON.
            if problem is None or error.errors()[0]["type"] != "json_invalid":
                problem = error
    assert problem is not None
    raise OffSchema(_problems(problem)) from problem


def _candidates(text: str) -> list[str]:
    """The reply itself, its fenced blocks, and the text between its outermost braces."""
    if not text.lstrip().startswith(("{", "```")) and (end := _END_OF_THOUGHT.search(text)):
        text = text[end.end() :]
    inner = text[text.find("{") : text.rfind("}") + 1] if "{" in text else ""
    found = [text, *(match.group(1) for match in _FENCED.finditer(text)), inner]
    return [candidate for candidate in found if candidate] or [text]


def _problems(error: ValidationError) -> str:
    problems = [
        f"- {'.'.join(map(str, problem['loc'])) or 'the reply'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    left_out = len(problems) - _MOST_PROBLEMS
    more = [f"- and {left_out} more"] if left_out > 0 else []
    return "\n".join(problems[:_MOST_PROBLEMS] + more)


def json_instruction(schema: type[BaseModel]) -> str:
    """An instruction to reply in a certain form."""
    form = json.dumps(schema.model_json_schema(), ensure_ascii=False)
    return f"Answer with nothing but one JSON object that satisfies this JSON schema:\n{form}"


def told_the_form(messages: Sequence[Message], schema: type[BaseModel]) -> list[Message]:
    """A conversation whose system message asks for the form; for servers that take no schema."""
    form = json_instruction(schema)
    if not messages or messages[0].role != "system":
        return [Message.system(form), *messages]
    return [Message.system(f"{messages[0].text}\n\n{form}"), *messages[1:]]


def again(reply: str, problems: str, schema: type[BaseModel]) -> list[Message]:
    """The messages to append after a reply that does not match the schema.

    They repeat the schema, because some servers silently ignore a schema parameter.
    """
    correction = _AGAIN.format(problems=problems, form=json_instruction(schema))
    return [Message.assistant(reply), Message.user(correction)]


async def ask_checked(
    ask: Callable[[Sequence[Message]], Awaitable[ChatReply]],
    messages: Sequence[Message],
    schema: type[BaseModel] | None,
    *,
    model: str,
) -> ChatReply:
    """Get a reply that matches `schema`; after an invalid one, list its problems and ask again.

    Args:
        ask: Makes one complete call; its reply is not parsed yet.
        messages: The conversation.
        schema: The schema; None accepts any reply.
        model: Name of the model, for error messages.

    Raises:
        ChatError: The second reply does not match either; the fault is "off_schema".
    """
    reply = await ask(messages)
    if schema is None:
        return reply
    try:
        return replace(reply, parsed=read_json(reply.text, schema))
    except OffSchema as error:
        problems = str(error)
    try:
        second = await ask([*messages, *again(reply.text, problems, schema)])
    except ChatError as error:
        error.usage = reply.usage + (error.usage or Usage())
        raise
    usage = reply.usage + second.usage
    try:
        parsed = read_json(second.text, schema)
    except OffSchema as error:
        raise ChatError(
            f"The reply of {model!r} does not match {schema.__name__}, and neither does a second "
            "reply after a list of what is wrong.",
            fault="off_schema",
            model=model,
            usage=usage,
            detail=f"{error}\n{second.text}"[:500],
            hint="Choose a model or server that supports JSON schemas in replies.",
        ) from error
    return replace(
        second,
        parsed=parsed,
        usage=usage,
        seconds=reply.seconds + second.seconds,
        reask=second.usage,
    )
