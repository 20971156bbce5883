"""The API through the unmodified openai client: answers, streams, limits, one clear error for each fault."""

import base64
import concurrent.futures
import io
import json
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import openai
import pytest
import soundfile

from lalm.data.sample import ask
from lalm.inference.engine import Engine, Options
from lalm.serve.rate_limit import RateLimiter
from lalm.serve.transcriptions import instruction

SAMPLES = Path(__file__).parents[2] / "samples"


def wav(seconds: float, seed: int = 0, rate: int = 16_000) -> bytes:
    samples = np.random.default_rng(seed).normal(0, 0.05, int(seconds * rate)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def part(data: bytes) -> dict:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}


def turn(text: str, *clips: bytes) -> list[dict]:
    return [{"role": "user", "content": [*map(part, clips), {"type": "text", "text": text}]}]


def test_an_answer_is_the_engines_and_tells_what_was_heard(serve, client, engine):
    asked = client(serve())
    clips = wav(1.5), wav(0.5, 1)
    got = asked.chat.completions.create(model="tiny", messages=turn("Which?", *clips), max_tokens=9)
    [alone] = engine.reply([ask(clips, "Which?")], Options(9))
    assert got.choices[0].message.content == alone.text
    assert got.object == "chat.completion" and got.model == "tiny" and got.id.startswith("chatcmpl-")
    assert got.choices[0].finish_reason == ("length" if got.usage.completion_tokens == 9 else "stop")
    tokens = sum(engine.model.config.num_audio_tokens(n) for n in (24_000, 8_000))
    assert got.usage.prompt_tokens_details.audio_tokens == tokens
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens
    heard = got.model_extra["lalm"]["heard"]
    assert [clip["seconds_given"] for clip in heard] == [1.5, 0.5] == [c["seconds_heard"] for c in heard]
    data = f"data:audio/wav;base64,{base64.b64encode(clips[0]).decode()}"
    url = [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": data}}]}]
    again = asked.chat.completions.create(
        model="tiny",
        messages=[
            *url,
            {"role": "assistant", "content": "Hm.", "refusal": None},
            {"role": "user", "content": "Why?"},
        ],
    )
    assert again.choices[0].message.content
    assert [model.id for model in asked.models.list()] == ["tiny"] and asked.models.retrieve(
        "tiny"
    ).id == "tiny"


def test_streams_join_to_the_whole_answer(serve, client):
    asked = client(serve())
    wish = {"model": "tiny", "messages": turn("What?", wav(1)), "temperature": 1.2, "seed": 4, "n": 3}
    whole = asked.chat.completions.create(**wish, max_completion_tokens=12)
    texts, ends, usage = ["", "", ""], {}, None
    for chunk in asked.chat.completions.create(
        **wish, max_completion_tokens=12, stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
        usage = chunk.usage or usage
    assert texts == [choice.message.content for choice in whole.choices] and len(set(texts)) == 3
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage


def test_logprobs_stop_and_top_p(serve, client):
    asked = client(serve())
    wish = {
        "model": "tiny",
        "messages": turn("What?", wav(1)),
        "max_tokens": 20,
        "temperature": 1.0,
        "seed": 3,
    }
    got = asked.chat.completions.create(**wish, logprobs=True, top_logprobs=2).choices[0]
    assert len(got.logprobs.content) >= 1
    for entry in got.logprobs.content:
        assert len(entry.top_logprobs) == 2 and entry.logprob <= entry.top_logprobs[0].logprob + 1e-4
    text = got.message.content
    stop = text[len(text) // 2 :][:2]
    cut = asked.chat.completions.create(**wish, stop=[stop]).choices[0]
    assert cut.message.content == text[: text.find(stop)].rstrip() and cut.finish_reason == "stop"
    narrow = asked.chat.completions.create(**wish, top_p=1e-6).choices[0].message.content
    assert narrow == asked.chat.completions.create(**{**wish, "temperature": 0}).choices[0].message.content


def test_concurrent_requests_get_the_answers_they_get_alone(serve, client, engine):
    asked = client(serve(rows=4))
    clips = [wav(0.3 + 0.4 * i, i) for i in range(12)]
    alone = [engine.reply([ask([clip], "What?")], Options(6))[0].text for clip in clips]

    def one(clip: bytes) -> str:
        made = asked.chat.completions.create(model="tiny", messages=turn("What?", clip), max_tokens=6)
        return made.choices[0].message.content

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(one, clips)) == alone


@pytest.mark.parametrize("form", ["json", "text", "verbose_json", "srt", "vtt"])
def test_transcriptions_and_translations(serve, client, engine, form, monkeypatch):
    monkeypatch.setattr(
        "lalm.serve.transcriptions.find_speech", lambda clip, vad: [(0, 16_000), (24_000, 40_000)]
    )
    monkeypatch.setattr("lalm.serve.transcriptions.NEW_TOKENS", 6)
    asked = client(serve()).audio
    for api in (asked.transcriptions, asked.translations):
        got = api.create(model="tiny", file=("noise.wav", wav(3)), response_format=form)
        if form == "json":
            task = "transcribe" if api is asked.transcriptions else "translate"
            question = instruction(task, "", "")
            assert got.text == engine.reply([ask([wav(3)], question)], Options(6))[0].text
            assert got.model_extra["lalm"]["heard"][0]["seconds_heard"] == 3.0
        elif form == "verbose_json":
            assert got.duration == 3.0
            assert [(s.start, s.end) for s in got.segments] == [(0.0, 1.0), (1.5, 2.5)]
            assert got.text == " ".join(s.text for s in got.segments if s.text)
        elif form == "srt":
            assert got.startswith("1\n00:00:00,000 --> 00:00:01,000\n") and "\n2\n00:00:01,500 -->" in got
        elif form == "vtt":
            assert got.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n")
        else:
            assert isinstance(got, str)


def test_silence_has_no_segments(serve, client):
    pytest.importorskip("silero_vad")
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16_000, np.float32), 16_000, format="WAV")
    got = client(serve()).audio.transcriptions.create(
        model="tiny", file=("still.wav", file.getvalue()), response_format="verbose_json"
    )
    assert got.segments == [] and got.text == "" and got.duration == 1.0


BAD = {
    "not base64": (
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "§"}}]}],
        "base64",
    ),
    "text as audio": (turn("What?", b"this is text, not audio"), "audio 1: the audio data is not audio"),
    "too long": (turn("What?", wav(3), wav(3)), "limit is 2 s"),
    "a path": (
        [{"role": "user", "content": [{"type": "audio", "audio": "/etc/passwd"}]}],
        "has the type 'audio'",
    ),
    "file address": (
        [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "file:///etc/passwd"}}]}],
        "must be a data: URL",
    ),
    "https when not allowed": (
        [
            {
                "role": "user",
                "content": [{"type": "audio_url", "audio_url": {"url": "https://example.org/a.wav"}}],
            }
        ],
        "must be a data: URL",
    ),
    "role": ([{"role": "cook", "content": "x"}], "has the role 'cook'"),
    "ends with the assistant": (
        [{"role": "assistant", "content": "x"}],
        "the last message must be the user's",
    ),
    "empty": ([], "messages"),
    "too many": (turn("What?", *[wav(0.1)] * 17), "17 recordings are too many"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_in_one_sentence(serve, client, case):
    messages, said = BAD[case]
    with pytest.raises(openai.BadRequestError) as error:
        client(serve(audio_s=5.0)).chat.completions.create(model="tiny", messages=messages)
    message = error.value.body["message"]
    assert said in message and "\n" not in message and "Traceback" not in message


@pytest.mark.parametrize(
    "wish, said",
    [
        ({"max_tokens": 0}, "max_tokens: "),
        ({"max_tokens": 1900, "messages": turn("x" * 500)}, "more than the model's"),
        ({"extra_body": {"functions": [{"name": "f"}]}}, "functions is not supported"),
        ({"temperature": 9}, "temperature: "),
        ({"stop": ["a"] * 5}, "4 stop sequences"),
        ({"extra_body": {"lora_scale": 2.0}}, "no LoRA"),
        ({"model": "gpt-9"}, "there is no model 'gpt-9' here; there is 'tiny'"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_wishes_that_cannot_be_granted(serve, client, wish, said, stream):
    asked = {"model": "tiny", "messages": turn("What?"), **wish}
    with pytest.raises(openai.APIStatusError) as error:
        client(serve()).chat.completions.create(**asked, stream=stream)
    assert (
        error.value.status_code == (404 if "model" in wish else 400) and said in error.value.body["message"]
    )


def test_keys_origins_and_sizes(serve, client):
    asking = httpx.Client(timeout=60)
    address = serve(api_key="secret", body_bytes=100_000, origins=("https://friend.example",))
    assert asking.get(f"{address}/health").json()["status"] == "ok"
    for key in ("wrong", "sécret"):
        answer = asking.get(f"{address}/v1/models", headers={"Authorization": f"Bearer {key}".encode()})
        assert (
            answer.status_code == 401 and "API key is missing or wrong" in answer.json()["error"]["message"]
        )
    assert asking.get(f"{address}/metrics").status_code == 401
    asked = client(address, "secret")
    assert asked.models.list().data
    with pytest.raises(openai.APIStatusError, match=r"larger than 0\.0953674 MiB") as error:
        asked.chat.completions.create(model="tiny", messages=turn("?", wav(10)))
    assert error.value.status_code == 413
    head = {"Authorization": "Bearer secret"}
    body = {"model": "tiny", "messages": turn("?"), "max_tokens": 2}
    for origin, status in (("https://evil.example", 403), ("https://friend.example", 200), (address, 200)):
        got = asking.post(f"{address}/v1/chat/completions", json=body, headers={**head, "Origin": origin})
        assert got.status_code == status
        assert ("access-control-allow-origin" in got.headers) == ("friend" in origin)
        assert got.headers["x-content-type-options"] == "nosniff"
    for origin, status in (("https://evil.example", 400), ("https://friend.example", 200)):
        wish = {"Origin": origin, "Access-Control-Request-Method": "POST"}  # a browser's, before it asks
        got = asking.options(f"{address}/v1/chat/completions", headers=wish)
        assert got.status_code == status
        assert got.headers.get("access-control-allow-origin") == (origin if status == 200 else None)
    text = asking.get(f"{address}/metrics", headers=head).text
    assert 'lalm_requests_total{path="/v1/chat/completions",status="200"} 2.0' in text
    assert "lalm_new_tokens" in text and "lalm_first_token_seconds_count 2.0" in text


def test_a_full_queue_answers_429_and_the_others_are_served(serve, client, engine, monkeypatch):
    monkeypatch.setattr(Engine, "ends", lambda self: {10**6})
    address = serve(rows=1, waiting=2)

    def one(_: int) -> int:
        body = {"model": "tiny", "messages": turn("?"), "max_tokens": 150}
        answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
        if answer.status_code == 429:
            assert int(answer.headers["Retry-After"]) > 0 and "waiting already" in answer.text
        return answer.status_code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(one, range(8)))
    assert set(codes) == {200, 429} and codes.count(200) >= 3


def test_an_address_may_ask_so_often_a_minute(serve, monkeypatch):
    asking = httpx.Client(base_url=serve(per_minute=1), timeout=60)
    body = {"messages": turn("?"), "max_tokens": 1}
    assert asking.post("/v1/chat/completions", json=body).status_code == 200
    refused = asking.post("/v1/chat/completions", json=body)
    assert refused.status_code == 429 and "1 requests a minute" in refused.json()["error"]["message"]
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert asking.get("/v1/models").status_code == 200
    now = 0.0
    monkeypatch.setattr("lalm.serve.rate_limit.time", SimpleNamespace(monotonic=lambda: now))
    rates = RateLimiter(60)
    assert [rates.wait_s("a") for _ in range(61)] == [0] * 60 + [1] and rates.wait_s("b") == 0
    now = 10.0
    assert [rates.wait_s("a") for _ in range(11)] == [0] * 10 + [1]


def test_a_client_that_leaves_stops_costing(serve, engine, monkeypatch):
    monkeypatch.setattr(Engine, "ends", lambda self: {10**6})
    logits = engine.model.logits
    monkeypatch.setattr(engine.model, "logits", lambda hidden: (time.sleep(0.02), logits(hidden))[1])
    address = serve()
    body = {"model": "tiny", "messages": turn("?"), "max_tokens": 1800, "temperature": 1.0}
    asking = httpx.Client()

    def running() -> int:
        return asking.get(f"{address}/health").json()["running"]

    with httpx.stream("POST", f"{address}/v1/chat/completions", json={**body, "stream": True}) as answer:
        lines = answer.iter_lines()  # closes the connection when it is dropped
        next(lines)
        assert answer.status_code == 200, answer.read()
        assert running() == 1
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{address}/v1/chat/completions", json=body, timeout=0.5)
    deadline = time.monotonic() + 60
    while running() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running() == 0


def test_half_sent_and_slow_requests_are_let_go(serve):
    address = serve(body_s=0.5)
    host, port = address.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port))) as half:
        half.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        assert b" 408 " in half.recv(4096).splitlines()[0]
    with socket.create_connection((host, int(port))) as gone:
        gone.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
    for body in (b"", b"{", b"[]", b"null", b'{"messages": 3}', b"[" * 100_000, b"\xff\xfe"):
        answer = httpx.post(
            f"{address}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400 and answer.json()["error"]["message"]
    for path, status in (("/v1/nothing", 404), ("/v1/chat/completions", 405), ("/v1/models/..%2f..", 404)):
        answer = httpx.get(f"{address}{path}")
        assert answer.status_code == status and answer.json()["error"]["message"]


def test_a_failing_model_is_a_500_without_its_details(serve, client, engine, monkeypatch):
    asked = client(serve())
    monkeypatch.setattr(engine.model, "logits", lambda hidden: 1 / 0)
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="the server failed to answer") as error:
            asked.chat.completions.create(model="tiny", messages=turn("?"), stream=stream)
        assert "division" not in str(error.value)
    monkeypatch.undo()
    assert asked.chat.completions.create(model="tiny", messages=turn("?"), max_tokens=2).choices


def test_a_model_that_fails_within_answers_ends_each_with_one_error(serve, client, engine, monkeypatch):
    monkeypatch.setattr(Engine, "ends", lambda self: {10**6})
    logits = engine.model.logits
    monkeypatch.setattr(engine.model, "logits", lambda hidden: (time.sleep(0.01), logits(hidden))[1])
    address = serve()
    asked = {"model": "tiny", "messages": turn("?"), "max_tokens": 1800}
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        httpx.stream("POST", f"{address}/v1/chat/completions", json={**asked, "stream": True}) as first,
    ):
        lines = (line for line in first.iter_lines() if line)
        second = client(address).chat.completions.create(**asked, stream=True)
        next(lines), next(second)
        whole = pool.submit(httpx.post, f"{address}/v1/chat/completions", json=asked, timeout=60)
        with httpx.Client(timeout=60) as watching:
            while watching.get(f"{address}/health").json()["running"] != 3:
                time.sleep(0.01)
        with monkeypatch.context() as failing:
            failing.setattr(engine.model, "logits", lambda hidden: 1 / 0)
            *told, last = [json.loads(line.removeprefix("data: ")) for line in lines]
            assert last["error"]["message"] == "the server failed to answer"
            assert not any("error" in event for event in told)
            with pytest.raises(openai.APIError, match="the server failed to answer"):
                list(second)
            assert whole.result().status_code == 500
    again = client(address).chat.completions.create(**{**asked, "max_tokens": 2})
    assert again.choices[0].finish_reason == "length"


def test_stopping_finishes_what_runs(engine, open_server):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with open_server() as address:
            body = {"model": "tiny", "messages": turn("?"), "max_tokens": 200, "temperature": 0.0}
            coming = pool.submit(httpx.post, f"{address}/v1/chat/completions", json=body, timeout=60)
            while not httpx.get(f"{address}/health").json()["running"] and not coming.done():
                time.sleep(0.005)
        answer = coming.result()
    assert answer.status_code == 200 and json.loads(answer.text)["choices"]


def test_the_command_says_what_is_wrong_in_one_sentence(capsys, tmp_path):
    from lalm.cli.app import run

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["serve", "--port", port]) == 2
    cases = {
        f"port {port} is in use: choose another with --port": None,
        "no-such-model": ["serve", str(tmp_path / "no-such-model"), "--port", "0"],
        "there is no address 'nowhere.invalid'": ["serve", "--host", "nowhere.invalid"],
        "device": ["serve", "--port", "0", "--device", "toaster"],
        "--port": ["serve", "--port", "99999"],
    }
    for said, words in cases.items():
        assert words is None or run(words) == 2
        out = capsys.readouterr()
        assert out.out == "" and len(out.err.splitlines()) == 1 and said in out.err
