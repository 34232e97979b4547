"""Models that will be switched off: one warning each, naming the successor."""

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
"""How long before its end a model is warned about."""

GRACE = 1.0
"""Seconds a finished call waits at most for the date its model ends on, once per model."""


class ModelShutdownWarning(UserWarning):
    """A model in use has been, or will soon be, switched off."""


class Shutdown(Value):
    """The announced end of a model.

    Attributes:
        date: Last day of service.
        successor: The model its provider names instead; empty if none was named.
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

Used where the API cannot be asked; the successors of the image models are this project's choice.
"""


class ShutdownWatch:
    """Asks once per model when it ends, and warns once if that is near or past.

    Args:
        known: What was announced, for servers that do not say.
        today: The clock.
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
        """Look the model up while its first call runs; later calls pass through.

        A lookup that fails or takes long is given up, and the announcements known are used.

        Args:
            model: The model called.
            server: Where it is served; each is asked once.
            fetch: Gets the server's description of the model, a JSON object.
            setting: What to change, with `{model}` where the new name goes.
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
        """Warn if `model` ends soon, unless that has been done.

        Args:
            model: The model in use.
            date: When the server says it ends; None uses the announcements known.
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
    """The `shutdown_date` of a model's description; None if there is none to be had."""
    try:
        data = await fetch()
        stated = data.get("shutdown_date") if isinstance(data, Mapping) else None
        # Documented as text; a date or a date with a time.
        return datetime.date.fromisoformat(stated[:10]) if isinstance(stated, str) else None
    except Exception:  # a question on the side must not fail the call it accompanies
        return None


SHUTDOWNS = ShutdownWatch()
"""The watch of this process."""
