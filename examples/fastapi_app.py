"""Image generation in your own application: one FastAPI endpoint over `AsyncLens`.

A request repeated with the same Idempotency-Key gets the same image without generating it again. A
refused request gets a 422 with the reason. Generation stops when nobody is waiting any more.

Run: python examples/fastapi_app.py [PORT]
Ask: curl -H "Idempotency-Key: 1" -H "Content-Type: application/json" \
         -d '{"text": "two red apples"}' http://127.0.0.1:8080/pictures
"""

import asyncio
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from lens_sdk import AsyncLens, LensError, LoopResult, error_kind, save_candidate

STATUS = {"refused": 422, "unsupported": 400, "rate_limit": 503, "timeout": 504}
"""HTTP status of each kind of error; any other is a 502."""


class Ask(BaseModel):
    text: str = Field(min_length=1, max_length=2000)
    seed: int | None = Field(default=None, ge=0)


@dataclass
class Work:
    """An image in progress, and the number of callers waiting for it."""

    ask: Ask
    task: asyncio.Task[LoopResult]
    waiting: int = 0


def build_app(lens: AsyncLens, folder: Path) -> FastAPI:
    app = FastAPI(title="Pictures")
    folder.mkdir(parents=True, exist_ok=True)
    app.mount("/files", StaticFiles(directory=folder))
    works: dict[str, Work] = {}  # with several processes, use a shared database instead

    @app.post("/pictures")
    async def make(
        ask: Ask, request: Request, idempotency_key: Annotated[str | None, Header()] = None
    ) -> dict[str, Any]:
        key = idempotency_key or uuid.uuid4().hex
        if key not in works:
            works[key] = Work(ask, asyncio.create_task(lens.create(ask.text, seed=ask.seed)))
        work = works[key]
        if work.ask != ask:
            raise HTTPException(409, "this Idempotency-Key was used for another request")
        try:
            result = await answer(work, request)
        except LensError as error:
            status = STATUS.get(error_kind(error), 502)
            raise HTTPException(status, f"{error.message} {error.hint}".strip()) from error
        finally:
            failed = work.task.done() and work.task.exception() is not None
            if (failed or work.task.cancelling()) and works.get(key) is work:
                del works[key]  # the next attempt starts over
        if result.refused is not None:
            raise HTTPException(422, result.refused.reason)
        best = result.best
        if best is None:
            raise HTTPException(502, f"no picture was drawn: {result.stop_reason}")
        path = folder / f"{best.image.sha256}.png"
        if not path.exists():
            save_candidate(result, best, path)
        return {"url": f"/files/{path.name}", "prompt": best.image.prompt, "score": best.score}

    return app


async def answer(work: Work, request: Request) -> LoopResult:
    """Wait for an image; if the last caller disconnects, generation stops between two steps."""
    work.waiting += 1
    gone = asyncio.create_task(hung_up(request))
    try:
        await asyncio.wait({work.task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.task.done():
            raise HTTPException(499, "the caller hung up")
        return work.task.result()
    finally:
        gone.cancel()
        work.waiting -= 1
        if not work.waiting:
            work.task.cancel()  # has no effect if the task is done


async def hung_up(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    uvicorn.run(build_app(AsyncLens(), Path("pictures")), port=port)
