"""Stores answers by idempotency key, so that a retry never repeats the work."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lens_reasoner.atomic import write_atomically
from lens_sdk.server.claims import POLL_SECONDS, Claim, Claims
from lens_sdk.server.errors import ApiError
from lens_sdk.server.shared import EventLog, SharedWork

KEPT_SECONDS = 24 * 3600.0
LONGEST_KEY = 255
_SWEEP_SECONDS = 300.0
_WANTED = "wanted"
_log = logging.getLogger(__name__)

Answer = dict[str, Any]
Place = tuple[str, str, str | None]
"""Caller, endpoint and key; without a key, nothing is shared or stored."""


class Idempotency:
    """Stores answers in a folder for a day, and shares work in progress.

    A key belongs to one caller and one endpoint. Failures are not stored, so they can be retried.
    Among processes that share the folder, one at a time works on a key. The others wait for the
    answer, and if there is none, one of them starts again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._claims = Claims(folder)
        self._under_way: dict[str, tuple[str, SharedWork[Answer]]] = {}
        self._swept = 0.0

    def once(
        self,
        place: Place,
        fingerprint: str,
        begin: Callable[[], SharedWork[Answer]],
        replay: Callable[[Answer], SharedWork[Answer]],
    ) -> tuple[SharedWork[Answer], bool]:
        """The work for a key: work in progress, a stored answer, or work that starts now.

        Args:
            place: Caller, endpoint and key.
            fingerprint: Identifies the request's content.
            begin: Starts the work.
            replay: Turns a stored answer into finished work.

        Returns:
            The work, and whether it had already started.

        Raises:
            ApiError: The key was used for another request, or is too long.
        """
        if place[2] is None:
            return begin(), False
        if not 0 < len(place[2]) <= LONGEST_KEY:
            raise ApiError.bad_request(f"An idempotency key has 1 to {LONGEST_KEY} characters.")
        name = _name(place)
        if name in self._under_way:
            known, work = self._under_way[name]
            _check(known, fingerprint)
            return work, True
        kept, claim = self._look(name, fingerprint)
        if kept is not None:
            return replay(kept), True
        if claim is not None:
            work = _claimed(claim, begin)
        else:
            work = SharedWork(lambda log: self._waited_for(name, fingerprint, begin, replay, log))
        self._under_way[name] = fingerprint, work
        work.on_done(lambda _: self._under_way.pop(name, None))
        return work, claim is None

    def keep(self, place: Place, fingerprint: str, answer: Answer) -> None:
        """Store an answer; the work itself calls this before anyone receives the answer.

        If the answer cannot be written, this is logged, and the answer is still delivered.
        """
        if place[2] is None:
            return
        data = {"fingerprint": fingerprint, "answer": answer}
        try:
            self._sweep()
            write_atomically(self._folder / f"{_name(place)}.json", json.dumps(data).encode())
        except OSError:
            _log.exception("an answer cannot be kept; a retry of its request begins anew")

    def wanted(self, place: Place) -> bool:
        """Whether another process is waiting for the answer for a key."""
        return place[2] is not None and self._claims.freshly_marked(_name(place), _WANTED)

    async def _waited_for(
        self,
        name: str,
        fingerprint: str,
        begin: Callable[[], SharedWork[Answer]],
        replay: Callable[[Answer], SharedWork[Answer]],
        log: EventLog,
    ) -> Answer:
        """Wait for another process's answer, or do the work here if it gave up or died."""
        while True:
            self._claims.mark(name, _WANTED)
            await asyncio.sleep(POLL_SECONDS)
            kept, claim = self._look(name, fingerprint)
            if kept is not None:
                work = replay(kept)
            elif claim is not None:
                work = _claimed(claim, begin)
            else:
                continue
            with work.joined():
                async for entry in work.log.follow():
                    if entry is not None:
                        log.keep(entry.kind, entry.data)
                return await work.result()

    def _look(self, name: str, fingerprint: str) -> tuple[Answer | None, Claim | None]:
        """The stored answer, or the claim to work on it, or neither if another process does.

        Raises:
            ApiError: The key was used for another request.
        """
        # Claim the key before looking for an answer, so that nobody finishes in between.
        claim = self._claims.take(name)
        try:
            kept = self._kept(name, fingerprint)
        except BaseException:
            if claim is not None:
                claim.let_go()
            raise
        if kept is not None and claim is not None:
            claim.let_go()
            claim = None
        return kept, claim

    def _kept(self, name: str, fingerprint: str) -> Answer | None:
        """The stored answer, or None.

        Raises:
            ApiError: The answer belongs to a different request.
        """
        path = self._folder / f"{name}.json"
        try:
            if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                return None
            data = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(data, dict):
            return None
        _check(data["fingerprint"], fingerprint)
        answer: Answer = data["answer"]
        return answer

    def _sweep(self) -> None:
        now = time.time()
        if now - self._swept < _SWEEP_SECONDS:
            return
        self._swept = now
        remove_older(self._folder, "*", KEPT_SECONDS)


def remove_older(folder: Path, pattern: str, seconds: float) -> None:
    """Remove the files of a folder that were last written more than `seconds` ago."""
    for path in folder.glob(pattern):
        # Another process may have removed the file just now.
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def _name(place: Place) -> str:
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()


def _claimed(claim: Claim, begin: Callable[[], SharedWork[Answer]]) -> SharedWork[Answer]:
    """Start work that releases its claim when it is over."""
    try:
        work = begin()
    except BaseException:
        claim.let_go()
        raise
    work.on_done(lambda _: claim.let_go())
    return work


def _check(known: str, fingerprint: str) -> None:
    if known != fingerprint:
        raise ApiError(
            409,
            "This idempotency key was used for another request; use a new one.",
            code="idempotency_key_reused",
        )
