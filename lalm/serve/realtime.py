"""``/v1/realtime``: sessions over a WebSocket in OpenAI's realtime protocol, audio in and text out.

A client's events are handled in order. A response is generated meanwhile and can be interrupted by the
client or by its speech. After a disconnect a session is kept for a while and can be resumed.
"""

import asyncio
import json
from typing import Any

import anyio
from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from lalm.audio.vad import Array
from lalm.data.audio_inputs import Clip
from lalm.data.sample import ask
from lalm.errors import LalmError
from lalm.inference.engine import Options
from lalm.inference.speech.recogniser import Wish
from lalm.serve import error_responses as errors
from lalm.serve.async_engine import AsyncEngine, SamplingParams, new_id
from lalm.serve.jobs import Busy
from lalm.serve.model_pool import ModelPool
from lalm.serve.realtime_conversation import Item, RealtimeConversation, pcm
from lalm.serve.realtime_response import RealtimeResponse, Reason
from lalm.serve.request_fields import check_fields
from lalm.serve.session_options import SessionOptions
from lalm.serve.transcriptions import instruction, longest_text
from lalm.serve.turn_detection import SpeechStarted, TurnDetector
from lalm.serve.whisper_transcripts import language_code

IDLE_S = 600.0  # a client that sends nothing for so long is disconnected
YIELD_S = 30.0  # and after so long if another client finds no place
MIN_TURN_S = 0.1  # as OpenAI's


class EventRefused(LalmError, ValueError):
    """An event that is not possible now, with OpenAI's error code."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Session:
    """One client's conversation, options and audio buffer."""

    def __init__(self, async_engine: AsyncEngine) -> None:
        self.async_engine = async_engine
        self.id = new_id("sess_")
        limit_s = async_engine.settings.audio_s
        window = async_engine.engine.model.config.context_length
        self.conversation = RealtimeConversation(limit_s, window // 2)
        self.turn_detector = TurnDetector(limit_s / 2)
        self.options = SessionOptions()
        self.turn_detector.configure(self.options.audio.input.turn_detection)
        self.socket: WebSocket | None = None
        self.last_event = asyncio.get_running_loop().time()
        self._patience: asyncio.Timeout | None = None
        self._sending = asyncio.Lock()
        self._response: RealtimeResponse | None = None
        self._answering: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answering.set_result(None)
        self._transcripts: set[asyncio.Task[None]] = set()
        self._turn = new_id("item_")  # id of the item that the current turn becomes

    async def serve(self, socket: WebSocket) -> None:
        """Handle a client's events until it disconnects."""
        self.socket = socket
        await self.send("session.created", session=self.to_json())
        for item in self.conversation.items:  # not empty when a session is resumed
            await self._send_item(item)
        try:
            while True:
                async with asyncio.timeout(IDLE_S) as self._patience:
                    message = await socket.receive()
                self.last_event = asyncio.get_running_loop().time()
                if message["type"] == "websocket.disconnect":
                    return
                await self._handle_message(message.get("text") or "")
        except TimeoutError:
            await socket.close(1001, "the client sent nothing for too long; connect again to resume")
        finally:
            self.socket = None
            if self._response is not None:
                self._response.cancel("client_cancelled")
            for task in self._transcripts:
                task.cancel()
            await asyncio.gather(*self._transcripts, self._answering, return_exceptions=True)
            self.turn_detector.clear()

    @property
    def answering(self) -> bool:
        """Whether an answer is being written."""
        return self._response is not None

    def leave(self) -> None:
        """Disconnect a client that sends nothing; its session can be resumed."""
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def send(self, kind: str, **fields: Any) -> None:
        """Send an event; waits for a slow client, does nothing after a disconnect."""
        async with self._sending:
            if self.socket is None:
                return
            try:
                await self.socket.send_text(
                    json.dumps({"type": kind, "event_id": new_id("event_"), **fields})
                )
            except (WebSocketDisconnect, RuntimeError):
                self.socket = None

    async def _handle_message(self, text: str) -> None:
        event: Any = None
        try:
            event = json.loads(text)
            if not isinstance(event, dict):
                raise ValueError("an event must be a JSON object")
            await self._handle_event(event)
        except (ValueError, RecursionError) as error:  # the session goes on
            await self._send_error(error, event.get("event_id") if isinstance(event, dict) else None)

    async def _send_error(self, error: Exception, event_id: object = None) -> None:
        said = str(error)
        if isinstance(error, ValidationError):
            said = errors.first_error(error.errors())
        elif isinstance(error, json.JSONDecodeError | RecursionError):
            said = "an event must be JSON"
        fault: dict[str, Any] = dict(errors.error_body(errors.error_status(error), said)["error"])
        fault["code"] = error.code if isinstance(error, EventRefused) else None
        await self.send("error", error={**fault, "event_id": event_id if isinstance(event_id, str) else None})

    async def _handle_event(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "session.update":
                given = event.get("session")
                if not isinstance(given, dict):
                    raise ValueError("session must be a JSON object")
                self.async_engine.check_model(given.get("model"))
                self.options = self.options.updated(given)
                self.turn_detector.configure(self.options.audio.input.turn_detection)
                await self.send("session.updated", session=self.to_json())
            case "input_audio_buffer.append":
                await self._append_audio(pcm(event.get("audio")))
            case "input_audio_buffer.commit":
                if self.turn_detector.seconds < MIN_TURN_S:
                    held = f"{self.turn_detector.seconds * 1000:.0f} ms"
                    raise EventRefused(
                        f"the audio buffer holds {held}, less than {MIN_TURN_S * 1000:.0f} ms",
                        "input_audio_buffer_commit_empty",
                    )
                await self._commit(self.turn_detector.commit())
            case "input_audio_buffer.clear":
                self.turn_detector.clear()
                await self.send("input_audio_buffer.cleared")
            case "conversation.item.create":
                await self._add(Item.from_json(event.get("item")), event.get("previous_item_id"))
            case "conversation.item.delete":
                item = self._finished_item(event)
                self.conversation.items.remove(item)
                await self.send("conversation.item.deleted", item_id=item.id)
            case "conversation.item.retrieve":
                item = self.conversation.item(str(event.get("item_id")))
                await self.send("conversation.item.retrieved", item=item.to_json())
            case "response.create":
                await self._respond(event.get("response") or {})
            case "response.cancel":
                if not await self._cancel("client_cancelled"):
                    raise EventRefused("there is no active response", "response_cancel_not_active")
            case kind:
                raise ValueError(f"there is no event of the type {str(kind)[:80]!r} here")

    def _finished_item(self, event: dict[str, Any]) -> Item:
        item = self.conversation.item(str(event.get("item_id")))
        if item.status == "in_progress":
            raise ValueError(f"item '{item.id}' is still being generated")
        return item

    async def _append_audio(self, data: bytes) -> None:
        """Add audio: the beginning of speech interrupts the response, its end starts one."""
        detection = self.options.audio.input.turn_detection
        events = await anyio.to_thread.run_sync(self.turn_detector.append, data)
        for event in events:
            assert detection is not None
            if isinstance(event, SpeechStarted):
                self._turn = new_id("item_")
                await self.send(
                    "input_audio_buffer.speech_started", audio_start_ms=event.at_ms, item_id=self._turn
                )
                if detection.interrupt_response:
                    await self._cancel("turn_detected")
                continue
            await self.send("input_audio_buffer.speech_stopped", audio_end_ms=event.at_ms, item_id=self._turn)
            await self._commit(event.audio)
            if detection.create_response:
                try:
                    await self._respond({})
                except ValueError as error:  # later events must not be lost
                    await self._send_error(error)

    async def _commit(self, audio: Array) -> None:
        """Add a turn to the conversation."""
        item = Item("user", [audio], id=self._turn)
        self._turn = new_id("item_")
        last = self.conversation.items[-1].id if self.conversation.items else None
        await self.send("input_audio_buffer.committed", previous_item_id=last, item_id=item.id)
        await self._add(item)
        self.async_engine.metrics.count_audio(item.seconds)
        if self.options.audio.input.transcription is not None:
            task = asyncio.create_task(self._transcribe(item, audio))
            self._transcripts.add(task)
            task.add_done_callback(self._transcripts.discard)

    async def _add(self, item: Item, after: Any = None) -> None:
        if after is not None and not isinstance(after, str):
            raise ValueError("previous_item_id must be a string")
        dropped = self.conversation.add(item, after)
        await self._send_item(item)
        await self._send_deleted(dropped)

    async def _send_item(self, item: Item) -> None:
        before = self.conversation.before(item) if item in self.conversation.items else None
        for kind in ("added", "created", "done"):
            await self.send(f"conversation.item.{kind}", previous_item_id=before, item=item.to_json())

    async def _send_deleted(self, ids: list[str]) -> None:
        for id in ids:
            await self.send("conversation.item.deleted", item_id=id)

    async def _respond(self, given: Any) -> None:
        """Start a response, which is generated while further events are handled."""
        if not isinstance(given, dict):
            raise ValueError("response must be a JSON object")
        if self._response is not None:
            raise EventRefused(
                "there is an active response: cancel it or wait for response.done",
                "conversation_already_has_active_response",
            )
        if given.get("conversation") not in (None, "auto") or given.get("input") is not None:
            raise ValueError("answers outside the conversation are not supported")
        check_fields("/v1/realtime response", given)
        known = {name: given[name] for name in SessionOptions.model_fields if given.get(name) is not None}
        options = self.options.updated({name: known[name] for name in known if name != "audio"})
        response = RealtimeResponse(
            self.async_engine, self.conversation, options, self.send, given.get("metadata")
        )
        await response.submit()
        self._response = response
        self._answering = asyncio.create_task(self._answer(response))

    async def _answer(self, response: RealtimeResponse) -> None:
        try:
            await response.run()
        finally:
            self._response = None
            if not response.item.characters:
                self.conversation.items = [
                    item for item in self.conversation.items if item is not response.item
                ]
        await self.send("response.done", response=response.to_json())
        end = response.answer.end if response.answer is not None else None
        if end is not None:
            await self._send_deleted(self.conversation.trim(end.prompt_tokens + end.new_tokens))

    async def _cancel(self, reason: Reason) -> bool:
        """Interrupt the response, if there is one, and wait until its last event is sent."""
        if self._response is None:
            return False
        self._response.cancel(reason)
        await asyncio.wait([self._answering])
        return True

    async def _transcribe(self, item: Item, audio: Array) -> None:
        """Stream the model's transcript of a turn."""
        transcription = self.options.audio.input.transcription
        assert transcription is not None
        place = {"item_id": item.id, "content_index": 0}
        kind = "conversation.item.input_audio_transcription"
        question = instruction("transcribe", transcription.language, transcription.prompt)
        options = Options(longest_text(item.seconds), lora_scale=self.options.lora_scale)
        said = ""
        try:
            if (whisper := await self.async_engine.recogniser()) is not None:
                wish = Wish(language_code(transcription.language), prompt=transcription.prompt, words=False)
                said = (await self.async_engine.in_thread(whisper.transcribe, audio, wish)).text
                await self.send(f"{kind}.delta", **place, delta=said)
                await self.send(
                    f"{kind}.completed",
                    **place,
                    transcript=said,
                    usage={"type": "duration", "seconds": item.seconds},
                )
                return
            [answer] = await self.async_engine.ask(
                ask([audio], question), [Clip("turn", audio, transcript="")], [SamplingParams(options)]
            )
            async for piece in answer:
                said += piece.text
                await self.send(f"{kind}.delta", **place, delta=piece.text)
        except Exception as error:
            fault = errors.error_body(errors.error_status(error), errors.error_message(error))["error"]
            await self.send(f"{kind}.failed", **place, error=fault)
            return
        usage = {"type": "duration", "seconds": item.seconds}
        await self.send(f"{kind}.completed", **place, transcript=said, usage=usage)

    def to_json(self) -> dict[str, Any]:
        """The session in OpenAI's format; its id resumes it."""
        named = {"object": "realtime.session", "id": self.id, "model": self.async_engine.engine.name}
        return {**named, **self.options.model_dump()}


class SessionManager:
    """All sessions of a server: the active ones and those that can be resumed."""

    def __init__(self, models: ModelPool) -> None:
        self.models = models
        self.settings = models.settings
        self.active: dict[str, Session] = {}
        self.resumable: dict[str, tuple[Session, asyncio.TimerHandle]] = {}

    async def connect(self, socket: WebSocket) -> None:
        """Handle one connection from start to end; ``?session=ID`` resumes a session."""
        query = socket.query_params
        try:
            async_engine = await self.models.get(query.get("model"))
            session = self._session(query.get("session"), async_engine)
        except ValueError as error:
            await socket.send_denial_response(errors.error_response(errors.error_status(error), str(error)))
            return
        offered = [name.strip() for name in socket.headers.get("sec-websocket-protocol", "").split(",")]
        self.active[session.id] = session
        self.models.metrics.sessions.set(len(self.active))
        session.async_engine.sessions += 1
        try:
            await socket.accept("realtime" if "realtime" in offered else None)
            await session.serve(socket)
        finally:
            session.async_engine.sessions -= 1
            self.active.pop(session.id, None)
            self.models.metrics.sessions.set(len(self.active))
            forget = asyncio.get_running_loop().call_later
            timer = forget(self.settings.resume_s, self.resumable.pop, session.id, None)
            self.resumable[session.id] = session, timer

    def _session(self, id: str | None, async_engine: AsyncEngine) -> Session:
        if id is not None:
            if id not in self.resumable:
                raise ValueError("there is no session with this id to resume")
            session, timer = self.resumable.pop(id)
            timer.cancel()
            if not session.async_engine.scheduler.alive:
                raise ValueError("the session's model was closed meanwhile: begin a new session")
            return session
        if len(self.active) >= self.settings.sessions and not self._make_place():
            raise Busy(f"{len(self.active)} realtime sessions are open already: try again later")
        while self.resumable and len(self.active) + len(self.resumable) >= self.settings.sessions:
            _, timer = self.resumable.pop(next(iter(self.resumable)))
            timer.cancel()
        return Session(async_engine)

    def _make_place(self) -> bool:
        """Disconnect the client that has sent nothing for the longest, if that is long enough."""
        idlest = min(self.active.values(), key=lambda session: session.last_event)
        if asyncio.get_running_loop().time() - idlest.last_event < YIELD_S or idlest.answering:
            return False
        del self.active[idlest.id]
        idlest.leave()
        return True
