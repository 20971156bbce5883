"""The web application: its routes, exception handlers and lifespan."""

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
from lalm.serve.async_engine import AsyncEngine, ClientDisconnected, cancel_on_disconnect
from lalm.serve.detections import Detections, detect
from lalm.serve.memory import release_memory_periodically
from lalm.serve.middleware import AccessMiddleware
from lalm.serve.prometheus import Metrics
from lalm.serve.protocol import ChatRequest, ErrorAnswer
from lalm.serve.realtime import SessionManager
from lalm.serve.scheduler import Scheduler
from lalm.serve.settings import Settings
from lalm.serve.transcriptions import Form as TextForm
from lalm.serve.transcriptions import Task, formatted, transcribe

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
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
mimetypes.add_type("text/javascript", ".js")  # Windows may set another type, which browsers refuse


def create_app(engine: Engine, settings: Settings | None = None) -> FastAPI:
    """An ASGI application that answers with ``engine``; the scheduler runs for the application's lifespan."""
    settings = settings or Settings()
    scheduler = Scheduler(engine, max_rows=settings.rows, max_waiting=settings.waiting)
    metrics = Metrics(scheduler)
    async_engine = AsyncEngine(engine, scheduler, settings, metrics)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        releasing = asyncio.create_task(release_memory_periodically())
        yield
        releasing.cancel()
        await asyncio.to_thread(scheduler.close)

    app = FastAPI(
        title="lalm",
        version="0.1.0",
        summary="A language model that hears, behind OpenAI's API.",
        lifespan=running,
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
    )
    app.state.async_engine = async_engine
    app.add_exception_handler(RequestValidationError, errors.validation_error)
    app.add_exception_handler(HTTPException, errors.http_error)
    app.add_exception_handler(ValueError, errors.value_error)
    app.add_exception_handler(ClientDisconnected, _client_disconnected)
    _add_routes(app, async_engine)
    _add_page(app)
    app.add_middleware(AccessMiddleware, settings=settings, metrics=metrics)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"], allow_headers=["*"]
        )
    return app


def _add_routes(app: FastAPI, async_engine: AsyncEngine) -> None:
    @app.post("/v1/chat/completions", responses=ERROR_RESPONSES)
    async def chat_completions(asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation of text and recordings."""
        return await chat.complete(async_engine, request, asked)

    for path, task in (("transcriptions", "transcribe"), ("translations", "translate")):
        _add_transcriptions(app, async_engine, path, task)  # type: ignore[arg-type]

    sessions = SessionManager(async_engine)

    @app.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        """Stream audio in and text out."""
        await sessions.connect(socket)

    @app.post("/v1/audio/detections", responses=ERROR_RESPONSES)
    async def detections(
        request: Request,
        file: Annotated[UploadFile, File(description="A recording of any common format.")],
        sound: Annotated[list[SoundName], Form(min_length=1, max_length=8, description="What to look for.")],
        model: Annotated[str | None, Form()] = None,
    ) -> Detections:
        """When sounds occur in a recording, as the model writes the times; an addition to OpenAI's API."""
        async_engine.check_model(model)
        [clip] = await async_engine.load_clips([await file.read()])
        return await cancel_on_disconnect(request, detect(async_engine, clip, sound))

    @app.get("/v1/models", responses={401: ERROR_RESPONSES[401]})
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [_model(async_engine)]}

    @app.get("/v1/models/{name}", responses={k: ERROR_RESPONSES[k] for k in (401, 404)})
    async def model(name: str) -> dict[str, Any]:
        """The served model, if that is its name."""
        async_engine.check_model(name)
        return _model(async_engine)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server answers, and how many requests wait and run."""
        return {
            "status": "ok",
            "model": async_engine.engine.name,
            "lora_scale": trained_lora_scale(async_engine.engine.model.config),
            "version": app.version,
            "waiting": len(async_engine.scheduler.waiting),
            "running": len(async_engine.scheduler.batch.rows),
        }

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(async_engine.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        """The page for people."""
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))


def _add_transcriptions(app: FastAPI, async_engine: AsyncEngine, path: str, task: Task) -> None:
    @app.post(f"/v1/audio/{path}", responses=ERROR_RESPONSES, operation_id=task)
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
        """Speech as text; verbose_json, srt and vtt have one timed segment for each stretch of speech."""
        async_engine.check_model(model)
        [clip] = await async_engine.load_clips([await file.read()])
        parameters = {"language": language, "prompt": prompt, "temperature": temperature, "seed": seed}
        segments = await cancel_on_disconnect(
            request, transcribe(async_engine, clip, task, response_format, parameters)
        )
        made = formatted(async_engine, clip, segments, response_format, task)
        return PlainTextResponse(made) if isinstance(made, str) else JSONResponse(made)


def _model(async_engine: AsyncEngine) -> dict[str, Any]:
    return {
        "id": async_engine.engine.name,
        "object": "model",
        "created": async_engine.started,
        "owned_by": "lalm",
    }


async def _client_disconnected(request: Request, error: Exception) -> Response:
    """Respond to a closed connection; only the log and the metrics see it."""
    return Response(status_code=499)
