"""The requests of a study, and their three disjoint splits."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, JsonValue, ValidationError, field_validator

from lens_prompt_opt.errors import PromptSetError
from lens_reasoner.text_files import read_text
from lens_reasoner.types import ImageRequest, Rubric, Value

MIN_SPLIT = 4
"""Minimum requests per split; with fewer, intervals are meaningless."""

DEFAULT_SHARES = (0.3, 0.45, 0.25)


class StudyRequest(Value):
    """One request with the criteria its images are judged by.

    Attributes:
        id: Short name, unique within its set.
        request: The request; its seed and number of images are not used.
        rubric: The criteria; None has them written once.
        group: Requests of one group, such as paraphrases, go into the same split; empty means no
            group.
    """

    id: str = Field(min_length=1)
    request: ImageRequest
    rubric: Rubric | None = None
    group: str = ""

    @property
    def text(self) -> str:
        """The request's text."""
        return self.request.text


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of a set.

    Attributes:
        search: For proposers, and for screening candidates.
        selection: For challenges to the incumbent.
        test: Used once, for the final claim.
    """

    search: tuple[StudyRequest, ...]
    selection: tuple[StudyRequest, ...]
    test: tuple[StudyRequest, ...]

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each split, by name."""
        return {name: digest(getattr(self, name)) for name in ("search", "selection", "test")}


class PromptSet(Value):
    """Requests for a study, with unique ids and texts.

    Attributes:
        requests: In the order of the file.
        duplicates: Number of requests that were skipped on loading because their text was a repeat.
    """

    requests: tuple[StudyRequest, ...] = Field(min_length=1)
    duplicates: int = Field(default=0, ge=0)

    @field_validator("requests")
    @classmethod
    def _differ(cls, requests: tuple[StudyRequest, ...]) -> tuple[StudyRequest, ...]:
        ids = [request.id for request in requests]
        texts = [_normal(request.text) for request in requests]
        for what, values in (("ids", ids), ("texts", texts)):
            repeated = sorted(value for value, times in Counter(values).items() if times > 1)
            if repeated:
                raise ValueError(f"{what} of requests must differ; used more than once: {repeated}")
        return requests

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.requests)

    @property
    def sha256(self) -> str:
        """SHA-256 of the requests with their rubrics."""
        return digest(self.requests)

    @classmethod
    def of(cls, texts: Iterable[str]) -> PromptSet:
        """A set of plain texts; ids are numbered."""
        return _build(enumerate(texts, start=1))

    @classmethod
    def load(cls, path: str | Path) -> PromptSet:
        """Read a JSONL file; each line is a string, or an object with at least "text".

        An object may also have "id", "group", "rubric" and any field of `ImageRequest`. Repeated
        texts, ignoring case and white space, are skipped and counted.

        Raises:
            PromptSetError: The file is missing or empty, or a line is invalid; the message names
                it.
        """
        path = Path(path)
        try:
            # Split on line feeds only: JSON strings may contain other line separators.
            lines = read_text(path).split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise PromptSetError(
                f"The requests {str(path)!r} cannot be read: {error}.",
                hint="Give a JSONL file with one request per line.",
            ) from error
        found = [*_parsed(path, lines)]
        if not found:
            raise PromptSetError(
                f"There are no requests in {str(path)!r}.",
                hint="Give a JSONL file with one request per line.",
            )
        return _build(found)

    def with_defaults(self, defaults: Mapping[str, object]) -> PromptSet:
        """Return a set in which `defaults` fill the settings that requests leave open.

        Args:
            defaults: Values by field of `ImageRequest`; a default size is ignored for requests with
                an aspect ratio.

        Raises:
            ValidationError: A value is invalid.
        """
        return self.model_copy(
            update={
                "requests": tuple(
                    one.model_copy(update={"request": _filled(one.request, defaults)})
                    for one in self.requests
                )
            }
        )

    def split(
        self, seed: int, *, shares: Sequence[float] = DEFAULT_SHARES, at_least: int = MIN_SPLIT
    ) -> Splits:
        """Divide the requests into splits, in an order determined by `seed`; groups stay together.

        Texts that only differ in case, spaces and punctuation also stay together, with their
        groups. A request's place in the order depends only on the seed and its group or text, so
        adding requests moves few others.

        Raises:
            PromptSetError: A split would have fewer than `at_least` requests.
        """
        families = _families(self.requests)
        order = sorted(families, key=lambda family: _hash(f"{seed}:{_name(family[0])}"))
        parts: tuple[list[StudyRequest], ...] = ([], [], [])
        total, taken = len(self), 0
        bounds = (shares[0] * total, (shares[0] + shares[1]) * total)
        for family in order:
            part = 0 if taken < round(bounds[0]) else 1 if taken < round(bounds[1]) else 2
            parts[part].extend(family)
            taken += len(family)
        if min(map(len, parts)) < at_least:
            raise PromptSetError(
                f"{total} requests in {len(families)} groups give splits of "
                f"{[len(part) for part in parts]}; each needs at least {at_least}.",
                hint="Add requests, or make groups smaller.",
            )
        return Splits(*(tuple(part) for part in parts))


def _families(requests: Iterable[StudyRequest]) -> list[list[StudyRequest]]:
    """Lists of requests that must stay together: same group, or same words."""
    homes: dict[str, list[StudyRequest]] = {}
    for request in requests:
        near = {id(homes[bond]): homes[bond] for bond in _bonds(request) if bond in homes}
        family = [*(member for home in near.values() for member in home), request]
        homes |= {bond: family for member in family for bond in _bonds(member)}
    return list({id(family): family for family in homes.values()}.values())


def _bonds(request: StudyRequest) -> list[str]:
    words = f"words:{_words(request.text)}"
    return [words, f"group:{request.group}"] if request.group else [words]


def _name(request: StudyRequest) -> str:
    return request.group or _normal(request.text)


def _filled(request: ImageRequest, defaults: Mapping[str, object]) -> ImageRequest:
    given = request.model_dump()
    sized = request.aspect_ratio is not None
    open_fields = {
        name: value
        for name, value in defaults.items()
        # A field counts as open if it has no number, text or settings.
        if given.get(name) in (None, "", {}) and not (sized and name in {"width", "height"})
    }
    return ImageRequest.of(request, **open_fields)


def digest(requests: Iterable[StudyRequest]) -> str:
    """SHA-256 of requests, regardless of their order."""
    lines = sorted(request.model_dump_json() for request in requests)
    return _hash("\n".join(lines))


def _parsed(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PromptSetError(
                f"Line {number} of {str(path)!r} is not JSON: {error}.",
                hint='Write one request per line, such as {"text": "two red apples"}.',
            ) from error


def _build(entries: Iterable[tuple[int, object]]) -> PromptSet:
    requests: list[StudyRequest] = []
    seen: set[str] = set()
    duplicates = 0
    for number, entry in entries:
        request = _request(number, entry)
        if _normal(request.text) in seen:
            duplicates += 1
            continue
        seen.add(_normal(request.text))
        requests.append(request)
    try:
        return PromptSet(requests=tuple(requests), duplicates=duplicates)
    except ValidationError as error:
        raise PromptSetError(
            f"These requests are not a valid set: {error.errors()[0]['msg']}.",
            hint="Give at least one request, with unique ids or none.",
        ) from error


def _request(number: int, entry: object) -> StudyRequest:
    fields: dict[str, JsonValue] = {"text": entry} if isinstance(entry, str) else {}
    if isinstance(entry, dict):
        fields = dict(entry)
    try:
        own = {name: fields.pop(name) for name in ("id", "group", "rubric") if name in fields}
        given = own.get("id")
        own["id"] = f"r{number:04d}" if given is None else str(given)
        return StudyRequest.model_validate({**own, "request": fields})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PromptSetError(
            f"Request {number} cannot be used: {place}: {first['msg']}.",
            hint="A request is a string, or an object with these fields: id, group, rubric, "
            f"{', '.join(ImageRequest.model_fields)}.",
        ) from error


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(text: str) -> str:
    """The text's words alone; the text itself if it has none."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(words) or _normal(text)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
