"""Realtime sessions through the unmodified openai client: turns, barge-in, push-to-talk, resume, refusals."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import soxr
import torch
import websockets
from websockets.sync.client import connect as websocket

from lalm.data.sample import Sample
from lalm.inference.engine import Engine, Options
from lalm.serve.realtime_conversation import Item, RealtimeConversation
from lalm.serve.session_options import TurnDetection
from lalm.serve.turn_detection import SpeechStarted, SpeechStopped, TurnDetector

RATE = 24_000


class Loudness:
    """Speech is what is loud; it ends with so many quiet frames."""

    def __init__(self, pause_s: float, threshold: float = 0.5) -> None:
        self.pause = round(pause_s / 0.032)
        self.reset_states()

    def reset_states(self) -> None:
        self.quiet, self.speaking = 0, False

    def __call__(self, frame: torch.Tensor) -> dict[str, int] | None:
        assert frame.shape == (512,) and frame.dtype == torch.float32
        loud = bool(frame.abs().max() > 0.1)
        self.quiet = 0 if loud else self.quiet + 1
        if loud and not self.speaking:
            self.speaking = True
            return {"start": 0}
        if self.speaking and self.quiet >= self.pause:
            self.speaking = False
            return {"end": 0}
        return None


@pytest.fixture(autouse=True)
def _loudness(monkeypatch):
    monkeypatch.setattr("lalm.serve.turn_detection.load_detector", Loudness)


def tone(seconds: float) -> bytes:
    wave = 0.5 * np.sin(np.arange(int(seconds * RATE)) * 0.1)
    return (wave * 32767).astype("<i2").tobytes()


def quiet(seconds: float) -> bytes:
    return b"\0" * (2 * int(seconds * RATE))


def base(data: bytes) -> str:
    return base64.b64encode(data).decode()


def blocks(data: bytes, size_s: float = 0.1) -> Iterator[str]:
    size = 2 * int(size_s * RATE)
    for at in range(0, len(data), size):
        yield base(data[at : at + size])


def until(connection: Any, *kinds: str, limit: int = 400) -> list[Any]:
    """Events up to the last of ``kinds``, which come in this order."""
    events, left = [], list(kinds)
    for _ in range(limit):
        events.append(connection.recv())
        if events[-1].type == "error" and "error" not in kinds:
            raise AssertionError(events[-1])
        if events[-1].type == left[0]:
            left.pop(0)
            if not left:
                return events
    raise AssertionError([event.type for event in events])


def said(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


PUSH = {"type": "realtime", "audio": {"input": {"turn_detection": None}}, "max_output_tokens": 12}


@pytest.fixture
def slow(engine, monkeypatch):
    """Answers that take their time and do not end by themselves."""
    monkeypatch.setattr(Engine, "ends", lambda self: {10**6})
    logits = engine.model.logits
    monkeypatch.setattr(engine.model, "logits", lambda hidden: (time.sleep(0.01), logits(hidden))[1])


def test_push_to_talk_answers_as_the_engine_does_and_reads_nothing_twice(serve, client, engine):
    asked = client(serve())
    turns = [tone(1.0), tone(0.7)]
    messages: list[Any] = []
    with asked.realtime.connect(model="tiny") as connection:
        first = connection.recv()
        assert first.type == "session.created" and first.session.id.startswith("sess_")
        assert first.session.audio.input.turn_detection.type == "server_vad"
        connection.session.update(session=PUSH)
        assert connection.recv().session.audio.input.turn_detection is None
        for number, turn in enumerate(turns):
            for block in blocks(turn):
                connection.input_audio_buffer.append(audio=block)
            connection.input_audio_buffer.commit()
            events = until(connection, "input_audio_buffer.committed", "conversation.item.done")
            assert [e.type for e in events[-3:]] == [
                f"conversation.item.{kind}" for kind in ("added", "created", "done")
            ]
            assert events[-1].item.id == events[0].item_id
            connection.response.create()
            events = until(connection, "response.created", "response.done")
            done = events[-1].response
            whole = next(e for e in events if e.type == "response.output_text.done").text
            assert said(events) == whole == done.output[0].content[0].text
            samples = np.frombuffer(turn, "<i2").astype(np.float32) / 32768
            heard = soxr.resample(samples, RATE, 16_000)
            messages.append({"role": "user", "content": [{"type": "audio", "audio": heard, "rate": 16_000}]})
            [alone] = engine.reply([Sample(tuple(messages))], Options(12))
            assert whole == alone.text and whole
            messages.append({"role": "assistant", "content": whole})
            assert done.usage.input_token_details.audio_tokens > 0
            cached = done.usage.input_token_details.cached_tokens
            assert (cached == 0) if number == 0 else cached > 0.6 * done.usage.input_tokens - 30
        connection.conversation.item.create(
            item={
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "And this?"},
                    {"type": "input_audio", "audio": base(tone(0.3))},
                ],
            }
        )
        until(connection, "conversation.item.done")
        connection.response.create(response={"instructions": "Be brief.", "max_output_tokens": 2})
        done = until(connection, "response.done")[-1].response
        assert done.usage.output_tokens <= 2 and done.output[0].role == "assistant"


def test_hands_free_turns_begin_and_end_by_themselves(serve, client):
    asked = client(serve())
    with asked.realtime.connect(model="tiny") as connection:
        vad = {"type": "server_vad", "silence_duration_ms": 320, "prefix_padding_ms": 320}
        wish = {"turn_detection": vad, "transcription": {"model": "tiny", "language": "English"}}
        connection.session.update(
            session={"type": "realtime", "max_output_tokens": 5, "audio": {"input": wish}}
        )
        for block in blocks(quiet(1.0) + tone(0.8) + quiet(1.0)):
            connection.input_audio_buffer.append(audio=block)
        events = until(connection, "input_audio_buffer.speech_stopped")
        started, stopped = events[-2:]
        assert started.type == "input_audio_buffer.speech_started" and started.item_id == stopped.item_id
        assert abs(started.audio_start_ms - 680) < 70 and abs(stopped.audio_end_ms - 2120) < 70
        wanted = {"response.done", "conversation.item.input_audio_transcription.completed"}
        seen: dict[str, Any] = {}
        while not wanted <= set(seen):
            event = connection.recv()
            seen.setdefault(event.type, event)
            assert event.type != "error"
        assert seen["input_audio_buffer.committed"].item_id == started.item_id
        partial = seen["conversation.item.input_audio_transcription.delta"]
        whole = seen["conversation.item.input_audio_transcription.completed"]
        assert partial.item_id == whole.item_id == started.item_id
        assert whole.transcript.startswith(partial.delta)
        assert seen["response.done"].response.status in ("completed", "incomplete")


def test_speech_cuts_an_answer_short_and_the_conversation_goes_on(serve, client, slow):
    address = serve()
    with client(address).realtime.connect(model="tiny") as connection:
        connection.session.update(session={"type": "realtime", "max_output_tokens": 150})
        turn = list(blocks(tone(0.5) + quiet(0.7)))
        for block in turn:
            connection.input_audio_buffer.append(audio=block)
        until(connection, "response.output_text.delta")
        for block in turn[:4]:
            connection.input_audio_buffer.append(audio=block)
        events = until(connection, "input_audio_buffer.speech_started", "response.done")
        cut = events[-1].response
        assert cut.status == "cancelled" and cut.status_details.reason == "turn_detected"
        assert cut.output[0].status == "incomplete" and cut.output[0].content[0].text
        assert httpx.get(f"{address}/health").json()["running"] <= 1
        for block in turn[4:]:
            connection.input_audio_buffer.append(audio=block)
        until(connection, "input_audio_buffer.speech_stopped", "response.output_text.delta")
        connection.response.cancel()
        cut = until(connection, "response.done")[-1].response
        assert cut.status_details.reason == "client_cancelled"
        connection.response.cancel()
        error = until(connection, "error")[-1].error
        assert error.code == "response_cancel_not_active"


def test_an_interrupted_conversation_is_answered_as_if_read_anew(serve, client, engine, slow):
    with client(serve()).realtime.connect(model="tiny") as connection:
        connection.session.update(session={**PUSH, "max_output_tokens": 100})
        for wanted in ("What?", "And now?"):
            part = {"type": "input_text", "text": wanted}
            connection.conversation.item.create(item={"type": "message", "role": "user", "content": [part]})
            connection.response.create()
            if wanted == "What?":
                until(connection, *["response.output_text.delta"] * 3)
                connection.response.cancel()
                first = until(connection, "response.done")[-1].response.output[0].content[0].text
                connection.session.update(session={"type": "realtime", "max_output_tokens": 6})
        done = until(connection, "response.done")[-1].response
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": first},
        {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
    ]
    [alone] = engine.reply([Sample(tuple(messages))], Options(6))
    assert done.output[0].content[0].text == alone.text
    assert done.usage.input_token_details.cached_tokens > 10


def test_a_clip_in_the_place_of_another_is_heard(serve, client, engine):
    sounds = [tone(0.6), np.random.default_rng(0).integers(-9_000, 9_000, 14_400).astype("<i2").tobytes()]
    with client(serve()).realtime.connect(model="tiny") as connection:
        connection.session.update(session=PUSH)
        for data in sounds:  # of the same length
            part = {"type": "input_audio", "audio": base(data)}
            connection.conversation.item.create(item={"type": "message", "role": "user", "content": [part]})
            asked = until(connection, "conversation.item.done")[-1].item
            connection.response.create()
            done = until(connection, "response.done")[-1].response
            [answer] = done.output
            read = done.usage.input_token_details  # of what comes before the clip at most
            assert read.cached_tokens < done.usage.input_tokens - read.audio_tokens
            samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
            heard = {"type": "audio", "audio": soxr.resample(samples, RATE, 16_000), "rate": 16_000}
            sample = Sample(({"role": "user", "content": [heard]},))
            assert answer.content[0].text == engine.reply([sample], Options(12))[0].text
            for item in (asked, answer):
                connection.conversation.item.delete(item_id=item.id)


def test_a_session_is_resumed_where_it_was_left(serve, client, slow):
    asked = client(serve())
    with asked.realtime.connect(model="tiny") as connection:
        name = connection.recv().session.id
        connection.session.update(session={**PUSH, "max_output_tokens": 100})
        part = {"type": "input_text", "text": "What?"}
        connection.conversation.item.create(item={"type": "message", "role": "user", "content": [part]})
        connection.response.create()
        until(connection, "response.output_text.delta")  # and is gone within the answer
    deadline = time.monotonic() + 60
    while True:
        try:
            with asked.realtime.connect(model="tiny", extra_query={"session": name}) as connection:
                again = connection.recv()
                assert again.session.id == name and again.session.max_output_tokens == 100
                items = [e.item for e in until(connection, *["conversation.item.done"] * 2)]
                assert items[0].content[0].text == "What?" and items[-1].status == "incomplete"
                connection.conversation.item.create(
                    item={"type": "message", "role": "user", "content": [part]}
                )
                connection.response.create(response={"max_output_tokens": 3})
                done = until(connection, "response.done")[-1].response
                assert done.usage.input_token_details.cached_tokens > 10
            break
        except websockets.exceptions.InvalidStatus as error:
            assert error.response.status_code == 400 and time.monotonic() < deadline  # it is still leaving
            time.sleep(0.05)


def test_who_may_not_enter_is_told_so(serve, client):
    address = serve(api_key="secret", sessions=1)
    for key, query, status, said_ in (
        ("wrong", {}, 401, "API key is missing or wrong"),
        ("secret", {"session": "sess_0"}, 400, "no session with this id"),
    ):
        with pytest.raises(websockets.exceptions.InvalidStatus) as error:
            client(address, key).realtime.connect(model="tiny", extra_query=query).enter()
        assert error.value.response.status_code == status and said_ in error.value.response.body.decode()
    asked = client(address, "secret")
    with pytest.raises(websockets.exceptions.InvalidStatus) as error:
        asked.realtime.connect(model="gpt-9").enter()
    assert error.value.response.status_code == 404
    url = f"{address.replace('http', 'ws')}/v1/realtime?model=tiny"
    key = "openai-insecure-api-key.secret"
    with websocket(url, subprotocols=["realtime", key]) as socket:  # as browsers do
        assert socket.subprotocol == "realtime" and json.loads(socket.recv())["type"] == "session.created"
        head = {"Authorization": "Bearer secret"}
        assert "lalm_realtime_sessions 1.0" in httpx.get(f"{address}/metrics", headers=head).text
        with pytest.raises(websockets.exceptions.InvalidStatus) as error:
            asked.realtime.connect(model="tiny").enter()
        assert error.value.response.status_code == 429 and "already" in error.value.response.body.decode()
    with pytest.raises(websockets.exceptions.InvalidStatus) as error:
        websocket(url, origin="https://evil.example", additional_headers={"Authorization": "Bearer secret"})
    assert error.value.response.status_code == 403


WRONG = {
    "no JSON": ("{", "an event must be JSON"),
    "deep": ("[" * 50_000, "an event must be JSON"),
    "a list": ("[]", "an event must be a JSON object"),
    "bytes": (b"\0\1", "an event must be JSON"),
    "no type": ({}, "no event of the type 'None'"),
    "type": ({"type": "session.explode", "event_id": "mine"}, "no event of the type 'session.explode'"),
    "session": ({"type": "session.update", "session": 3}, "session must be a JSON object"),
    "voice": (
        {"type": "session.update", "session": {"output_modalities": ["audio"]}},
        "output_modalities.0: Input should be 'text'",
    ),
    "format": (
        {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}},
        "audio.input.format.type",
    ),
    "audio": ({"type": "session.update", "session": {"audio": []}}, "audio: "),
    "tools": ({"type": "session.update", "session": {"tools": [{"type": "function"}]}}, "tools.0"),
    "tokens": ({"type": "session.update", "session": {"max_output_tokens": 0}}, "max_output_tokens"),
    "other model": ({"type": "session.update", "session": {"model": "x"}}, "there is no model 'x'"),
    "base64": ({"type": "input_audio_buffer.append", "audio": "!!"}, "audio is not valid base64"),
    "no audio": ({"type": "input_audio_buffer.append"}, "audio must be a string"),
    "half a sample": ({"type": "input_audio_buffer.append", "audio": "AAAA"}, "ends within a sample"),
    "too much": (
        {"type": "input_audio_buffer.append", "audio": base(quiet(6))},
        "the audio buffer holds 5 s at most",
    ),
    "empty": ({"type": "input_audio_buffer.commit"}, "holds 0 ms, less than 100 ms"),
    "item": ({"type": "conversation.item.create"}, "item must be a message"),
    "call": (
        {"type": "conversation.item.create", "item": {"type": "function_call"}},
        "item must be a message",
    ),
    "role": (
        {"type": "conversation.item.create", "item": {"type": "message", "role": "cook", "content": []}},
        "item needs the role",
    ),
    "place": (
        {
            "type": "conversation.item.create",
            "previous_item_id": "x",
            "item": {"type": "message", "role": "user", "content": []},
        },
        "there is no item 'x'",
    ),
    "delete": ({"type": "conversation.item.delete", "item_id": "x"}, "there is no item 'x'"),
    "half a character": (
        {
            "type": "conversation.item.create",
            "item": {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "\ud83d"}],
            },
        },
        "text holds half a character",
    ),
    "nothing": ({"type": "response.create"}, "there is nothing to answer"),
    "outside": (
        {"type": "response.create", "response": {"conversation": "none"}},
        "answers outside the conversation",
    ),
}


def test_what_is_wrong_is_one_error_and_the_session_goes_on(serve):
    address = serve(audio_s=10.0).replace("http", "ws")
    with websocket(f"{address}/v1/realtime") as socket:
        socket.recv()
        socket.send(json.dumps({"type": "session.update", "session": PUSH}))
        socket.recv()
        for name, (event, text) in WRONG.items():
            socket.send(event if isinstance(event, str | bytes) else json.dumps(event))
            got = json.loads(socket.recv(timeout=60))
            assert got["type"] == "error" and text in got["error"]["message"], (name, got)
            assert "\n" not in got["error"]["message"]
            assert got["error"]["event_id"] == ("mine" if name == "type" else None)
        part = {"type": "input_text", "text": "What?"}
        item = {"type": "message", "role": "user", "content": [part]}
        socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
        socket.send(json.dumps({"type": "response.create"}))
        while (got := json.loads(socket.recv(timeout=60)))["type"] != "response.done":
            assert got["type"] != "error"
        assert got["response"]["status"] in ("completed", "incomplete")


def test_a_conversation_never_grows_beyond_its_limits(serve):
    with websocket(f"{serve(audio_s=2.0).replace('http', 'ws')}/v1/realtime") as socket:
        socket.recv()
        deleted = 0
        for _ in range(5):
            part = {"type": "input_audio", "audio": base(tone(0.9))}
            item = {"type": "message", "role": "user", "content": [part]}
            socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
            while (got := json.loads(socket.recv(timeout=60)))["type"] != "conversation.item.done":
                deleted += got["type"] == "conversation.item.deleted"
        socket.send(json.dumps({"type": "input_audio_buffer.clear"}))
        while (got := json.loads(socket.recv(timeout=60)))["type"] != "input_audio_buffer.cleared":
            deleted += got["type"] == "conversation.item.deleted"
        assert deleted == 3


def test_what_is_forgotten_leaves_a_conversation_that_begins_with_the_user():
    conversation = RealtimeConversation(limit_s=60.0, positions=1000)
    for turn in range(3):
        assert (
            conversation.add(Item("user", [f"{turn}?"]))
            == conversation.add(Item("assistant", [f"{turn}."]))
            == []
        )
    ids = [item.id for item in conversation.items]
    assert conversation.trim(1000) == [] and conversation.trim(1001) == ids[:4]
    conversation.add(Item("user", ["And?"], id="last"))
    with pytest.raises(ValueError, match="an item 'last' already"):
        conversation.add(Item("user", [""], id="last"))
    sample, clips = conversation.prompt("Be brief.")
    assert [m["role"] for m in sample.messages] == ["system", "user", "assistant", "user"] and not clips


def test_turn_detection_buffers_little_in_silence_and_splits_endless_speech():
    turn_detector = TurnDetector(3.0)
    turn_detector.configure(TurnDetection(prefix_padding_ms=200))
    for _ in range(30):
        assert turn_detector.append(quiet(1.0)) == []
        assert turn_detector.seconds < 0.3
    heard = [change for _ in range(10) for change in turn_detector.append(tone(1.0))]
    assert [type(change) for change in heard] == [SpeechStarted, SpeechStopped] * 3 + [SpeechStarted]
    turns = [change for change in heard if isinstance(change, SpeechStopped)]
    assert all(2.9 < len(turn.audio) / 16_000 < 3.3 for turn in turns)
    assert abs(len(turn_detector.commit()) / 16_000 + sum(len(t.audio) for t in turns) / 16_000 - 10.2) < 0.1
