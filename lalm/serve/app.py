"""The web application: its routes, exception handlers and lifespan."""

import asyncio
import mimetypes
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, FastAPI, File, Form, Request, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import StringConstraints
from starlette.exceptions import HTTPException

from lalm.inference.engine import Engine
from lalm.inference.speech.recogniser import NAME as WHISPER
from lalm.inference.speech.recogniser import Whisper
from lalm.models.lora import trained_lora_scale
from lalm.serve import chat_completions as chat
from lalm.serve import error_responses as errors
from lalm.serve import text_completions as text
from lalm.serve.async_engine import ClientDisconnected, cancel_on_disconnect, read_all
from lalm.serve.chat_completions import STREAM_HEADERS
from lalm.serve.detections import Detections, detect
from lalm.serve.embeddings import EmbeddingRequest, embed
from lalm.serve.memory import release_memory_periodically
from lalm.serve.middleware import AccessMiddleware
from lalm.serve.model_pool import ModelPool
from lalm.serve.protocol import ChatRequest, ErrorAnswer
from lalm.serve.realtime import SessionManager
from lalm.serve.request_fields import check_fields
from lalm.serve.responses import ResponsesRequest, respond
from lalm.serve.settings import Settings
from lalm.serve.speech_form import CHANNEL, LENIENT, TRACK, SpeechForm, audio_part
from lalm.serve.transcriptions import Task, Transcript, formatted
from lalm.serve.whisper_transcripts import WhisperTranscript

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


def create_app(
    engine: Engine,
    settings: Settings | None = None,
    others: Mapping[str, Callable[[], Engine]] | None = None,
    whisper: Callable[[], Whisper] | None = None,
) -> FastAPI:
    """An ASGI application that answers with ``engine``; the scheduler runs for the application's lifespan.

    ``others`` open further models by name when a request asks for one. ``engine`` itself is closed to make
    place for one only if its name is among them. ``whisper`` opens what transcribes for models that do not.
    ``settings``: limits in seconds, bytes and requests, keys and origins; errors of requests are answered in
    OpenAI's form (docs/serve.md).
    Example: ``uvicorn.run(create_app(Engine.load()))``.
    """
    settings = settings or Settings()
    models = ModelPool(engine, others or {}, settings, whisper)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        models.start()
        releasing = asyncio.create_task(release_memory_periodically())
        yield
        releasing.cancel()
        await asyncio.to_thread(models.close)

    app = FastAPI(
        title="lalm",
        version="0.1.0",
        summary="A language model that hears, behind OpenAI's API.",
        lifespan=running,
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
    )
    app.state.models = models
    app.add_exception_handler(RequestValidationError, errors.validation_error)
    app.add_exception_handler(HTTPException, errors.http_error)
    app.add_exception_handler(ValueError, errors.value_error)
    app.add_exception_handler(ClientDisconnected, _client_disconnected)
    _add_routes(app, models)
    _add_states(app, models)
    _add_page(app)
    app.add_middleware(AccessMiddleware, settings=settings, metrics=models.metrics)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"], allow_headers=["*"]
        )
    return app


def _add_routes(app: FastAPI, models: ModelPool) -> None:
    @app.post("/v1/chat/completions", responses=ERROR_RESPONSES)
    async def chat_completions(asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation of text and recordings."""
        return await chat.complete(await models.get(asked.model), request, asked)

    for path, task in (("transcriptions", "transcribe"), ("translations", "translate")):
        _add_transcriptions(app, models, path, task)  # type: ignore[arg-type]
    _add_text_routes(app, models)
    sessions = SessionManager(models)

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
        channel: Annotated[int | None, Form(ge=0, description=CHANNEL)] = None,
        track: Annotated[int | None, Form(ge=0, description=TRACK)] = None,
        lenient: Annotated[bool, Form(description=LENIENT)] = False,
    ) -> Detections:
        """When sounds occur in a recording, as the model writes the times; an addition to OpenAI's API."""
        check_fields("/v1/audio/detections", await request.form())
        async_engine = await models.get(model)
        part = audio_part(await file.read(), channel, track, lenient)
        [clip] = await async_engine.load_clips([part])
        return await cancel_on_disconnect(request, detect(async_engine, clip, sound))


def _add_states(app: FastAPI, models: ModelPool) -> None:
    started = int(time.time())

    def told(name: str) -> dict[str, Any]:
        shown = {"id": name, "object": "model", "created": started, "owned_by": "lalm"}
        here = models.open.get(name)
        scale = None if here is None else trained_lora_scale(here.engine.model.config)
        return {**shown, "lalm": {"open": here is not None, "lora_scale": scale}}

    @app.get("/v1/models", responses={401: ERROR_RESPONSES[401]})
    async def served() -> dict[str, Any]:
        """The models that are served, the default first."""
        return {"object": "list", "data": [told(name) for name in models.names]}

    @app.get("/v1/models/{name}", responses={k: ERROR_RESPONSES[k] for k in (401, 404)})
    async def model(name: str) -> dict[str, Any]:
        """A served model."""
        return told(models.check(name))

    @app.get("/health", responses={503: {"description": "A model's thread has ended"}})
    async def health(response: Response) -> dict[str, Any]:
        """Whether requests are answered, and how many wait and run."""
        response.status_code = 200 if models.ready else 503
        schedulers = [one.scheduler for one in models.open.values()]
        first = next(iter(models.open.values()))
        shown = models.open.get(models.default, first).engine
        return {
            "status": "ok" if models.ready else "failed",
            "model": shown.name,
            "models": models.names,
            "lora_scale": trained_lora_scale(shown.model.config),
            "version": app.version,
            "waiting": sum(len(one.waiting) for one in schedulers),
            "running": sum(len(one.batch.rows) for one in schedulers),
            "limits": models.settings.limits(),
        }

    @app.get("/ready", responses={503: {"description": "Not now: starting, stopping, or failed"}})
    async def ready(response: Response) -> dict[str, bool]:
        """Whether to send requests here: every open model's thread runs, and the server is not stopping."""
        response.status_code = 200 if models.ready else 503
        return {"ready": models.ready}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(models.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_text_routes(app: FastAPI, models: ModelPool) -> None:
    @app.post("/v1/responses", responses=ERROR_RESPONSES)
    async def responses(asked: ResponsesRequest, request: Request) -> Response:
        """Answer a conversation in OpenAI's newer form; nothing is kept for later."""
        return await respond(await models.get(asked.model), request, asked)

    @app.post("/v1/completions", responses=ERROR_RESPONSES)
    async def completions(asked: text.CompletionRequest, request: Request) -> Response:
        """Go on where a text ends, without role markers."""
        return await text.complete_text(await models.get(asked.model), request, asked)

    @app.post("/v1/embeddings", responses=ERROR_RESPONSES)
    async def embeddings(asked: EmbeddingRequest) -> dict[str, Any]:
        """Recordings as vectors: the mean of the encoder's frames."""
        return await embed(await models.get(asked.model), asked)

    @app.post("/tokenize", responses=ERROR_RESPONSES)
    async def tokenize(asked: text.TokenizeRequest) -> dict[str, Any]:
        """The tokens of a text or of a conversation, as vLLM tells them."""
        return await text.tokenize(await models.get(asked.model), asked)

    @app.post("/detokenize", responses=ERROR_RESPONSES)
    async def detokenize(asked: text.DetokenizeRequest) -> dict[str, str]:
        """The text of tokens."""
        return await text.detokenize(await models.get(asked.model), asked)


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        """The page for people."""
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))


def _add_transcriptions(app: FastAPI, models: ModelPool, path: str, task: Task) -> None:
    @app.post(f"/v1/audio/{path}", responses=ERROR_RESPONSES, operation_id=task)
    async def speech_to_text(
        request: Request,
        file: Annotated[UploadFile, File(description="A recording of any common format.")],
        form: Annotated[SpeechForm, Depends()],
    ) -> Response:
        """Speech as text; verbose_json, srt and vtt have one timed segment for each stretch of speech."""
        wishes = await form.read(task)
        named = form.model == WHISPER and WHISPER not in models.names and models.whisper is not None
        async_engine = await models.get(None if named else form.model)
        whisper = await async_engine.recogniser(named=named)
        [clip] = await async_engine.load_clips([form.part(await file.read())])
        transcript: Transcript
        if whisper is not None:
            transcript = WhisperTranscript(async_engine, whisper, clip, wishes)
        else:
            transcript = Transcript(async_engine, clip, wishes)
        pieces = transcript.pieces()
        if wishes.stream:
            first = await cancel_on_disconnect(request, anext(pieces, None))
            return StreamingResponse(
                transcript.events(first, pieces), media_type="text/event-stream", headers=STREAM_HEADERS
            )
        await cancel_on_disconnect(request, read_all(pieces))
        made = formatted(transcript)
        return PlainTextResponse(made) if isinstance(made, str) else JSONResponse(made)


async def _client_disconnected(request: Request, error: Exception) -> Response:
    """Respond to a closed connection; only the log and the metrics see it."""
    return Response(status_code=499)
