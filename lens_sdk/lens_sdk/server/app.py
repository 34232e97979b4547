"""The server as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
)
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route

from lens_reasoner import LoopResult, ReasonerError, Refused, Rewrite
from lens_reasoner.answers import verdict_of
from lens_sdk.generators import load_generator
from lens_sdk.models import package_version
from lens_sdk.server.answers import frames
from lens_sdk.server.bodies import ImagesBody, JudgementBody, RewriteBody, RunBody, as_request
from lens_sdk.server.config import ServerConfig
from lens_sdk.server.described import (
    EVENTS,
    ImagesAnswer,
    Judgement,
    ModelAnswer,
    ModelList,
    RunAnswer,
    RunList,
    Status,
    answers,
    describe,
)
from lens_sdk.server.drawing import BatchingLensGenerator
from lens_sdk.server.edits import FORM, read_form
from lens_sdk.server.errors import ApiError, api_error, invalid
from lens_sdk.server.guard import OPEN_FOLDER, Guard, caller_of
from lens_sdk.server.idempotency import LONGEST_KEY, Answer
from lens_sdk.server.metrics import Metrics
from lens_sdk.server.page import error_page, page
from lens_sdk.server.pictures import MEDIA_TYPES, uploaded
from lens_sdk.server.services import Services
from lens_sdk.server.shared import SharedWork
from lens_sdk.server.sse import ClientLeftError, EventStream, unless_left
from lens_sdk.server.studies import add_studies
from lens_sdk.tracing import call_span

Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=LONGEST_KEY)]
WORK = (400, 408, 429, 502, 503)
"""Error statuses of every endpoint that reads a body and does work."""

_log = logging.getLogger(__name__)


def create_app(config: ServerConfig) -> FastAPI:
    """Create the application, which loads its model in the background; see `/readyz`."""
    services = Services.of(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(services))
        try:
            yield
        finally:
            services.drain()
            loading.cancel()
            await services.runs.close()
            if isinstance(config.parts.generator, BatchingLensGenerator):
                await asyncio.to_thread(config.parts.generator.close)

    # FastAPI's own documentation pages load scripts from other sites.
    app = FastAPI(
        title="Lens",
        version=package_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = services
    app.add_middleware(Guard, keys=config.keys, limits=config.limits, metrics=services.metrics)
    _answer_errors(app, services.metrics)
    _add_status(app, services)
    _add_images(app, services)
    _add_files(app, services)
    _add_runs(app, services)
    _add_run_control(app, services)
    _add_parts(app, services)
    add_studies(app, config)
    describe(app, with_keys=bool(config.keys))
    return app


async def _load(services: Services) -> None:
    try:
        await asyncio.to_thread(load_generator, services.config.parts.generator)
        services.ready = True
    except Exception:
        _log.exception("the model cannot be loaded")


def _answer_errors(app: FastAPI, metrics: Metrics) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientLeftError):
            return Response(status_code=499)
        if isinstance(error, RequestValidationError):
            known = invalid(error.errors())
        elif isinstance(error, HTTPException):
            known = _http_error(error, request)
        else:
            known = api_error(error)
        if known.status == 429:
            metrics.refused.inc()
        if known.status >= 500 and isinstance(error, ReasonerError):
            _log.error("request failed", exc_info=error)
        told = {"allow": _allowed(app, request)} if known.status == 405 else {}
        if request.url.path.startswith(OPEN_FOLDER) and _wants_html(request):
            text, policy = error_page(known.message)
            return HTMLResponse(text, known.status, {"content-security-policy": policy} | told)
        return JSONResponse(known.body, known.status, told | known.headers)

    for kind in (ApiError, ReasonerError, RequestValidationError, HTTPException, ClientLeftError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(Exception, answer)


def _wants_html(request: Request) -> bool:
    """Whether a browser opened the URL; programs accept anything, or JSON."""
    return "text/html" in request.headers.get("accept", "")


def _http_error(error: HTTPException, request: Request) -> ApiError:
    code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
    message, path = str(error.detail), request.url.path
    if error.status_code == 404:
        message = f"There is nothing at {path}."
        if f"/v1{path}" in {getattr(route, "path", "") for route in request.app.routes}:
            message += " Clients of OpenAI's API want a base_url that ends with /v1."
    return ApiError(error.status_code, message, code=code.get(error.status_code))


def _allowed(app: FastAPI, request: Request) -> str:
    """The methods of all routes that match a path; the error only lists those of the first."""
    routes = [route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({name for route in routes for name in _methods(route)}))


def _methods(route: BaseRoute) -> set[str]:
    return set(route.methods or ()) if isinstance(route, Route) else set()


def _add_status(app: FastAPI, services: Services) -> None:
    @app.get("/", include_in_schema=False)
    def index() -> HTMLResponse:
        text, policy = page(*_shown(services.config))
        return HTMLResponse(text, headers={"content-security-policy": policy})

    @app.get("/healthz", response_model=Status, responses=answers(open_=True))
    def healthz() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "ok"}

    @app.get(
        "/readyz",
        response_model=None,
        responses=answers(model=Status, open_=True)
        | {503: {"model": Status, "description": "Not now"}},
    )
    def readyz() -> JSONResponse:
        """Whether the server accepts work."""
        draining = services.admission.draining
        ready = services.ready and not draining
        status = "ready" if ready else "draining" if draining else "loading"
        return JSONResponse({"status": status}, 200 if ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse, responses=answers())
    def metrics() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(services.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", response_model=ModelList, responses=answers())
    def models() -> dict[str, Any]:
        """List the server's only model."""
        return {"object": "list", "data": [_model(services)]}

    @app.get("/v1/models/{name:path}", response_model=ModelAnswer, responses=answers(404))
    def model(name: str) -> dict[str, Any]:
        """Get the model by name."""
        if name != services.config.parts.generator.name:
            raise ApiError(404, f"The model {name!r} does not exist.", code="model_not_found")
        return _model(services)


def _shown(config: ServerConfig) -> tuple[str, str]:
    """The folders of runs and studies to show on the page, which needs no key."""
    if config.keys:
        return "FOLDER/runs", "FOLDER/studies"
    return str(config.folder / "runs"), str(config.shelf)


def _model(services: Services) -> dict[str, Any]:
    generator = services.config.parts.generator
    return {
        "id": generator.name,
        "object": "model",
        "created": 0,
        "owned_by": "lens",
        "capabilities": generator.capabilities.model_dump(mode="json"),
    }


def _add_images(app: FastAPI, services: Services) -> None:
    drawn = answers(*WORK, 404, 409, model=ImagesAnswer, content=EVENTS)

    @app.post("/v1/images/generations", response_model=None, responses=drawn)
    async def generations(
        body: ImagesBody, request: Request, idempotency_key: Key = None
    ) -> Response | dict[str, Any]:
        """Generate images from a prompt, which is used unchanged."""
        work = services.images.begin(
            body,
            caller=caller_of(request.state),
            key=idempotency_key,
            base_url=str(request.base_url),
        )
        return await _told(work, request, stream=bool(body.stream))

    @app.post(
        "/v1/images/edits",
        response_model=None,
        responses=drawn | answers(415),
        openapi_extra=FORM,
    )
    async def edits(request: Request, idempotency_key: Key = None) -> Response | dict[str, Any]:
        """Edit an image according to a prompt, everywhere or where a mask is transparent."""
        body, source = await read_form(request, services.config.limits)
        work = await services.images.begin_edit(
            body,
            source,
            caller=caller_of(request.state),
            key=idempotency_key,
            base_url=str(request.base_url),
        )
        return await _told(work, request, stream=bool(body.stream))


async def _told(
    work: SharedWork[Answer], request: Request, *, stream: bool
) -> Response | dict[str, Any]:
    """Answer a request for images, as a stream of events or once all are finished."""
    if stream:
        return EventStream(frames(work))
    with work.joined():
        return await unless_left(request, work.result())


def _add_files(app: FastAPI, services: Services) -> None:
    @app.get("/files/{name}", include_in_schema=False)
    def picture(name: str) -> FileResponse:
        path = services.pictures.find(name)
        if path is None:
            raise ApiError(404, "There is no such image; image URLs work for an hour.")
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix])


def _add_runs(app: FastAPI, services: Services) -> None:
    runs = services.runs

    @app.post("/v1/runs", status_code=201, response_model=RunAnswer, responses=answers(*WORK, 409))
    async def create(
        body: RunBody, request: Request, idempotency_key: Key = None
    ) -> dict[str, Any]:
        """Start a run: rewrite, generate, judge, revise."""
        work = runs.create(body, caller=caller_of(request.state), key=idempotency_key)
        with work.joined():
            answer = await unless_left(request, work.result())
        return runs.describe(answer["id"])

    @app.get("/v1/runs", response_model=RunList, responses=answers(400))
    def newest(limit: Annotated[int, Query(ge=1, le=200)] = 20) -> dict[str, Any]:
        """List the latest runs, newest first."""
        return {"object": "list", "data": runs.newest(limit)}

    @app.get("/v1/runs/{name}", response_model=RunAnswer, responses=answers(404))
    def describe(name: str) -> dict[str, Any]:
        """Get a summary of a run."""
        return runs.describe(name)

    @app.get("/v1/runs/{name}/result", responses=answers(404, model=LoopResult))
    def result(name: str) -> Response:
        """Get the result of a run, or what it has produced so far, including the images."""
        return Response(runs.record(name).result().model_dump_json(), media_type="application/json")


def _add_run_control(app: FastAPI, services: Services) -> None:
    runs = services.runs

    @app.get(
        "/v1/runs/{name}/events",
        status_code=200,
        response_class=EventStream,
        responses=answers(400, 404, content=EVENTS),
    )
    async def events(
        name: str,
        last_event_id: Annotated[int | None, Header(ge=0, le=10**9)] = None,
        after: Annotated[int | None, Query(ge=0, le=10**9)] = None,
    ) -> Response:
        """Follow a run's events as they happen, from the first one or after a given number."""
        runs.record(name)
        return EventStream(runs.frames(name, last_event_id or after or 0))

    @app.post("/v1/runs/{name}/cancel", response_model=RunAnswer, responses=answers(404, 503))
    async def cancel(name: str) -> dict[str, Any]:
        """End a run between two steps; images generated so far are kept."""
        await runs.cancel(name)
        return runs.describe(name)

    @app.post(
        "/v1/runs/{name}/resume",
        response_model=RunAnswer,
        responses=answers(400, 404, 409, 429, 503),
    )
    async def resume(name: str) -> dict[str, Any]:
        """Resume a run that was interrupted or cancelled."""
        await runs.resume(name)
        return runs.describe(name)


def _add_parts(app: FastAPI, services: Services) -> None:
    parts, limits = services.config.parts, services.config.limits

    @app.post("/v1/rewrites", response_model=Rewrite | Refused, responses=answers(*WORK))
    async def rewrite(body: RewriteBody, request: Request) -> dict[str, Any]:
        """Turn a request into a prompt, or refuse it."""
        asked = as_request(body.request)
        limits.check_request(asked)
        if parts.reasoner is None:
            raise ApiError.bad_request("This server has no reasoner.", code="not_configured")
        with services.admission.part(limits.parts), call_span("rewrite") as span:
            outcome = await unless_left(request, parts.reasoner.rewrite(asked))
            span.tell(outcome)
        return outcome.model_dump(mode="json")

    @app.post("/v1/judgements", response_model=Judgement, responses=answers(*WORK, 422))
    async def judge(body: JudgementBody, request: Request) -> dict[str, Any]:
        """Judge how well an image fulfils a request."""
        asked = as_request(body.request)
        limits.check_request(asked)
        if parts.judge is None or parts.rubric_writer is None:
            raise ApiError.bad_request("This server has no judge.", code="not_configured")
        with services.admission.part(limits.parts):
            image = await asyncio.to_thread(uploaded, body.image, limits)
            rubric = body.rubric
            if rubric is None:
                rubric = await unless_left(request, parts.rubric_writer.write(asked))
            with call_span("judge") as span:
                verdict = await unless_left(request, verdict_of(parts.judge, image, rubric))
                span.tell(verdict)
        return Judgement(rubric=rubric, verdict=verdict).model_dump(mode="json")
