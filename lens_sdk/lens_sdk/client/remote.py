"""Calls that a server such as `lens serve` carries out."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import quote

from lens_reasoner import (
    Event,
    GeneratedImage,
    ImageRequest,
    LoopLimits,
    LoopResult,
    Refused,
    Rewrite,
    Rubric,
)
from lens_reasoner.errors import UnsupportedSettingError
from lens_reasoner.events import read_event
from lens_sdk.client.backend import RunStream
from lens_sdk.client.errors import (
    LensServerError,
    RunEndedError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from lens_sdk.client.types import Edit, Judgement, RunInfo, Timeouts
from lens_sdk.client.wire import Wire, worth_retrying

_FAREWELL = 5.0
"""Seconds allowed for telling the server that a run was cancelled."""


class RemoteBackend:
    """Calls a server.

    Args:
        base_url: Address of the server.
        api_key: API key; None if the server needs none.
        timeouts: How long calls may take.
        max_retries: How often to retry a call.

    Raises:
        SettingsError: `base_url` is not a server address.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeouts: Timeouts | None = None,
        max_retries: int = 2,
    ) -> None:
        self._timeouts = timeouts or Timeouts()
        self._retries = max_retries
        self._wire = Wire(
            base_url, api_key=api_key, timeouts=self._timeouts, max_retries=max_retries
        )

    async def images(self, request: ImageRequest, edit: Edit | None = None) -> list[GeneratedImage]:
        """See `Backend.images`."""
        body = _images_body(request)
        if edit is None:
            answer = await self._wire.post("images/generations", body)
        else:
            files = {"image": edit.image, "mask": edit.mask}
            sent = {name: data for name, data in files.items() if data is not None}
            answer = await self._wire.post("images/edits", {**body, **edit.extra}, sent)
        return [_image(datum) for datum in answer["data"]]

    def stream(
        self, request: ImageRequest, *, rubric: Rubric | None, limits: LoopLimits
    ) -> RunStream:
        """See `Backend.stream`."""
        body = {
            "request": request.model_dump(mode="json"),
            "limits": limits.model_dump(mode="json"),
            "rubric": None if rubric is None else rubric.model_dump(mode="json"),
        }
        run = RunStream()
        return run.begin(self._play(run, "runs", body))

    async def rewrite(self, request: ImageRequest) -> Rewrite | Refused:
        """See `Backend.rewrite`."""
        body = {"request": request.model_dump(mode="json")}
        answer = await self._wire.post("rewrites", body)
        return (Rewrite if "prompt" in answer else Refused).model_validate(answer)

    async def judge(
        self, image: GeneratedImage, request: ImageRequest, *, rubric: Rubric | None
    ) -> Judgement:
        """See `Backend.judge`."""
        body = {
            "image": base64.b64encode(image.data).decode(),
            "request": request.model_dump(mode="json"),
            "rubric": None if rubric is None else rubric.model_dump(mode="json"),
        }
        return Judgement.model_validate(await self._wire.post("judgements", body))

    async def runs(self, limit: int) -> list[RunInfo]:
        """See `Backend.runs`."""
        answer = await self._wire.get(f"runs?limit={limit}")
        return [_info(told) for told in answer["data"]]

    async def run(self, name: str) -> RunInfo:
        """See `Backend.run`."""
        return _info(await self._wire.get(_run(name)))

    async def result(self, name: str) -> LoopResult:
        """See `Backend.result`."""
        return LoopResult.model_validate(await self._wire.get(f"{_run(name)}/result"))

    def resume(self, name: str) -> RunStream:
        """See `Backend.resume`."""
        run = RunStream()
        run.id = name
        return run.begin(self._play(run, f"{_run(name)}/resume", None))

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._wire.close()

    async def _play(
        self, run: RunStream, path: str, body: dict[str, Any] | None
    ) -> AsyncGenerator[Event]:
        """Start a run and follow it; leaving early also ends it on the server."""
        run.id = (await self._wire.post(path, body))["id"]
        total, over = self._timeouts.total, False
        until = None if total is None else asyncio.get_running_loop().time() + total
        try:
            async with aclosing(self._follow(str(run.id))) as events:
                while True:
                    # The timeout must not enclose the yield: another task may await the next event.
                    async with asyncio.timeout_at(until):
                        event = await anext(events)
                    over = event.type == "finished"
                    yield event
        except StopAsyncIteration:
            return
        except RunEndedError:
            over = True
            raise
        except TimeoutError as error:
            raise ServerTimeoutError(
                f"The run {run.id} took more than {self._timeouts.total:g} s.",
                hint="Its images so far are kept: lens.runs.result(ID).",
            ) from error
        finally:
            if not over:
                await self._end(str(run.id))

    async def _follow(self, name: str) -> AsyncGenerator[Event]:
        """A run's events, across lost connections and restarts of the server."""
        # A run that was resumed for judging has more than one end event.
        known, failures, over = 0, 0, False
        while True:
            try:
                async with aclosing(self._wire.events(f"runs/{name}/events", known)) as lines:
                    async for told in lines:
                        if told.kind == "ended":
                            await self._ended(name, told.data)
                            break
                        if told.number is not None:
                            known, failures = told.number, 0
                        over = told.kind == "finished"
                        yield read_event(told.data)
                if over:
                    return
                raise ServerUnreachableError(f"The events of run {name} broke off.")
            except LensServerError as error:
                failures += 1
                if failures > self._retries or not worth_retrying(error):
                    raise
                await asyncio.sleep(min(8.0, 0.5 * 2**failures))

    async def _ended(self, name: str, data: dict[str, Any]) -> None:
        """Resume a run that its server left unfinished."""
        if data["status"] == "interrupted":
            await self._wire.post(f"runs/{name}/resume")
        elif data["status"] != "running":
            reason = (data.get("error") or {}).get("message") or "somebody ended it"
            raise RunEndedError(
                f"The run {name} was {data['status']}: {reason}",
                run_id=name,
                run_status=data["status"],
                hint="Its pictures so far: lens.runs.result(ID).",
            )

    async def _end(self, name: str) -> None:
        """Ask the server to end the run; best effort."""
        with suppress(LensServerError, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(_FAREWELL):
                await asyncio.shield(asyncio.ensure_future(self._wire.post(f"runs/{name}/cancel")))


def _run(name: str) -> str:
    """The path of a run, quoted so that no name can lead to another path."""
    return f"runs/{quote(name, safe='')}"


def _images_body(request: ImageRequest) -> dict[str, Any]:
    absent = {
        "aspect_ratio": "Give width and height, or use create.",
        "extra": "Leave it out: servers accept no generator-specific settings.",
    }
    for name, hint in absent.items():
        if value := getattr(request, name):
            raise UnsupportedSettingError(
                f"images.generate has no {name} on a server.",
                setting=name,
                value=value,
                backend="server",
                hint=hint,
            )
    size = None if request.width is None else f"{request.width}x{request.height}"
    body = {
        "prompt": request.text,
        "n": request.num_images,
        "size": size,
        "seed": request.seed,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "negative_prompt": request.negative_prompt or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _image(datum: dict[str, Any]) -> GeneratedImage:
    known = {name: value for name, value in datum.items() if name in GeneratedImage.model_fields}
    return GeneratedImage.model_validate({**known, "data": datum["b64_json"]})


def _info(told: dict[str, Any]) -> RunInfo:
    return RunInfo.model_validate({k: v for k, v in told.items() if k != "object"})
