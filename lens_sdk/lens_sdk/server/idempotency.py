"""Answers by the caller's idempotency key, so that a retry is never drawn twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lens_reasoner.atomic import write_atomically
from lens_sdk.server.errors import ApiError
from lens_sdk.server.shared import SharedWork

KEPT_SECONDS = 24 * 3600.0
LONGEST_KEY = 255
_SWEEP_SECONDS = 300.0

Answer = dict[str, Any]


class Idempotency:
    """Keeps answers in a folder for a day, and shares work that is under way.

    A key belongs to one caller and one endpoint. What failed is not kept and may be tried again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._under_way: dict[str, tuple[str, SharedWork[Answer]]] = {}
        self._swept = 0.0

    def once(
        self,
        place: tuple[str, str, str | None],
        fingerprint: str,
        begin: Callable[[], SharedWork[Answer]],
        replay: Callable[[Answer], SharedWork[Answer]],
    ) -> tuple[SharedWork[Answer], bool]:
        """The work of a key: what is under way, what was kept, or what begins now.

        Args:
            place: Caller, endpoint and key; without a key the work always begins.
            fingerprint: What was asked for.
            begin: Begins the work.
            replay: Work whose result is a kept answer.

        Returns:
            The work, and whether it had begun before.

        Raises:
            ApiError: The key was used for another request, or is too long.
        """
        if place[2] is None:
            return begin(), False
        if not 0 < len(place[2]) <= LONGEST_KEY:
            raise ApiError.bad_request(f"An idempotency key has 1 to {LONGEST_KEY} characters.")
        name = hashlib.sha256(json.dumps(place).encode()).hexdigest()
        if name in self._under_way:
            known, work = self._under_way[name]
            _check(known, fingerprint)
            return work, True
        kept = self._read(name)
        if kept is not None:
            _check(kept["fingerprint"], fingerprint)
            return replay(kept["answer"]), True
        work = begin()
        self._under_way[name] = fingerprint, work
        work.on_done(lambda _: self._under_way.pop(name, None))
        return work, False

    def keep(self, place: tuple[str, str, str | None], fingerprint: str, answer: Answer) -> None:
        """Keep an answer; called by the work itself, before anybody is given it.

        Raises:
            OSError: It cannot be written.
        """
        if place[2] is None:
            return
        self._sweep()
        name = hashlib.sha256(json.dumps(place).encode()).hexdigest()
        data = {"fingerprint": fingerprint, "answer": answer}
        write_atomically(self._folder / f"{name}.json", json.dumps(data).encode())

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self._folder / f"{name}.json"
        try:
            if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                return None
            data = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def _sweep(self) -> None:
        now = time.time()
        if now - self._swept < _SWEEP_SECONDS:
            return
        self._swept = now
        remove_older(self._folder, "*.json", KEPT_SECONDS)


def remove_older(folder: Path, pattern: str, seconds: float) -> None:
    """Remove the files of a folder that were written more than so many seconds ago."""
    for path in folder.glob(pattern):
        if time.time() - path.stat().st_mtime > seconds:
            path.unlink(missing_ok=True)


def _check(known: str, fingerprint: str) -> None:
    if known != fingerprint:
        raise ApiError(
            409,
            "This idempotency key was used for another request; use a new one.",
            code="idempotency_key_reused",
        )
