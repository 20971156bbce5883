"""Transcriptions: streamed as OpenAI streams them, bounded by the speech, silent where nothing is said."""

import io
import json

import httpx
import numpy as np
import openai
import pytest
import soundfile
from test_api import wav

from lalm.serve.transcriptions import NEW_TOKENS, longest_text


@pytest.fixture
def speech(monkeypatch):
    """Two stretches are heard in every recording."""
    monkeypatch.setattr(
        "lalm.serve.transcriptions.find_speech", lambda clip, vad: [(0, 16_000), (24_000, 40_000)]
    )


def still() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16_000, np.float32), 16_000, format="WAV")
    return file.getvalue()


def test_a_stream_has_openais_events(serve, client, speech):
    asked = client(serve()).audio.transcriptions
    wish = {"model": "tiny", "file": ("noise.wav", wav(3))}
    whole = asked.create(**wish, include=["logprobs"])
    events = [*asked.create(**wish, stream=True, include=["logprobs"])]
    assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
    assert events[-1].type == "transcript.text.done" and len(events) > 2
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == whole.text
    assert events[-1].usage.model_dump() == whole.usage.model_dump() and whole.usage.output_tokens > 0
    scores = [entry.model_dump() for entry in whole.logprobs]
    assert [entry.model_dump() for entry in events[-1].logprobs] == scores and scores
    assert [entry.model_dump() for event in events[:-1] for entry in event.logprobs] == scores
    assert all(entry["logprob"] <= 0 for entry in scores)


def test_a_streamed_translation_joins_its_stretches(serve, client, speech):
    address = serve()
    fields = {"model": "tiny", "stream": "true", "chunking_strategy": '{"type": "server_vad"}'}
    said = httpx.post(f"{address}/v1/audio/translations", data=fields, files={"file": wav(3)}, timeout=60)
    assert said.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in said.text.splitlines() if line]
    segments = client(address).audio.translations.create(
        model="tiny", file=("a.wav", wav(3)), response_format="verbose_json"
    )
    assert events[-1]["text"] == segments.text == " ".join(s.text for s in segments.segments)


def test_every_format_says_nothing_about_silence(serve):
    pytest.importorskip("silero_vad")
    address, empty = serve(), {"text": "\n", "srt": "", "vtt": "WEBVTT\n\n"}
    for form in ("json", "text", "verbose_json", "srt", "vtt", "stream"):
        fields = {"stream": "true"} if form == "stream" else {"response_format": form}
        got = httpx.post(
            f"{address}/v1/audio/transcriptions", data=fields, files={"file": still()}, timeout=60
        )
        assert got.status_code == 200
        if form == "stream":
            assert json.loads(got.text.removeprefix("data: "))["text"] == ""
        else:
            assert (got.text == empty[form]) if form in empty else got.json()["text"] == ""


def test_a_text_is_no_longer_than_its_speech(serve, client, speech):
    assert longest_text(0.1) < longest_text(3) < 100 < longest_text(60) == NEW_TOKENS
    got = client(serve()).audio.transcriptions.create(model="tiny", file=("a.wav", wav(3)))
    assert got.usage.output_tokens <= longest_text(3)
    cut = got.usage.output_tokens == longest_text(3)
    assert got.model_extra["lalm"]["unfinished_segments"] == ([0] if cut else [])


REFUSED = [
    ({"timestamp_granularities": ["word"], "response_format": "verbose_json"}, "no times of words"),
    ({"timestamp_granularities": ["segment"]}, "response_format verbose_json"),
    ({"stream": True, "response_format": "srt"}, "a stream has no srt"),
    ({"include": ["logprobs"], "response_format": "text"}, "response_format json alone"),
    ({"chunking_strategy": {"type": "server_vad", "threshold": 7}}, "chunking_strategy.threshold"),
    ({"chunking_strategy": {"type": "client_vad"}}, "chunking_strategy.type"),
    ({"known_speaker_names": ["agent"]}, "does not tell speakers apart"),
    ({"response_format": "diarized_json"}, "response_format"),
    ({"extra_body": {"best": "1"}}, "has no field 'best'"),
]


@pytest.mark.parametrize("wish, said", REFUSED)
def test_what_cannot_be_honoured_is_refused(serve, client, speech, wish, said):
    with pytest.raises(openai.BadRequestError) as error:
        client(serve()).audio.transcriptions.create(model="tiny", file=("a.wav", wav(1)), **wish)
    assert said in error.value.body["message"]


def test_the_clients_way_of_cutting_is_taken(serve, client, monkeypatch):
    seen = []
    monkeypatch.setattr("lalm.serve.transcriptions.find_speech", lambda clip, vad: seen.append(vad) or [])
    asked = client(serve()).audio.transcriptions
    vad = {"type": "server_vad", "threshold": 0.25, "silence_duration_ms": 900, "prefix_padding_ms": 10}
    asked.create(model="tiny", file=("a.wav", wav(1)), chunking_strategy=vad)
    asked.create(model="tiny", file=("a.wav", wav(1)), chunking_strategy="auto")
    assert seen[0].model_dump() == vad and seen[1].threshold == 0.5
