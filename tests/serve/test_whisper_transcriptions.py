"""Transcriptions by Whisper for models that do not transcribe: OpenAI's formats, times of words, streams."""

from contextlib import contextmanager

import httpx
import openai
import pytest
import uvicorn
from tiny_parts import noise

from lalm.cli.serve import Place, listen
from lalm.inference.engine import Engine
from lalm.inference.speech.recogniser import Heard
from lalm.inference.speech.subtitles import Segment, Word
from lalm.serve.app import create_app
from lalm.serve.connections import config
from lalm.serve.settings import Settings

HEARD = [
    Segment(
        0.5, 1.5, "Good morning.", (Word(0.5, 0.9, " Good", 0.9), Word(0.9, 1.5, " morning.", 0.8)), (1, 2)
    ),
    Segment(2.0, 3.0, "How are you?", (Word(2.0, 3.0, " How", 0.7),), (3,)),
]


class Scribe:
    """A Whisper that finds two segments in every window."""

    name = "whisper-base"

    def __init__(self) -> None:
        self.wishes = []

    def window(self, window, wish):
        self.wishes.append(wish)
        return Heard(HEARD, "en", 0.9, window.end_s)

    def transcribe(self, audio, wish=None, cutting=None):
        from lalm.inference.speech.subtitles import Transcript

        return Transcript(tuple(HEARD), "en", len(audio) / 16_000)


@pytest.fixture
def scribe(monkeypatch) -> Scribe:
    from lalm.inference.speech.speech_windows import Window

    monkeypatch.setattr(
        "lalm.inference.speech.recogniser.speech_windows",
        lambda blocks, cutting=None: [Window(0.0, block) for block in blocks],
    )
    return Scribe()


@pytest.fixture
def asking(engine, scribe, serve_app):
    return lambda name="acdc": openai.OpenAI(
        base_url=serve_app(engine, scribe) + "/v1", api_key="x", max_retries=0
    )


@pytest.fixture
def serve_app():
    import threading
    import time
    from contextlib import ExitStack

    @contextmanager
    def running(engine, scribe):
        listening = listen(Place("127.0.0.1", 0, None))
        server = uvicorn.Server(config(create_app(engine, Settings(), whisper=lambda: scribe), patience_s=15))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)

    with ExitStack() as stack:
        yield lambda engine, scribe: stack.enter_context(running(engine, scribe))


def test_every_format_tells_what_whisper_found(asking, scribe, tmp_path):
    api = asking().audio.transcriptions
    clip = noise(tmp_path / "c.wav", 4.0)
    assert api.create(model="tiny", file=clip).text == "Good morning. How are you?"
    told = api.create(
        model="whisper-base",
        file=clip,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        language="en",
        prompt="Names: Ada.",
    )
    assert told.language == "english" and [w.word for w in told.words] == ["Good", "morning.", "How"]
    assert (told.segments[1].start, told.segments[0].tokens) == (2.0, [1, 2])
    assert (scribe.wishes[-1].language, scribe.wishes[-1].prompt) == ("en", "Names: Ada.")
    srt = api.create(model="tiny", file=clip, response_format="srt")
    assert srt.startswith("1\n00:00:00,500 --> 00:00:01,500\nGood morning.\n\n2\n")
    assert (
        asking().audio.translations.create(model="tiny", file=clip).text
        and scribe.wishes[-1].task == "translate"
    )


def test_the_text_streams_segment_by_segment(asking, tmp_path):
    stream = asking().audio.transcriptions.create(
        model="tiny", file=noise(tmp_path / "c.wav", 4.0), stream=True
    )
    events = list(stream)
    assert [event.type for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert "".join(event.delta for event in events[:2]) == events[2].text == "Good morning. How are you?"


def test_what_whisper_cannot_be_asked_is_refused(asking, tmp_path):
    api, clip = asking().audio.transcriptions, noise(tmp_path / "c.wav", 1.0)
    for fields, said in (
        ({"language": "klingon"}, "klingon"),
        ({"include": ["logprobs"]}, "logprobs"),
        ({"extra_body": {"top_p": 0.5}}, "top_p"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"extra_body": {"repetition_penalty": 1.2}}, "repetition_penalty"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            api.create(model="tiny", file=clip, **fields)
    nothing = {"top_k": -1, "min_p": 0, "repetition_penalty": 1.0}
    assert api.create(model="tiny", file=clip, extra_body=nothing).text


def test_a_model_that_transcribes_does_it_itself_unless_whisper_is_named(
    tiny, scribe, serve_app, tmp_path, monkeypatch
):
    monkeypatch.setattr("lalm.serve.transcriptions.find_speech", lambda clip, vad: [])
    address = serve_app(Engine(*tiny("qwen2-audio"), "own"), scribe)
    clip = noise(tmp_path / "c.wav", 1.0).read_bytes()

    def asked(model: str) -> dict:
        got = httpx.post(
            f"{address}/v1/audio/transcriptions", data={"model": model}, files={"file": clip}, timeout=60
        )
        assert got.status_code == 200, got.text
        return got.json()

    assert asked("own")["text"] == "" and "transcribed_by" not in asked("own")["lalm"]
    assert asked("whisper-base")["lalm"]["transcribed_by"] == "whisper-base"


def test_answers_read_the_transcript_and_say_so(tiny, scribe, serve_app, tmp_path):
    import base64

    from lalm.inference.speech.clip_transcripts import ClipTranscripts

    engine = Engine(*tiny("acdc"), "tiny")
    engine.model.config.transcript, engine.transcripts = "whisper", ClipTranscripts(lambda: scribe)
    client = openai.OpenAI(base_url=serve_app(engine, scribe) + "/v1", api_key="x", max_retries=0)
    data = base64.b64encode(noise(tmp_path / "c.wav", 1.0).read_bytes()).decode()
    content = [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]
    got = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": content}], max_completion_tokens=2
    )
    assert got.model_dump()["lalm"]["heard"][0]["transcript"] == "Good morning. How are you?"
