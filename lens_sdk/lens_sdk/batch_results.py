"""The results of a batch: a table in JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from lens_reasoner import LoopResult, ReasonerError
from lens_reasoner.atomic import append_line, write_atomically
from lens_reasoner.events import StopReason
from lens_reasoner.types import Value
from lens_sdk.error_kinds import ErrorKind, error_kind

Trouble = tuple[str, ErrorKind]
"""An error message and its kind."""


class BatchResult(Value):
    """The result of one request.

    Attributes:
        id: The id of the request.
        request: The text of the request.
        prompt: The prompt of the best image.
        score: The best image's score; None, not zero, if there is none.
        path: The path of the best image, relative to the batch's folder.
        seed: The best image's seed, if the generator takes one.
        pictures: How many images were generated.
        usd: The cost in US dollars; None if unknown.
        seconds: The time it took, not counting pauses between calls of the command.
        stop_reason: Why the run stopped; None after an error without an image.
        error: The error message, if there was an error.
        error_kind: The kind of error, see `lens_sdk.error_kind`.
    """

    id: str
    request: str
    prompt: str | None = None
    score: float | None = None
    path: str | None = None
    seed: int | None = None
    pictures: int = 0
    usd: float | None = None
    seconds: float = 0.0
    stop_reason: StopReason | None = None
    error: str | None = None
    error_kind: ErrorKind | None = None

    @classmethod
    def of(
        cls, name: str, result: LoopResult, *, path: str | None, usd: float | None
    ) -> BatchResult:
        """Make the result of a run that finished."""
        best, trouble = result.best, _trouble(result)
        return cls(
            id=name,
            request=result.request.text,
            prompt=None if best is None else best.image.prompt,
            score=None if best is None else best.score,
            path=path,
            seed=None if best is None else best.image.seed,
            pictures=len(result.candidates),
            usd=usd,
            seconds=round(result.timings.get("total", 0.0), 3),
            stop_reason=result.stop_reason,
            error=trouble and trouble[0],
            error_kind=trouble and trouble[1],
        )

    @classmethod
    def failed(
        cls, name: str, request: str, error: ReasonerError, *, usd: float | None, seconds: float
    ) -> BatchResult:
        """Make the result of a run that ended with an error."""
        return cls(
            id=name,
            request=request,
            usd=usd,
            seconds=round(seconds, 3),
            error=str(error),
            error_kind=error_kind(error),
        )


def _trouble(result: LoopResult) -> Trouble | None:
    """Return what went wrong in a run, if anything did."""
    if result.refused is not None:
        return f"Refused ({result.refused.category}): {result.refused.reason}", "refused"
    best = result.best
    drawing = [failure for failure in result.failures if failure.stage == "generate"]
    if best is None or result.stop_reason == "generator_failed":
        why = str(drawing[-1]) if drawing else result.stop_reason
        return why, "generator" if drawing else "budget"
    if best.score is None:
        asked = [failure for failure in result.failures if failure.stage == "rubric"]
        for failure in (best.failure, *asked):
            if failure is not None:
                return f"Not judged: {failure}", "judge"
    return None


def read_results(path: Path) -> dict[str, BatchResult]:
    """Read a table, by request id; unreadable lines, such as half-written ones, are left out."""
    found: dict[str, BatchResult] = {}
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for line in lines:
        try:
            result = BatchResult.model_validate_json(line)
        except ValidationError:
            continue
        found[result.id] = result
    return found


def write_results(path: Path, results: list[BatchResult]) -> None:
    """Write the whole table, replacing the file."""
    write_atomically(path, b"".join(map(_line, results)))


def append_result(path: Path, result: BatchResult) -> None:
    """Append a line and flush it to disk."""
    with path.open("ab", buffering=0) as file:
        append_line(file, _line(result))


def _line(result: BatchResult) -> bytes:
    return json.dumps(result.model_dump(mode="json"), ensure_ascii=False).encode() + b"\n"
