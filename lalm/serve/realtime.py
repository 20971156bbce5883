"""``/v1/realtime``: a WebSocket with OpenAI's event names, audio in and text out.

A client's events are answered one after the other; an answer is written beside them and can be cut short,
by the client or by its speech. A session outlives its connection for a while and can be resumed.
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
from lalm.serve import error_responses as errors
from lalm.serve.async_engine import Desk, Wish, new_id
from lalm.serve.jobs import Busy
from lalm.serve.realtime_conversation import Item, Talk, pcm
from lalm.serve.realtime_response import Reason, Response
from lalm.serve.session_options import SessionOptions
from lalm.serve.transcriptions import NEW_TOKENS, instruction
from lalm.serve.turn_detection import Ear, Started

IDLE_S = 600.0  # a client that says nothing for so long is left
SHORTEST_S = 0.1  # of a turn, as OpenAI's


class Refused(LalmError, ValueError):
    """An event that cannot be granted now, with OpenAI's code for it."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Session:
    """One client's conversation and settings."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.id = new_id("sess_")
        limit_s = desk.settings.audio_s
        window = int(desk.engine.model.config.text_config.max_position_embeddings)
        self.talk = Talk(limit_s, window // 2)
        self.ear = Ear(limit_s / 2)
        self.options = SessionOptions()
        self.ear.listen(self.options.audio.input.turn_detection)
        self.socket: WebSocket | None = None
        self._sending = asyncio.Lock()
        self._response: Response | None = None
        self._answering: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answering.set_result(None)
        self._transcripts: set[asyncio.Task[None]] = set()
        self._turn = new_id("item_")  # the item that is being spoken

    async def attend(self, socket: WebSocket) -> None:
        """Answer a client until it leaves."""
        self.socket = socket
        await self.send("session.created", session=self.to_json())
        for item in self.talk.items:  # of a session that is resumed
            await self._show(item)
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                await self._obey(message.get("text") or "")
        except TimeoutError:
            await socket.close(1001, f"nothing was said for {IDLE_S:.0f} s")
        finally:
            self.socket = None
            if self._response is not None:
                self._response.cancel("client_cancelled")
            for task in self._transcripts:
                task.cancel()
            await asyncio.gather(*self._transcripts, self._answering, return_exceptions=True)
            self.ear.clear()

    async def send(self, kind: str, **fields: Any) -> None:
        """Send an event; a client that does not read is waited for, one that has left is not told."""
        async with self._sending:
            if self.socket is None:
                return
            try:
                await self.socket.send_text(
                    json.dumps({"type": kind, "event_id": new_id("event_"), **fields})
                )
            except (WebSocketDisconnect, RuntimeError):
                self.socket = None

    async def _obey(self, text: str) -> None:
        event: Any = None
        try:
            event = json.loads(text)
            if not isinstance(event, dict):
                raise ValueError("an event must be a JSON object")
            await self._do(event)
        except (ValueError, RecursionError) as error:  # the session goes on
            await self._refuse(error, event.get("event_id") if isinstance(event, dict) else None)

    async def _refuse(self, error: Exception, event_id: object = None) -> None:
        said = str(error)
        if isinstance(error, ValidationError):
            said = errors.first_fault(error.errors())
        elif isinstance(error, json.JSONDecodeError | RecursionError):
            said = "an event must be JSON"
        fault: dict[str, Any] = dict(errors.body_of(errors.status_of(error), said)["error"])
        fault["code"] = error.code if isinstance(error, Refused) else None
        await self.send("error", error={**fault, "event_id": event_id if isinstance(event_id, str) else None})

    async def _do(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "session.update":
                given = event.get("session")
                if not isinstance(given, dict):
                    raise ValueError("session must be a JSON object")
                self.desk.check_model(given.get("model"))
                self.options = self.options.changed(given)
                self.ear.listen(self.options.audio.input.turn_detection)
                await self.send("session.updated", session=self.to_json())
            case "input_audio_buffer.append":
                await self._hear(pcm(event.get("audio")))
            case "input_audio_buffer.commit":
                if self.ear.seconds < SHORTEST_S:
                    held = f"{self.ear.seconds * 1000:.0f} ms"
                    raise Refused(
                        f"the audio buffer holds {held}, less than {SHORTEST_S * 1000:.0f} ms",
                        "input_audio_buffer_commit_empty",
                    )
                await self._commit(self.ear.commit())
            case "input_audio_buffer.clear":
                self.ear.clear()
                await self.send("input_audio_buffer.cleared")
            case "conversation.item.create":
                await self._add(Item.from_json(event.get("item")), event.get("previous_item_id"))
            case "conversation.item.delete":
                item = self._idle(event)
                self.talk.items.remove(item)
                await self.send("conversation.item.deleted", item_id=item.id)
            case "conversation.item.retrieve":
                item = self.talk.item(str(event.get("item_id")))
                await self.send("conversation.item.retrieved", item=item.to_json())
            case "response.create":
                await self._respond(event.get("response") or {})
            case "response.cancel":
                if not await self._cancel("client_cancelled"):
                    raise Refused("no answer is being written", "response_cancel_not_active")
            case kind:
                raise ValueError(f"there is no event of the type {str(kind)[:80]!r} here")

    def _idle(self, event: dict[str, Any]) -> Item:
        item = self.talk.item(str(event.get("item_id")))
        if item.status == "in_progress":
            raise ValueError(f"item '{item.id}' is being written")
        return item

    async def _hear(self, data: bytes) -> None:
        """Audio from the client: where speech begins an answer is cut short, where it ends one begins."""
        detection = self.options.audio.input.turn_detection
        heard = await anyio.to_thread.run_sync(self.ear.hear, data)
        for change in heard:
            assert detection is not None
            if isinstance(change, Started):
                self._turn = new_id("item_")
                await self.send(
                    "input_audio_buffer.speech_started", audio_start_ms=change.at_ms, item_id=self._turn
                )
                if detection.interrupt_response:
                    await self._cancel("turn_detected")
                continue
            await self.send(
                "input_audio_buffer.speech_stopped", audio_end_ms=change.at_ms, item_id=self._turn
            )
            await self._commit(change.audio)
            if detection.create_response:
                try:
                    await self._respond({})
                except ValueError as error:  # what else was heard must not be lost
                    await self._refuse(error)

    async def _commit(self, audio: Array) -> None:
        """A turn that was heard becomes an item."""
        item = Item("user", [audio], id=self._turn)
        self._turn = new_id("item_")
        last = self.talk.items[-1].id if self.talk.items else None
        await self.send("input_audio_buffer.committed", previous_item_id=last, item_id=item.id)
        await self._add(item)
        self.desk.metrics.heard(item.seconds)
        if self.options.audio.input.transcription is not None:
            task = asyncio.create_task(self._transcribe(item, audio))
            self._transcripts.add(task)
            task.add_done_callback(self._transcripts.discard)

    async def _add(self, item: Item, after: Any = None) -> None:
        if after is not None and not isinstance(after, str):
            raise ValueError("previous_item_id must be a string")
        forgotten = self.talk.add(item, after)
        await self._show(item)
        await self._forget(forgotten)

    async def _show(self, item: Item) -> None:
        before = self.talk.before(item) if item in self.talk.items else None
        for kind in ("added", "created", "done"):
            await self.send(f"conversation.item.{kind}", previous_item_id=before, item=item.to_json())

    async def _forget(self, ids: list[str]) -> None:
        for id in ids:
            await self.send("conversation.item.deleted", item_id=id)

    async def _respond(self, given: Any) -> None:
        """Begin to answer; the answer goes on beside what the client sends."""
        if not isinstance(given, dict):
            raise ValueError("response must be a JSON object")
        if self._response is not None:
            raise Refused(
                "an answer is being written: cancel it or wait for response.done",
                "conversation_already_has_active_response",
            )
        if given.get("conversation") not in (None, "auto") or given.get("input") is not None:
            raise ValueError("answers outside the conversation are not supported")
        known = {name: given[name] for name in SessionOptions.model_fields if given.get(name) is not None}
        options = self.options.changed({name: known[name] for name in known if name != "audio"})
        response = Response(self.desk, self.talk, options, self.send, given.get("metadata"))
        response.ask()
        self._response = response
        self._answering = asyncio.create_task(self._answer(response))

    async def _answer(self, response: Response) -> None:
        try:
            await response.run()
        finally:
            self._response = None
            if not response.item.characters:
                self.talk.items = [item for item in self.talk.items if item is not response.item]
        await self.send("response.done", response=response.to_json())
        end = response.answer.end if response.answer is not None else None
        if end is not None:
            await self._forget(self.talk.read(end.prompt_tokens + end.new_tokens))

    async def _cancel(self, reason: Reason) -> bool:
        """Cut the answer short, if there is one, and wait until all is said about it."""
        if self._response is None:
            return False
        self._response.cancel(reason)
        await asyncio.wait([self._answering])
        return True

    async def _transcribe(self, item: Item, audio: Array) -> None:
        """The model's transcript of a turn, as it comes."""
        wish = self.options.audio.input.transcription
        assert wish is not None
        place = {"item_id": item.id, "content_index": 0}
        named = "conversation.item.input_audio_transcription"
        question = instruction("transcribe", wish.language, wish.prompt)
        options = Options(NEW_TOKENS, lora_scale=self.options.lora_scale)
        said = ""
        try:
            [answer] = self.desk.ask(ask([audio], question), [Clip("turn", audio)], [Wish(options)])
            async for piece in answer:
                said += piece.text
                await self.send(f"{named}.delta", **place, delta=piece.text)
        except Exception as error:
            fault = errors.body_of(errors.status_of(error), errors.sentence_of(error))["error"]
            await self.send(f"{named}.failed", **place, error=fault)
            return
        usage = {"type": "duration", "seconds": item.seconds}
        await self.send(f"{named}.completed", **place, transcript=said, usage=usage)

    def to_json(self) -> dict[str, Any]:
        """OpenAI's form of the session; its id resumes it."""
        named = {"object": "realtime.session", "id": self.id, "model": self.desk.engine.name}
        return {**named, **self.options.model_dump()}


class Sessions:
    """All sessions of a server: those of now, and those that may be resumed."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.now: dict[str, Session] = {}
        self.kept: dict[str, tuple[Session, asyncio.TimerHandle]] = {}

    async def welcome(self, socket: WebSocket) -> None:
        """One connection, from its first byte to its last; ``?session=ID`` resumes one."""
        query = socket.query_params
        try:
            self.desk.check_model(query.get("model"))
            session = self._session(query.get("session"))
        except ValueError as error:
            await socket.send_denial_response(errors.answer(errors.status_of(error), str(error)))
            return
        offered = [name.strip() for name in socket.headers.get("sec-websocket-protocol", "").split(",")]
        self.now[session.id] = session
        self.desk.metrics.sessions.set(len(self.now))
        try:
            await socket.accept("realtime" if "realtime" in offered else None)
            await session.attend(socket)
        finally:
            del self.now[session.id]
            self.desk.metrics.sessions.set(len(self.now))
            forget = asyncio.get_running_loop().call_later
            timer = forget(self.desk.settings.resume_s, self.kept.pop, session.id, None)
            self.kept[session.id] = session, timer

    def _session(self, id: str | None) -> Session:
        if id is not None:
            if id not in self.kept:
                raise ValueError("there is no session of that id to resume")
            session, timer = self.kept.pop(id)
            timer.cancel()
            return session
        if len(self.now) >= self.desk.settings.sessions:
            raise Busy(f"{len(self.now)} realtime sessions are open already: try again later")
        while self.kept and len(self.now) + len(self.kept) >= self.desk.settings.sessions:
            _, timer = self.kept.pop(next(iter(self.kept)))
            timer.cancel()
        return Session(self.desk)
