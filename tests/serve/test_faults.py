"""Broken recordings of 200 kinds, slow and rude clients, addresses that must not be asked: one clear error
each, the server alive, and who asks properly at the same time gets the answer it always gets.

``LALM_FUZZ_ROUNDS=50`` breaks every recording in 50 ways of each kind instead of one.
"""

import asyncio
import base64
import concurrent.futures
import gzip
import io
import json
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
import soundfile
from websockets.sync.client import connect as websocket

from lalm.audio.load import load_audio
from lalm.serve import url_fetch as fetching
from lalm.serve.url_fetch import FetchRefused, fetch, public_address

ROUNDS = int(os.environ.get("LALM_FUZZ_ROUNDS", "1"))
Draw = np.random.Generator


def written(form: str, subtype: str | None = None, samples: np.ndarray | None = None) -> bytes:
    noise = np.random.default_rng(0).normal(0, 0.05, 9_600).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, noise if samples is None else samples, 16_000, format=form, subtype=subtype)
    return file.getvalue()


def muxed(container: str, codec: str, rate: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        noise = np.random.default_rng(0).normal(0, 0.05, (1, rate // 2)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, "fltp", "mono")
        frame.rate = rate
        for given in (frame, None):
            for packet in stream.encode(given):
                out.mux(packet)
    return file.getvalue()


FORMS: dict[str, Callable[[], bytes]] = {
    "wav": lambda: written("WAV"),
    "float-wav": lambda: written("WAV", "FLOAT"),
    "flac": lambda: written("FLAC"),
    "vorbis": lambda: written("OGG", "VORBIS"),
    "opus": lambda: written("OGG", "OPUS"),
    "mp3": lambda: written("MP3"),
    "aiff": lambda: written("AIFF"),
    "caf": lambda: written("CAF"),
    "m4a": lambda: muxed("mp4", "aac", 16_000),
    "webm": lambda: muxed("webm", "libopus", 48_000),
}


def _cut(fraction: float) -> Callable[[bytes, Draw], bytes]:
    return lambda data, draw: data[: int(len(data) * fraction * draw.uniform(0.9, 1))]


def _flipped(bits: int, within: float) -> Callable[[bytes, Draw], bytes]:
    def broken(data: bytes, draw: Draw) -> bytes:
        made = bytearray(data)
        for at in draw.integers(0, max(1, int(len(made) * within)), bits):
            made[at] ^= 1 << draw.integers(0, 8)
        return bytes(made)

    return broken


def _over(what: bytes, first: int, last: int) -> Callable[[bytes, Draw], bytes]:
    def broken(data: bytes, draw: Draw) -> bytes:
        at = int(draw.integers(first, min(last, len(data))))
        return data[:at] + what + data[at + len(what) :]

    return broken


WAYS: dict[str, Callable[[bytes, Draw], bytes]] = {
    "cut to nothing": _cut(0.0),
    "cut in the header": lambda data, draw: data[: draw.integers(1, 40)],
    "cut early": _cut(0.2),
    "cut in the middle": _cut(0.6),
    "cut late": _cut(0.99),
    "one bit of the header": _flipped(1, 0.01),
    "bits of the header": _flipped(6, 0.02),
    "bits anywhere": _flipped(20, 1.0),
    "many bits": _flipped(2000, 1.0),
    "huge size": _over(b"\xff\xff\xff\x7f", 4, 60),
    "greatest size": _over(b"\xff\xff\xff\xff", 4, 60),
    "no size": _over(b"\0\0\0\0", 4, 60),
    "NaN within": _over(struct.pack("<4f", *[float("nan")] * 4), 100, 4000),
    "zeros within": _over(bytes(900), 80, 4000),
    "noise within": lambda data, draw: data[:200] + draw.bytes(len(data) // 2) + data[-200:],
    "header of another": lambda data, draw: FORMS[str(draw.choice([*FORMS]))]()[:64] + data[64:],
    "header twice": lambda data, draw: data[:64] + data,
    "backwards": lambda data, draw: data[::-1],
    "a piece moved": lambda data, draw: data[:100] + data[600:1200] + data[100:600] + data[1200:],
    "garbage after": lambda data, draw: data + draw.bytes(5000),
}


def test_two_hundred_kinds_of_broken_recordings_harm_nobody(serve):
    assert len(FORMS) * len(WAYS) == 200
    address = serve(audio_s=20.0)
    whole = {name: make() for name, make in FORMS.items()}
    cases = []
    for name, data in whole.items():
        assert 0.4 < len(load_audio(data)) / 16_000 < 0.8
        for number, (way, broken) in enumerate(WAYS.items()):
            for turn in range(ROUNDS):
                draw = np.random.default_rng([turn, number, len(data)])
                cases.append((f"{name}, {way}, {turn}", broken(data, draw)))

    def ask(asking: httpx.Client, data: bytes) -> httpx.Response:
        part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode()}}
        body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
        return asking.post(f"{address}/v1/chat/completions", json=body, timeout=60)

    with (
        httpx.Client() as proper,
        httpx.Client() as careless,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        right = ask(proper, whole["wav"]).json()["choices"]
        coming = [(name, pool.submit(ask, careless, data)) for name, data in cases]
        asked = 0
        while asked < 5 or not all(answer.done() for _, answer in coming):
            assert ask(proper, whole["wav"]).json()["choices"] == right
            asked += 1
        refused = 0
        for name, answer in coming:
            got = answer.result()
            assert got.status_code in (200, 400), f"{name}: {got.status_code} {got.text}"
            if got.status_code == 400:
                refused += 1
                message = got.json()["error"]["message"]
                assert 10 < len(message) < 300 and "Traceback" not in message, f"{name}: {message}"
        assert refused > 0.5 * len(cases)
        assert ask(proper, whole["wav"]).json()["choices"] == right


def silence(seconds: int, rate: int = 8_000) -> bytes:
    return written("FLAC", None, np.zeros(seconds * rate, np.int16))


BOMBS = {
    "long silence": lambda: silence(1200),
    "a slow rate": lambda: _wav_head(1_000, 1, 2 * 40_000) + bytes(2 * 40_000),
    "a rate below": lambda: _wav_head(1, 1, 2 * 40_000) + bytes(2 * 40_000),
    "a rate beyond": lambda: _wav_head(4_000_000_000, 1, 8_000) + bytes(8_000),
    "many channels": lambda: _wav_head(8_000, 65_535, 131_070) + bytes(131_070),
    "no channels": lambda: _wav_head(8_000, 0, 8_000) + bytes(8_000),
    "no samples": lambda: _wav_head(8_000, 1, 0),
    "all NaN": lambda: written("WAV", "FLOAT", np.full(8_000, np.nan, np.float32)),
    "all infinite": lambda: written("WAV", "FLOAT", np.full(8_000, np.inf, np.float32)),
    "huge values": lambda: written("WAV", "FLOAT", np.full(8_000, 3e38, np.float32)),
    "a zip": lambda: b"PK\3\4" + bytes(3_000),
    "a playlist": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "gzip": lambda: gzip.compress(bytes(1 << 20)),
}


def _wav_head(rate: int, channels: int, size: int) -> bytes:
    frame = 2 * channels
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * frame % 2**32, frame % 2**16, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size)
        + b"WAVEfmt \x10\0\0\0"
        + form
        + b"data"
        + struct.pack("<I", size)
    )


def test_small_files_that_expand_or_lie_are_refused_quickly(serve):
    address = serve(audio_s=20.0)
    with httpx.Client(timeout=30) as asking:
        for name, make in BOMBS.items():
            data = make()
            assert len(data) < 1_500_000
            began = time.process_time()
            file = {"file": ("x.wav", data)}
            got = asking.post(f"{address}/v1/audio/transcriptions", files=file)
            if name == "huge values":  # ends as silence or as loud noise, by what decodes it
                assert got.status_code in (200, 400)
                continue
            assert got.status_code == 400, f"{name}: {got.text}"
            # A tenth of a second, as a rule. Read whole, such a file takes minutes.
            assert time.process_time() - began < 15, name
            assert "audio 1" in got.json()["error"]["message"]


def test_bodies_that_are_not_what_they_say(serve):
    address = serve(body_bytes=200_000, body_s=5.0)
    chat = f"{address}/v1/chat/completions"
    plain = json.dumps({"messages": [{"role": "user", "content": "?"}], "max_tokens": 1}).encode()
    as_json = {"Content-Type": "application/json"}
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    parts = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\nb\r\n' % i for i in range(2500)
    )
    sent = [
        (chat, gzip.compress(plain), {**as_json, "Content-Encoding": "gzip"}, 400),
        (chat, iter([b"x" * 100_000] * 5), as_json, 413),  # chunks, no length
        (chat, b"[" * 100_000, as_json, 400),
        (chat, b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1}', as_json, 400),
        (chat, b'{"messages": [{"role": "user", "content": "?"}], "seed": 1e999}', as_json, 400),
        (chat, b'{"messages": [{"role": "user", "content": "?"}], "temperature": NaN}', as_json, 400),
        (chat, plain, {"Content-Type": "text/plain"}, 400),
        (f"{address}/v1/audio/transcriptions", parts, boundary, 400),
        (f"{address}/v1/audio/transcriptions", b"--x\r\n", boundary, 400),
        (f"{address}/v1/audio/transcriptions", b"", {"Content-Type": "multipart/form-data"}, 400),
        (f"{address}/v1/audio/transcriptions", plain, as_json, 400),
    ]
    with httpx.Client(timeout=20) as asking:
        for url, body, headers, status in sent:
            got = asking.post(url, content=body, headers=headers)
            assert got.status_code == status, (headers, got.text)
            assert got.json()["error"]["message"]
        assert asking.post(chat, content=plain, headers=as_json).status_code == 200


def test_rude_and_slow_connections_do_not_stay(serve, monkeypatch):
    monkeypatch.setattr("lalm.serve.connections.REQUEST_HEAD_S", 0.3)
    address = serve(body_s=1.0)
    host, port = address.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port)), timeout=5) for _ in range(20)]
    for number, connection in enumerate(silent):
        connection.sendall(
            [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-", b"\x16\x03\x01"][number % 3]
        )
    again = socket.create_connection((host, int(port)), timeout=5)  # half a request after a whole one
    again.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /hea")
    assert again.recv(9).startswith(b"HTTP/1.1 ")
    huge = socket.create_connection((host, int(port)), timeout=5)
    huge.sendall(b"GET /health HTTP/1.1\r\nX: " + b"x" * 70_000)
    assert b" 400 " in huge.recv(4096).splitlines()[0]
    for connection in [*silent, again]:
        while connection.recv(65_536):  # until it is closed
            pass
        connection.close()
    with websocket(f"{address.replace('http', 'ws')}/v1/realtime") as talk:  # which may take its time
        talk.recv()
        time.sleep(0.7)
        talk.send('{"type": "input_audio_buffer.clear"}')
        assert json.loads(talk.recv(timeout=60))["type"] == "input_audio_buffer.cleared"
        talk.send("x" * ((1 << 20) + 1))  # a message that is too large ends this session, and no other
        with pytest.raises(Exception, match=r"too big|1009"):
            while True:
                talk.recv(timeout=60)
    assert httpx.get(f"{address}/health").json()["status"] == "ok"


# --- addresses ---


def resolver(monkeypatch, names: dict[str, list[list[str]]]) -> None:
    """Names resolve to each of their lists of addresses in turn, the last one for ever."""
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **more):
        name = host.decode() if isinstance(host, bytes) else host
        if name not in names:
            return real(host, port, *args, **more)
        found = names[name].pop(0) if len(names[name]) > 1 else names[name][0]
        return [
            (socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
            for a in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


PRIVATE = [
    *("127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "[::1]", "[::]"),
    *("[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fd00::1]", "[fe80::1]", "[ff02::1]"),
    *("localhost", "inner.test", "mixed.test"),
]


def test_no_spelling_of_a_private_address_is_asked(monkeypatch):
    resolver(monkeypatch, {"inner.test": [["10.0.0.7"]], "mixed.test": [["93.184.215.14", "::1"]]})

    async def all_of_them() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda request: 1 / 0)) as client:
            for host in PRIVATE:
                with pytest.raises(FetchRefused, match=r"address is not public|cannot be resolved"):
                    await fetch(f"https://{host}/a.wav", 1000, client)
            for url in (
                "http://example.org/a.wav",
                "https://me:pw@example.org/",
                "https:///a",
                "ftp://x/",
                "x",
            ):
                with pytest.raises(FetchRefused, match=r"must be a data: or an https: URL"):
                    await fetch(url, 1000, client)

    asyncio.run(all_of_them())


def test_the_address_that_was_checked_is_the_one_that_is_asked(monkeypatch):
    resolver(monkeypatch, {"rebinding.test": [["93.184.215.14"], ["127.0.0.1"]]})
    assert asyncio.run(public_address("rebinding.test", 443)) == "93.184.215.14"
    with pytest.raises(FetchRefused):
        asyncio.run(public_address("rebinding.test", 443))
    resolver(monkeypatch, {"rebinding.test": [["93.184.215.14"], ["127.0.0.1"]]})
    asked = []

    def answers(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.host, request.headers["Host"], request.extensions["sni_hostname"]))
        return httpx.Response(200, stream=httpx.ByteStream(b"sound"))

    async def once() -> bytes:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answers)) as client:
            return await fetch("https://rebinding.test/a.wav", 1000, client)

    assert asyncio.run(once()) == b"sound"
    assert asked == [("93.184.215.14", "rebinding.test", "rebinding.test")]


REDIRECTS = {
    "https://10.0.0.1/secret": "address is not public",
    "http://fine.test/a.wav": "must be a data: or an https: URL",
    "https://inner.test/": "address is not public",
    "//169.254.169.254/latest/meta-data": "address is not public",
    "file:///etc/passwd": "must be a data: or an https: URL",
    "/again": "redirects more than 3 times",
    "https://rebinding.test/x": "address is not public",
}


@pytest.mark.parametrize("place", REDIRECTS)
def test_redirects_are_checked_anew_and_the_client_is_told(serve, client, monkeypatch, place):
    resolver(
        monkeypatch,
        {
            "fine.test": [["93.184.215.14"]],
            "inner.test": [["192.168.0.9"]],
            "rebinding.test": [["93.184.215.14"], ["127.0.0.1"]],
        },
    )
    asked = []

    def answers(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(302, headers={"Location": place})

    stub = httpx.AsyncClient
    monkeypatch.setattr(
        "lalm.serve.chat_completions.public_client", lambda: stub(transport=httpx.MockTransport(answers))
    )
    host = "rebinding.test" if "rebinding" in place else "fine.test"
    part = {"type": "audio_url", "audio_url": {"url": f"https://{host}/a.wav"}}
    got = httpx.post(
        f"{serve(fetch=True)}/v1/chat/completions",
        json={"messages": [{"role": "user", "content": [part]}]},
    )
    assert got.status_code == 400 and REDIRECTS[place] in got.json()["error"]["message"]
    assert set(asked) == {"93.184.215.14"} and len(asked) <= 4


def test_fetched_audio_is_heard_and_its_size_bounded(serve, monkeypatch):
    resolver(monkeypatch, {"fine.test": [["93.184.215.14"]]})
    files = {
        "/a.wav": written("WAV"),
        "/large": bytes(300_000),
        "/page": b"<html>no sound</html>",
    }

    def answers(request: httpx.Request) -> httpx.Response:
        data = files.get(request.url.path)
        return httpx.Response(404) if data is None else httpx.Response(200, stream=httpx.ByteStream(data))

    stub = httpx.AsyncClient
    monkeypatch.setattr(
        "lalm.serve.chat_completions.public_client", lambda: stub(transport=httpx.MockTransport(answers))
    )
    address = serve(fetch=True, body_bytes=200_000)

    def ask(path: str, count: int = 1) -> httpx.Response:
        part = {"type": "audio_url", "audio_url": {"url": f"https://fine.test{path}"}}
        body = {"messages": [{"role": "user", "content": [part] * count}], "max_tokens": 1}
        return httpx.post(f"{address}/v1/chat/completions", json=body)

    assert ask("/a.wav").json()["lalm"]["heard"][0]["seconds_heard"] == 0.6
    for path, count, told in (
        ("/large", 1, "larger than"),
        ("/a.wav", 11, "larger than"),  # each of them is small
        ("/gone", 1, "answers with HTTP 404"),
        ("/page", 1, "not audio"),
    ):
        got = ask(path, count)
        assert got.status_code == 400 and told in got.json()["error"]["message"], got.text


def test_the_client_that_fetches_follows_nothing_and_uses_no_proxy(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    client = fetching.public_client()
    assert not client.follow_redirects and not client.trust_env
    assert all(
        isinstance(t, httpx.AsyncHTTPTransport)
        for t in [client._transport, *filter(None, client._mounts.values())]
    )
    assert not client._mounts


def test_nothing_of_an_upload_stays_on_the_disk(serve, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("lalm.serve.transcriptions.find_speech", lambda clip, vad: [])
    address = serve()
    data = written("WAV", None, np.zeros(16_000 * 40, np.float32))  # large enough to be spooled
    got = httpx.post(f"{address}/v1/audio/transcriptions", files={"file": ("../../x.wav", data)}, timeout=60)
    assert got.status_code == 200, got.text
    assert not list(Path(tmp_path).iterdir())
