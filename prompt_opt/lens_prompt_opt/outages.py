"""Telling failures of a service from failures of a single item."""

from __future__ import annotations

from lens_reasoner.errors import (
    ChatError,
    GenerationRefusedError,
    GeneratorError,
    ImageServiceError,
    JudgeError,
    MissingKeyError,
    ReasonerError,
)

_ITEM_FAULTS = frozenset({"malformed", "truncated", "filtered", "refused", "off_schema"})

_REJECTS_ITEM = frozenset({400, 413, 422})
"""Statuses with which image servers reject a prompt, for example because it is too long."""


def is_outage(error: ReasonerError) -> bool:
    """Whether a later retry could help, so that the failure says nothing about the item.

    An error of a judge or rubric writer is classified by the chat error that caused it.
    """
    if isinstance(error, MissingKeyError):
        return True
    if isinstance(error, ChatError):
        return error.fault not in _ITEM_FAULTS
    if isinstance(error, ImageServiceError):
        return error.status not in _REJECTS_ITEM
    if isinstance(error, JudgeError):
        # A composite judge's error was raised from that of a judge, which was raised from its
        # model's.
        cause = error.__cause__
        return isinstance(cause, ReasonerError) and is_outage(cause)
    return isinstance(error, GeneratorError) and not isinstance(error, GenerationRefusedError)
