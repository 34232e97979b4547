"""Warnings about models that will be shut down, once per model, with the successor."""

from __future__ import annotations

import asyncio
import datetime
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from lens_reasoner.prices import without_snapshot
from lens_reasoner.types import Value

NOTICE = datetime.timedelta(days=60)
"""How long before a model's shutdown the warning starts."""

GRACE = 1.0
"""Seconds that a finished call waits for the model's shutdown date, once per model."""


class ModelShutdownWarning(UserWarning):
    """A model in use has been shut down or soon will be."""


class Shutdown(Value):
    """The announced shutdown of a model.

    Attributes:
        date: Last day of service.
        successor: The replacement that the provider names; empty if there is none.
    """

    date: datetime.date
    successor: str = ""


def _on(date: str, successor: str, *models: str) -> dict[str, Shutdown]:
    end = Shutdown(date=datetime.date.fromisoformat(date), successor=successor)
    return dict.fromkeys(models, end)


OPENAI_SHUTDOWNS: Mapping[str, Shutdown] = {
    **_on("2027-01-14", "gpt-6-luna", "gpt-4.1-mini"),
    **_on("2027-01-14", "", "gpt-4.1"),
    **_on("2026-10-23", "", "gpt-4.1-nano"),
    **_on("2026-12-11", "", "gpt-5", "gpt-5-mini", "gpt-5-nano", "o3"),
    **_on("2026-10-23", "gpt-image-2", "gpt-image-1"),
    **_on("2026-12-01", "gpt-image-2", "gpt-image-1.5", "gpt-image-1-mini", "chatgpt-image-latest"),
    **_on("2026-05-12", "gpt-image-2", "dall-e-2", "dall-e-3"),
}
"""Announced by OpenAI as of 2026-11-22 (platform documentation, "Deprecations").

Used if the API does not answer. The successors of the image models are this project's choice.
"""


class ShutdownWatch:
    """Looks up each model's shutdown date once, and warns once if it is near or past.

    Args:
        known: Announced shutdowns, for servers that do not say.
        today: Returns the current date.
    """

    def __init__(
        self,
        known: Mapping[str, Shutdown] = OPENAI_SHUTDOWNS,
        *,
        today: Callable[[], datetime.date] = datetime.date.today,
    ) -> None:
        self._known = known
        self._today = today
        self._asked: set[tuple[str, str]] = set()
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def successor(self, model: str) -> str:
        """The model to use instead of `model`; empty if none is known."""
        known = self._known.get(without_snapshot(model))
        return known.successor if known else ""

    @asynccontextmanager
    async def beside(
        self, model: str, server: str, fetch: Callable[[], Awaitable[object]], *, setting: str
    ) -> AsyncIterator[None]:
        """Look the model up while its first call runs; do nothing for later calls.

        If the lookup fails or takes too long, the known announcements are used.

        Args:
            model: The model being called.
            server: Its server; every server is asked once.
            fetch: Gets the server's description of the model, a JSON object.
            setting: How a user chooses another model, with `{model}` for its name.
        """
        with self._lock:
            first = (server, model) not in self._asked
            self._asked.add((server, model))
        if not first:
            yield
            return
        lookup = asyncio.create_task(_read_date(fetch))
        try:
            yield
        finally:
            try:
                if not isinstance(sys.exception(), asyncio.CancelledError):
                    await asyncio.wait({lookup}, timeout=GRACE)
            finally:
                date = lookup.result() if lookup.done() else None
                lookup.cancel()
            self.warn(model, date, setting=setting)

    def warn(self, model: str, date: datetime.date | None, *, setting: str) -> None:
        """Warn once if `model` ends soon or has ended.

        Args:
            model: The model in use.
            date: The server's shutdown date; None uses the known announcements.
            setting: See `beside`.
        """
        known = self._known.get(without_snapshot(model))
        date = date or (known.date if known else None)
        today = self._today()
        if date is None or date - today > NOTICE:
            return
        with self._lock:
            if model in self._warned:
                return
            self._warned.add(model)
        warnings.warn(
            _text(model, date, today, self.successor(model), setting),
            ModelShutdownWarning,
            stacklevel=2,
        )


def _text(
    model: str, date: datetime.date, today: datetime.date, successor: str, setting: str
) -> str:
    days = (date - today).days
    when = f"will be shut down on {date}, in {days} days" if days > 0 else f"ended on {date}"
    named = f"Its successor is {successor!r}: use" if successor else "Choose another model: use"
    return f"{model!r} {when}. {named} {setting.format(model=successor or 'NAME')}."


async def _read_date(fetch: Callable[[], Awaitable[object]]) -> datetime.date | None:
    """The `shutdown_date` in a model's description; None if unavailable."""
    try:
        data = await fetch()
        stated = data.get("shutdown_date") if isinstance(data, Mapping) else None
        # Documented as text; a date or a date with a time.
        return datetime.date.fromisoformat(stated[:10]) if isinstance(stated, str) else None
    except Exception:  # a lookup must not fail the call it accompanies
        return None


SHUTDOWNS = ShutdownWatch()
"""The watch shared by this process."""
