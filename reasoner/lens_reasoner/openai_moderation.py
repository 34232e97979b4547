"""OpenAI's moderation endpoint, which is free and fast enough to call before every rewrite."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Unpack

from pydantic import BaseModel, ConfigDict

from lens_reasoner.chat import Message
from lens_reasoner.limits import estimate_tokens
from lens_reasoner.openai_connection import ConnectionOptions, OpenAIClient, OpenAIConnection
from lens_reasoner.sync import run_sync
from lens_reasoner.types import RefusalCategory, Refused, Usage

DEFAULT_MODERATION_MODEL = "omni-moderation-latest"

# The first flagged category names the refusal, so the most serious come first.
_CATEGORIES: dict[str, RefusalCategory] = {
    "sexual/minors": "minors",
    "self-harm": "self_harm",
    "hate": "hate",
    "harassment": "hate",
    "violence": "violence",
    "illicit": "illegal",
    "sexual": "sexual",
}


class OpenAIModerator(OpenAIClient):
    """A `Moderator` using `POST /moderations`, which is free of charge."""

    def __init__(
        self, model: str = DEFAULT_MODERATION_MODEL, **options: Unpack[ConnectionOptions]
    ) -> None:
        """Choose model and server.

        Args:
            model: Name of the moderation model.
            **options: Server, key, retries and limits; see `ConnectionOptions`.

        Raises:
            MissingKeyError: The server is OpenAI and there is no API key.
        """
        quiet: ConnectionOptions = {"look_up_shutdown": False, **options}
        super().__init__(OpenAIConnection(model, **quiet))

    async def check(self, text: str) -> Refused | None:
        """See `Moderator.check`."""
        started = time.perf_counter()
        verdict = await self._connection.send(
            "/moderations",
            {"model": self.model, "input": text},
            _read,
            tokens=estimate_tokens([Message.user(text)], 0),
        )
        if not verdict.flagged:
            return None
        named = ", ".join(verdict.flagged)
        return Refused(
            reason=f"The request was flagged as {named} by the moderation model.",
            category=_category(verdict.flagged),
            model=verdict.model or self.model,
            # OpenAI does not charge for the call and reports no tokens.
            usage=Usage.zero() if self._connection.official else verdict.usage,
            seconds=time.perf_counter() - started,
        )

    def check_sync(self, text: str) -> Refused | None:
        """Synchronous version of `check`, which also works in notebooks."""
        return run_sync(self.check(text))


def _category(flagged: tuple[str, ...]) -> RefusalCategory:
    for name, category in _CATEGORIES.items():
        # Subcategories such as "violence/graphic" belong to the category before the slash.
        if any(found == name or found.startswith(f"{name}/") for found in flagged):
            return category
    return "other"


@dataclass(frozen=True)
class _Flags:
    flagged: tuple[str, ...]
    model: str
    usage: Usage


class _Result(BaseModel):
    model_config = ConfigDict(extra="ignore", defer_build=True)

    flagged: bool
    categories: dict[str, bool | None]


class _Reply(BaseModel):
    model_config = ConfigDict(extra="ignore", defer_build=True)

    results: list[_Result]
    model: str | None = None


def _read(data: dict[str, Any]) -> _Flags:
    """Read a reply.

    Raises:
        ValueError: It is not a reply, or says nothing about the text.
    """
    reply = _Reply.model_validate(data)
    if len(reply.results) != 1:
        raise ValueError(f"one text was sent, but {len(reply.results)} results came back")
    (result,) = reply.results
    found = sorted(name for name, flag in result.categories.items() if flag)
    flagged = tuple(found or ["unsuitable"]) if result.flagged else ()
    return _Flags(flagged=flagged, model=reply.model or "", usage=Usage())
