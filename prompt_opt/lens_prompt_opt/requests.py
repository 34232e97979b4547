"""The requests a study learns from and is tested on, and their three disjoint splits."""

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
"""Fewest requests of a split; below that no interval says anything."""

DEFAULT_SHARES = (0.3, 0.45, 0.25)


class StudyRequest(Value):
    """One request with the criteria its images are judged by.

    Attributes:
        id: Short name, unique within its set.
        request: What the user asked for; its seed and number of images are not used.
        rubric: The criteria; None lets the study have them written once.
        group: Requests of one group, such as paraphrases, go to the same split; empty means that
            it stands alone.
    """

    id: str = Field(min_length=1)
    request: ImageRequest
    rubric: Rubric | None = None
    group: str = ""

    @property
    def text(self) -> str:
        """The user's words."""
        return self.request.text


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of a set.

    Attributes:
        search: What proposers see and candidates are screened on.
        selection: What challenges to the incumbent are decided on.
        test: Touched once, for the final claim.
    """

    search: tuple[StudyRequest, ...]
    selection: tuple[StudyRequest, ...]
    test: tuple[StudyRequest, ...]

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each part, by name."""
        return {name: digest(getattr(self, name)) for name in ("search", "selection", "test")}


class PromptSet(Value):
    """Requests for a study, each with a different id and text.

    Attributes:
        requests: In the order of the file.
        duplicates: How many were left out when loading because their text was there already.
    """

    requests: tuple[StudyRequest, ...] = Field(min_length=1)
    duplicates: int = Field(default=0, ge=0)

    @field_validator("requests")
    @classmethod
    def _differ(cls, requests: tuple[StudyRequest, ...]) -> tuple[StudyRequest, ...]:
        ids = [request.id for request in requests]
        texts = [_normal(request.text) for request in requests]
        for what, values in (("ids", ids), ("texts", texts)):
            twice = sorted(value for value, times in Counter(values).items() if times > 1)
            if twice:
                raise ValueError(f"{what} of requests must differ; used more than once: {twice}")
        return requests

    def __len__(self) -> int:
        """How many requests there are."""
        return len(self.requests)

    @property
    def sha256(self) -> str:
        """Hash of the requests with their rubrics."""
        return digest(self.requests)

    @classmethod
    def of(cls, texts: Iterable[str]) -> PromptSet:
        """A set of bare texts, named by their place."""
        return _build(enumerate(texts, start=1))

    @classmethod
    def load(cls, path: str | Path) -> PromptSet:
        """Read a JSONL file: per line a string, or an object with at least "text".

        An object may hold "id", "group", "rubric" and the fields of `ImageRequest`. A text that
        was there already, but for case and white space, is left out and counted.

        Raises:
            PromptSetError: If the file is missing or empty, or a line cannot be read; names the
                line.
        """
        path = Path(path)
        try:
            # Lines end with line feeds alone: JSON may hold other marks that end lines elsewhere.
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
        """A set whose requests have `defaults` for the settings they leave open.

        Args:
            defaults: Fields of `ImageRequest` with their values; a size is no default for requests
                with an aspect ratio.

        Raises:
            ValidationError: If a value does not fit.
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
        """Deal the requests out, groups kept together, in an order drawn from `seed`.

        Texts that differ in nothing but case, spaces and punctuation go together too, and their
        groups with them. A request's place depends on the seed and its group or text alone, up to
        where the shares fall, so that adding requests moves few others.

        Raises:
            PromptSetError: If a split would have fewer than `at_least` requests.
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
    """The requests that must go together: of one group, or of the same words."""
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
        # Left open is what says nothing: no number, no text, no settings.
        if given.get(name) in (None, "", {}) and not (sized and name in {"width", "height"})
    }
    return ImageRequest.of(request, **open_fields)


def digest(requests: Iterable[StudyRequest]) -> str:
    """SHA-256 of requests, independent of their order."""
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
            f"These requests make no set: {error.errors()[0]['msg']}.",
            hint="Give at least one request, each with an id of its own or none.",
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
            hint="A request is a string, or an object of these: id, group, rubric, "
            f"{', '.join(ImageRequest.model_fields)}.",
        ) from error


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(text: str) -> str:
    """The text's words alone; itself if there are none."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(words) or _normal(text)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
