"""Image answers in OpenAI's format, as one body or as a stream of events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from lens_reasoner import Usage
from lens_sdk.server.errors import api_error
from lens_sdk.server.idempotency import Answer
from lens_sdk.server.shared import EventLog, SharedWork
from lens_sdk.server.sse import frame


async def frames(work: SharedWork[Answer]) -> AsyncIterator[str]:
    """The events of a streamed answer; closing the stream counts as leaving the work."""
    with work.joined():
        async for entry in work.log.follow():
            yield frame(entry)
        try:
            await work.result()
        except Exception as error:
            yield f"event: error\ndata: {json.dumps(api_error(error).body)}\n\n"


def replayed(answer: Answer, *, events: str) -> SharedWork[Answer]:
    """Present a stored answer as work that is already done."""

    async def work(log: EventLog) -> Answer:
        for index, datum in enumerate(answer["data"]):
            kind, created = answer["output_format"], answer["created"]
            event = completed(datum, index, kind, created, events)
            log.keep(event["type"], json.dumps(event))
        return answer

    return SharedWork(work)


def completed(
    datum: dict[str, Any], index: int, kind: str, created: float, events: str
) -> dict[str, Any]:
    """The event for a finished image.

    Args:
        datum: The image as in an answer.
        index: Index of the image.
        kind: Image file format.
        created: Time of creation, in seconds since 1970.
        events: Prefix of the event's name.
    """
    return {
        **datum,
        "type": f"{events}.completed",
        "index": index,
        "created_at": int(created),
        "output_format": kind,
        "size": size_of(datum),
        "quality": "auto",
        "background": "opaque",
        "usage": _usage(Usage.model_validate(datum["usage"])),
    }


def size_of(datum: dict[str, Any]) -> str:
    """The size of an image in OpenAI's format."""
    settings = datum["settings"]
    return f"{settings['width']}x{settings['height']}" if settings["width"] else "auto"


def _usage(usage: Usage) -> dict[str, Any] | None:
    """Token usage in OpenAI's format; None if unknown."""
    read, written = usage.input_tokens, usage.output_tokens
    if read is None or written is None:
        return None
    return {
        "input_tokens": read,
        "output_tokens": written,
        "total_tokens": read + written,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": read},
    }
