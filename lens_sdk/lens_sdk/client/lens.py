"""The async client: the same calls, in this process or on a server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lens_reasoner import (
    Cache,
    Generator,
    ImageRequest,
    Judge,
    LoopConfigError,
    LoopLimits,
    LoopResult,
    Reasoner,
    Refused,
    Rewrite,
    Rubric,
    RubricWriter,
    SystemPrompt,
)
from lens_sdk.client.backend import Backend, RunStream
from lens_sdk.client.resources import AsyncImages, AsyncRuns, Picture, as_picture
from lens_sdk.client.types import Judgement, Timeouts
from lens_sdk.errors import LimitReachedError
from lens_sdk.session import PartChoice
from lens_sdk.settings import FROM_SETTINGS, FromSettings, Settings, given_or
from lens_sdk.tracing import call_span

if TYPE_CHECKING:
    from lens_prompt_opt import Budget, ProgressCallback, PromptSet, StudyResult

LIMITS = frozenset({"max_rounds", "max_images", "max_cost", "cost_unknown", "deadline"})
"""Stop reasons that mean a limit was reached."""


class AsyncLens:
    """Generates images and runs the loop, with a model in this process or on a server.

    Example:
        ```python
        async with AsyncLens() as lens:  # or AsyncLens(base_url="http://gpu:8000", api_key="...")
            result = await lens.create("two red apples left of a blue cup", num_images=4)
            result.best.image.save("apples.png")
        ```

    Attributes:
        images: Generates and edits images; prompts are used unchanged.
        runs: Recorded runs.
    """

    def __init__(
        self,
        model: str | Path | Generator | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        reasoner: PartChoice | Reasoner | FromSettings | None = FROM_SETTINGS,
        judge: PartChoice | Judge | FromSettings | None = FROM_SETTINGS,
        rubric_writer: PartChoice | RubricWriter | None = None,
        system_prompt: SystemPrompt | str | Path | FromSettings | None = FROM_SETTINGS,
        folder: str | Path | FromSettings | None = FROM_SETTINGS,
        cache: Cache | str | Path | FromSettings | None = FROM_SETTINGS,
        timeouts: Timeouts | None = None,
        max_retries: int | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Choose where calls run; arguments that are not given come from the settings.

        Args:
            model: Only without a server; see `lens_sdk.build_loop`.
            base_url: Address of a server, such as "http://127.0.0.1:8000". With "", or if the
                settings name no server either, everything runs in this process.
            api_key: API key for the server.
            reasoner: Only without a server; see `lens_sdk.build_loop`.
            judge: Only without a server; see `lens_sdk.build_loop`.
            rubric_writer: Only without a server; see `lens_sdk.build_loop`.
            system_prompt: Only without a server; see `lens_sdk.build_loop`.
            folder: Only without a server: folder for recorded runs; None records none.
            cache: Only without a server: cache shared with other runs; None caches nothing.
            timeouts: How long calls to a server may take.
            max_retries: How often to retry a call to a server, which never does the work twice.
            settings: Settings to use; by default, they are loaded now.

        Raises:
            ReasonerError: As `lens_sdk.build_loop` does; `SettingsError` for the settings.
            LoopConfigError: Both a server's address and a part for this process are given.
        """
        known = settings or Settings.load(max_retries=max_retries)
        url = known.base_url if base_url is None else base_url
        self._settings, self._remote = known, bool(url)
        self._choices: dict[str, Any] = {
            "model": known.model if model is None else model,
            "reasoner": given_or(reasoner, known.reasoner),
            "judge": given_or(judge, known.judge),
        }
        self._system_prompt = given_or(system_prompt, known.prompt_for(self._choices["reasoner"]))
        if base_url:
            _check_for_server(
                model=model or FROM_SETTINGS,
                reasoner=reasoner,
                judge=judge,
                rubric_writer=rubric_writer or FROM_SETTINGS,
                system_prompt=system_prompt,
            )
        self._backend: Backend
        if url:
            self._backend = _there(url, known, api_key, timeouts, max_retries)
        else:
            self._backend = _here(
                self._choices,
                known,
                rubric_writer=known.rubric if rubric_writer is None else rubric_writer,
                folder=given_or(folder, known.runs),
                cache=given_or(cache, known.cache),
                system_prompt=self._system_prompt,
            )
        self.images = AsyncImages(self._backend)
        self.runs = AsyncRuns(self._backend)

    async def create(
        self,
        request: ImageRequest | str,
        *,
        rubric: Rubric | None = None,
        limits: LoopLimits | None = None,
        raise_on_limit: bool = False,
        **options: Any,
    ) -> LoopResult:
        """Rewrite, generate, judge and revise until a limit; `result.best` is the best image.

        Args:
            request: What to generate.
            rubric: The criteria; written from the request by default.
            limits: When the run ends; after one round by default.
            raise_on_limit: Raise if a limit ended the run before it reached its target score.
            **options: Fields of `ImageRequest`, such as `seed=1` and `num_images=4`.

        Raises:
            LensError: The call failed; the message says why and what to do.
            LimitReachedError: A limit ended the run, and `raise_on_limit` is set; the error holds
                the result so far.
            ValidationError: An option is not a field of `ImageRequest`, or is out of range.
        """
        run = self.stream(request, rubric=rubric, limits=limits, **options)
        result = await run.result()
        if raise_on_limit and result.stop_reason in LIMITS:
            raise LimitReachedError.of(result)
        return result

    def stream(
        self,
        request: ImageRequest | str,
        *,
        rubric: Rubric | None = None,
        limits: LoopLimits | None = None,
        **options: Any,
    ) -> RunStream:
        """`create` as a stream of events; closing it early ends the run between two steps."""
        asked = ImageRequest.of(request, **options)
        return self._backend.stream(asked, rubric=rubric, limits=limits or LoopLimits())

    async def rewrite(self, request: ImageRequest | str, **options: Any) -> Rewrite | Refused:
        """Turn a request into a prompt; returns `Refused` with the reason if it is refused."""
        asked = ImageRequest.of(request, **options)
        with call_span("rewrite") as span:
            outcome = await self._backend.rewrite(asked)
            span.tell(outcome)
        return outcome

    async def judge(
        self, image: Picture, request: ImageRequest | str, *, rubric: Rubric | None = None
    ) -> Judgement:
        """Judge how well an image fulfils a request.

        Args:
            image: The image.
            request: What the image should show.
            rubric: The criteria; written from the request by default.

        Raises:
            ImageFileError: The file does not exist, is not an image, or is damaged.
        """
        picture, asked = await asyncio.to_thread(as_picture, image), ImageRequest.of(request)
        with call_span("judge") as span:
            judgement = await self._backend.judge(picture, asked, rubric=rubric)
            span.tell(judgement.verdict)
        return judgement

    async def optimize(
        self,
        requests: PromptSet | Sequence[str] | str | Path,
        *,
        budget: Budget | Mapping[str, float],
        folder: str | Path,
        seed_prompt: SystemPrompt | str | Path | None = None,
        on_progress: ProgressCallback | None = None,
        defaults: Mapping[str, object] | None = None,
        **order: Any,
    ) -> StudyResult:
        """Improve the reasoner's system prompt over many requests and test the gain statistically.

        Everything is written to a folder; a study that is already there is continued.

        Args:
            requests: The requests, or a JSONL file that contains them.
            budget: Limits for the whole study, such as `{"images": 600}`.
            folder: The study's folder.
            seed_prompt: The system prompt to start from, or its file; by default, the one this
                client rewrites with, or else the built-in one.
            on_progress: Called with the progress so far.
            defaults: Settings for requests that do not set them, such as `width`.
            **order: Fields of `lens_sdk.optimize_run.StudyOrder`, such as `strategy` and `alpha`.

        Raises:
            LensError: The study failed; the message says why and what to do. After a
                `StudyInterruptedError`, the same call continues the study.
            ValidationError: An option is not a field of `StudyOrder` or `Budget`, or is out of
                range.
        """
        if self._remote:
            raise LoopConfigError(
                "Studies run in this process, and this client uses a server.",
                hint='Use Lens(base_url="") with model="server:URL/v1#MODEL" to draw there.',
            )
        from lens_sdk.client.optimizing import optimize

        return await optimize(
            self._settings,
            self._choices,
            requests,
            budget=budget,
            folder=folder,
            seed_prompt=self._system_prompt if seed_prompt is None else seed_prompt,
            on_progress=on_progress,
            defaults=defaults,
            order=order,
        )

    async def close(self) -> None:
        """Close the running event loop's connections; the next call opens new ones."""
        await self._backend.close()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client."""
        await self.close()


def _check_for_server(**parts: object) -> None:
    given = [name for name, part in parts.items() if part is not FROM_SETTINGS]
    if given:
        raise LoopConfigError(
            f"{', '.join(given)} and base_url are given, but a server uses its own parts.",
            hint='Leave out one of them; base_url="" means this process.',
        )


def _there(
    url: str,
    known: Settings,
    api_key: str | None,
    timeouts: Timeouts | None,
    max_retries: int | None,
) -> Backend:
    """The backend that calls a server."""
    from lens_sdk.client.remote import RemoteBackend

    return RemoteBackend(
        url,
        api_key=api_key or known.key(),
        timeouts=timeouts or Timeouts(**known.timeouts.model_dump()),
        max_retries=known.max_retries if max_retries is None else max_retries,
    )


def _here(
    choices: Mapping[str, Any],
    known: Settings,
    *,
    rubric_writer: PartChoice | RubricWriter,
    folder: str | Path | None,
    cache: Cache | str | Path | None,
    system_prompt: SystemPrompt | str | Path | None,
) -> Backend:
    """The backend that runs calls in this process."""
    from lens_sdk.client.local import LocalBackend
    from lens_sdk.client.parts import choose_parts
    from lens_sdk.generators import as_generator

    parts = choose_parts(
        as_generator(choices["model"]),
        reasoner=choices["reasoner"],
        judge=choices["judge"],
        rubric_writer=rubric_writer,
        provider=known.provider,
        system_prompt=system_prompt,
    )
    return LocalBackend(
        parts,
        folder=None if folder is None else Path(folder),
        cache=Cache(cache) if isinstance(cache, str | Path) else cache,
    )
