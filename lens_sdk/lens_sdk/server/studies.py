"""The prompt studies in a folder: their outcomes and reports."""

from __future__ import annotations

import hmac
import logging
import secrets
import time
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, ValidationError

from lens_prompt_opt.budget import SpendRow
from lens_prompt_opt.card import GainClaim
from lens_prompt_opt.errors import PromptOptError
from lens_prompt_opt.report import render_run
from lens_prompt_opt.report.unfinished import Progress
from lens_prompt_opt.run_directory import RESULT_FILE, STUDY_FILE, RunDirectory
from lens_reasoner.atomic import write_atomically
from lens_sdk.server.config import ServerConfig
from lens_sdk.server.described import answers
from lens_sdk.server.errors import ApiError
from lens_sdk.server.guard import OPEN_FOLDER
from lens_sdk.server.pictures import KEPT_SECONDS

_CALLS_FILE = "calls.jsonl"
_HEADERS = {"content-security-policy": "sandbox allow-scripts; frame-ancestors 'none'"}
"""The report has its own policy; this isolates it from the server's page and its API key."""

_UNREADABLE = (OSError, PromptOptError, ValidationError, LookupError, TypeError, AttributeError)
"""Errors from reading files that are not a study's or come from another version."""

_log = logging.getLogger(__name__)


class StudyAnswer(BaseModel):
    """Summary of a prompt study."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    """Name of the study's folder."""
    object: Literal["study"] = "study"
    """Always "study"."""
    created_at: int
    """Start time, in seconds since 1970."""
    updated_at: int
    """Time of the last write, in seconds since 1970; a running study writes with every call."""
    status: Literal["finished", "unfinished"]
    """Whether the study has finished."""
    prompt: str
    """Name of the system prompt to improve."""
    generators: list[str]
    """Names of the generators."""
    improved: bool | None
    """Whether a better prompt was established; null until the study has finished."""
    claim: GainClaim | None
    """Scores of the seed prompt and the best one, and the gain with its interval."""
    cost: SpendRow
    """Consumption so far, or in total once finished."""
    report_url: str = ""
    """Path of the report; works for an hour without a key."""


class StudyList(BaseModel):
    """Prompt studies, newest first."""

    object: Literal["list"] = "list"
    """Always "list"."""
    data: list[StudyAnswer]
    """The studies."""


class StudyShelf:
    """The studies in a folder, each in its own subfolder.

    Browsers open reports as ordinary links, which send no key. The URLs are therefore signed and
    given only to authorized callers.

    Args:
        folder: Folder of the studies.
        secret: File with the signing secret, created when needed. Servers that share it accept each
            other's URLs.
    """

    def __init__(self, folder: Path, secret: Path) -> None:
        self._folder = folder
        self._secret = secret

    def newest(self, most: int) -> list[StudyAnswer]:
        """The latest studies, newest first; unreadable ones are left out."""
        found = []
        for name, folder in self._folders().items():
            try:
                found.append(self._signed(name, folder))
            except _UNREADABLE as error:
                _log.warning("study %s is left out: %s", name, error)
        return sorted(found, key=lambda study: (study.created_at, study.id), reverse=True)[:most]

    def describe(self, name: str) -> StudyAnswer:
        """Summary of a study.

        Raises:
            ApiError: The study does not exist or cannot be read.
        """
        folder = self._find(name)
        try:
            return self._signed(name, folder)
        except _UNREADABLE as error:
            raise _unreadable(name) from error

    def report(self, token: str, name: str) -> str:
        """A study's report as HTML.

        Args:
            token: The part of the URL before the name.
            name: Name of the study.

        Raises:
            ApiError: The URL was not signed with this secret or has expired, or the study no longer
                exists or cannot be read.
        """
        until = token.partition("-")[0]
        known = self._token(name, until)
        if not until.isdecimal() or not hmac.compare_digest(token.encode(), known.encode()):
            raise ApiError(404, "There is no such report.")
        if int(until) < time.time():
            raise ApiError(404, "This URL has expired; open the report from the page again.")
        folder = self._find(name)
        try:
            return _page(folder, _stamp(folder))
        except _UNREADABLE as error:
            raise _unreadable(name) from error

    def _signed(self, name: str, folder: Path) -> StudyAnswer:
        token = self._token(name, str(int(time.time() + KEPT_SECONDS)))
        url = f"{OPEN_FOLDER}studies/{token}/{quote(name, safe='')}"
        return _summary(folder, _stamp(folder)).model_copy(update={"id": name, "report_url": url})

    def _token(self, name: str, until: str) -> str:
        try:
            secret = self._secret.read_bytes()
        except FileNotFoundError:
            write_atomically(self._secret, secrets.token_bytes(32))
            secret = self._secret.read_bytes()
        return f"{until}-{hmac.digest(secret, f'{until} {name}'.encode(), 'sha256').hex()}"

    def _folders(self) -> dict[str, Path]:
        if (self._folder / STUDY_FILE).is_file():
            return {self._folder.absolute().name: self._folder}
        return {path.parent.name: path.parent for path in self._folder.glob(f"*/{STUDY_FILE}")}

    def _find(self, name: str) -> Path:
        # Only names found in the folder are accepted, so no path can lead outside it.
        folder = self._folders().get(name)
        if folder is None:
            raise ApiError(404, f"There is no study {name!r}.", code="study_not_found", param="id")
        return folder


def add_studies(app: FastAPI, config: ServerConfig) -> None:
    """Add the endpoints for studies."""
    shelf = StudyShelf(config.shelf, config.folder / "links.key")

    @app.get("/v1/studies", response_model=StudyList, responses=answers(400))
    def studies(limit: Annotated[int, Query(ge=1, le=200)] = 20) -> dict[str, Any]:
        """List the latest prompt studies, newest first."""
        return {"data": shelf.newest(limit)}

    @app.get("/v1/studies/{name}", response_model=StudyAnswer, responses=answers(404))
    def study(name: str) -> StudyAnswer:
        """Summary of a prompt study."""
        return shelf.describe(name)

    @app.get(f"{OPEN_FOLDER}studies/{{token}}/{{name}}", include_in_schema=False)
    def report(token: str, name: str) -> HTMLResponse:
        return HTMLResponse(shelf.report(token, name), headers=_HEADERS)


Stamp = tuple[int, ...]


def _stamp(folder: Path) -> Stamp:
    """A value that changes whenever the study's files change."""
    paths = (folder / name for name in (STUDY_FILE, RESULT_FILE, _CALLS_FILE))
    return tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in paths)


@lru_cache(maxsize=512)
def _summary(folder: Path, stamp: Stamp) -> StudyAnswer:
    directory = RunDirectory(folder)
    about = directory.study()
    finished = (folder / RESULT_FILE).is_file()
    result = directory.result() if finished else None
    generators = (result or {}).get("generators") or about.models["generate"].split(" + ")
    if result is None:
        cost = Progress.read(folder / _CALLS_FILE).rows()[-1]
    else:
        cost = SpendRow.model_validate(result["cost"][-1])
    return StudyAnswer(
        id=folder.name,
        created_at=stamp[0] // 10**9,
        updated_at=max(stamp) // 10**9,
        status="unfinished" if result is None else "finished",
        prompt=about.seed_prompt.name,
        generators=list(generators),
        improved=None if result is None else result["end"] == "improved",
        claim=None if result is None else result["best"]["claim"],
        cost=cost,
    )


@lru_cache(maxsize=4)
def _page(folder: Path, stamp: Stamp) -> str:
    return render_run(folder)


def _unreadable(name: str) -> ApiError:
    return ApiError(404, f"The study {name!r} cannot be read.", code="study_unreadable", param="id")
