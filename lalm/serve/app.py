"""The application: which path is answered by what."""

import asyncio
import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from fastapi import FastAPI, File, Form, Request, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import StringConstraints
from starlette.exceptions import HTTPException

from lalm.inference.engine import Engine
from lalm.models.lora import trained_lora_scale
from lalm.serve import chat_completions as chat
from lalm.serve import error_responses as errors
from lalm.serve.async_engine import Desk, Gone, unless_gone
from lalm.serve.detections import Detections, detect
from lalm.serve.memory import tidied
from lalm.serve.middleware import Gate
from lalm.serve.prometheus import Metrics
from lalm.serve.protocol import ChatRequest, ErrorAnswer
from lalm.serve.realtime import Sessions
from lalm.serve.scheduler import Scheduler
from lalm.serve.settings import Settings
from lalm.serve.transcriptions import Form as TextForm
from lalm.serve.transcriptions import Task, transcribe, written

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": what}
    for status, what in {
        400: "Something is wrong with the request",
        401: "The API key is missing or wrong",
        404: "There is no such model",
        408: "The request was not sent in time",
        413: "The request is too large",
        429: "Too many requests wait",
        500: "The server failed",
        504: "The answer took too long",
    }.items()
}

SoundName: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=100)]
PAGE = Path(__file__).with_name("page")
mimetypes.add_type("text/javascript", ".js")  # Windows may say otherwise, and browsers then refuse it


def create_app(engine: Engine, settings: Settings | None = None) -> FastAPI:
    """An ASGI application that answers with ``engine``; it starts and stops with the server's lifespan."""
    settings = settings or Settings()
    scheduler = Scheduler(engine, max_rows=settings.rows, max_waiting=settings.waiting)
    metrics = Metrics(scheduler)
    desk = Desk(engine, scheduler, settings, metrics)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        tidying = asyncio.create_task(tidied())
        yield
        tidying.cancel()
        await asyncio.to_thread(scheduler.close)

    app = FastAPI(
        title="lalm",
        version="0.1.0",
        summary="A language model that hears, behind OpenAI's API.",
        lifespan=running,
        docs_url=None,  # the usual pages load their scripts from elsewhere
        redoc_url=None,
    )
    app.state.desk = desk
    app.add_exception_handler(RequestValidationError, errors.validation_error)
    app.add_exception_handler(HTTPException, errors.http_error)
    app.add_exception_handler(ValueError, errors.value_error)
    app.add_exception_handler(Gone, _gone)
    _add_routes(app, desk)
    _add_page(app)
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"], allow_headers=["*"]
        )
    return app


def _add_routes(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/chat/completions", responses=REFUSALS)
    async def chat_completions(asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation of text and recordings."""
        return await chat.complete(desk, request, asked)

    for path, task in (("transcriptions", "transcribe"), ("translations", "translate")):
        _add_transcriptions(app, desk, path, task)  # type: ignore[arg-type]

    sessions = Sessions(desk)

    @app.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        """Audio in, text out, as it comes."""
        await sessions.welcome(socket)

    @app.post("/v1/audio/detections", responses=REFUSALS)
    async def detections(
        request: Request,
        file: Annotated[UploadFile, File(description="A recording of any common format.")],
        sound: Annotated[list[SoundName], Form(min_length=1, max_length=8, description="What to look for.")],
        model: Annotated[str | None, Form()] = None,
    ) -> Detections:
        """When sounds occur in a recording, by the times that the model says; an addition to OpenAI's API."""
        desk.check_model(model)
        [clip] = await desk.clips([await file.read()])
        return await unless_gone(request, detect(desk, clip, sound))

    @app.get("/v1/models", responses={401: REFUSALS[401]})
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [_model(desk)]}

    @app.get("/v1/models/{name}", responses={k: REFUSALS[k] for k in (401, 404)})
    async def model(name: str) -> dict[str, Any]:
        """The model, if that is its name."""
        desk.check_model(name)
        return _model(desk)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether requests can be answered, and how many are."""
        return {
            "status": "ok",
            "model": desk.engine.name,
            "lora_scale": trained_lora_scale(desk.engine.model.config),
            "version": app.version,
            "waiting": len(desk.scheduler.waiting),
            "running": len(desk.scheduler.rows.rows),
        }

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        """The page for people."""
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))


def _add_transcriptions(app: FastAPI, desk: Desk, path: str, task: Task) -> None:
    @app.post(f"/v1/audio/{path}", responses=REFUSALS, operation_id=task)
    async def speech_to_text(
        request: Request,
        file: Annotated[UploadFile, File(description="A recording of any common format.")],
        model: Annotated[str | None, Form()] = None,
        language: Annotated[str, Form(max_length=40)] = "",
        prompt: Annotated[str, Form(max_length=2000)] = "",
        response_format: Annotated[TextForm, Form()] = "json",
        temperature: Annotated[float, Form(ge=0, le=2)] = 0.0,
        seed: Annotated[int | None, Form(ge=0, lt=2**63)] = None,
    ) -> Response:
        """Speech as text; with verbose_json, srt and vtt stretch by stretch."""
        desk.check_model(model)
        [clip] = await desk.clips([await file.read()])
        wish = {"language": language, "prompt": prompt, "temperature": temperature, "seed": seed}
        segments = await unless_gone(request, transcribe(desk, clip, task, response_format, wish))
        made = written(desk, clip, segments, response_format, task)
        return PlainTextResponse(made) if isinstance(made, str) else JSONResponse(made)


def _model(desk: Desk) -> dict[str, Any]:
    return {"id": desk.engine.name, "object": "model", "created": desk.started, "owned_by": "lalm"}


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody reads this."""
    return Response(status_code=499)
