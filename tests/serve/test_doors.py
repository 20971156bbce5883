"""Who is let in: names of the server, keys; and that one large request holds up nobody."""

import asyncio
import json
import threading
import time

import httpx
import pytest
import websockets.sync.client
from test_api import turn, wav

from lalm.serve.host_names import host_of
from lalm.serve.url_fetch import is_public


@pytest.mark.parametrize(
    "name, let_in",
    [
        *[
            (name, True)
            for name in ("localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:8000", "a.localhost.")
        ],
        *[(name, True) for name in ("gpu.example", "gpu.example:443", "192.168.1.7:8000", "gpu-box")],
        *[
            (name, False)
            for name in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "gpu.example.evil")
        ],
        *[(name, False) for name in ("localhost.evil.example", "evil.localhost.example")],
    ],
)
def test_a_page_that_rebinds_its_name_is_not_answered(serve, name, let_in):
    address = serve(hosts=("gpu.example",))
    for path in ("/", "/v1/models", "/health"):
        got = httpx.get(address + path, headers={"Host": name})
        assert got.status_code == (200 if let_in else 403)
        assert let_in or host_of(name) in got.json()["error"]["message"]
    body = {"messages": turn("?"), "max_tokens": 1}
    origin = {"Host": name, "Origin": f"http://{name}"}
    got = httpx.post(f"{address}/v1/chat/completions", json=body, headers=origin, timeout=60)
    assert got.status_code == (200 if let_in else 403)


def test_a_rebound_name_opens_no_session(serve):
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    head = {**upgrade, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Host": "evil.example"}
    assert httpx.get(f"{serve()}/v1/realtime", headers=head).status_code == 403


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_word_before_the_key_has_any_case(serve, scheme):
    address = serve(api_key="secret")
    right = httpx.get(f"{address}/v1/models", headers={"Authorization": f"{scheme}  secret"})
    wrong = httpx.get(f"{address}/v1/models", headers={"Authorization": f"{scheme} secre"})
    assert (right.status_code, wrong.status_code) == (200, 401)


@pytest.mark.parametrize(
    "address, public",
    [
        *[(a, False) for a in ("::7f00:1", "::127.0.0.1", "::8.8.8.8", "64:ff9b::808:808", "64:ff9b:1::1")],
        *[(a, False) for a in ("::ffff:0:7f00:1", "::ffff:10.0.0.1", "2002:a00:1::", "fec0::1")],
        *[(a, True) for a in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8")],
    ],
)
def test_ipv4_addresses_in_ipv6_clothes_are_private(address, public):
    assert is_public(address) == public


JSON = {"Content-Type": "application/json"}


def test_a_very_long_text_is_refused_and_holds_up_no_stream(serve):
    address = serve()
    body = {"messages": turn("?", wav(0.5)), "max_tokens": 400, "stream": True, "temperature": 1.0, "seed": 1}
    long = json.dumps({"messages": [{"role": "user", "content": "a b\u00e9 " * 2_000_000}]})
    gaps: list[float] = []
    refused: list[httpx.Response] = []

    def ask() -> None:
        refused.append(httpx.post(f"{address}/v1/chat/completions", content=long, headers=JSON, timeout=60))

    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as stream:
        lines, last = stream.iter_lines(), time.monotonic()
        next(lines)
        asking = threading.Thread(target=ask)
        asking.start()
        for line in lines:
            if line.startswith("data: {"):
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
        asking.join()
    assert refused[0].status_code == 400
    assert refused[0].json()["error"]["message"].startswith("the text has 10000000 characters: the limit is")
    assert len(gaps) > 5 and max(gaps) < 15.0


def test_texts_are_read_beside_the_answers(serve, engine, monkeypatch):
    """A prompt that takes long to read delays its own answer alone."""
    slow, real = threading.Event(), engine.processor.batch

    def batch(samples, **more):
        if "slow" in str(samples[0].messages):
            slow.set()
            time.sleep(3)
        return real(samples, **more)

    monkeypatch.setattr(engine.processor, "batch", batch)
    address = serve()

    async def both() -> tuple[float, float]:
        async with httpx.AsyncClient(timeout=60) as client:

            async def ask(text: str) -> float:
                body = {"messages": turn(text), "max_tokens": 2}
                assert (await client.post(f"{address}/v1/chat/completions", json=body)).status_code == 200
                return time.monotonic()

            first = asyncio.create_task(ask("slow"))
            while not slow.is_set():
                await asyncio.sleep(0.01)
            return await ask("quick"), await first

    quick, late = asyncio.run(both())
    assert quick < late


def test_idle_sessions_make_place(serve, monkeypatch):
    monkeypatch.setattr("lalm.serve.realtime.YIELD_S", 0.5)
    address = serve(sessions=2).replace("http", "ws") + "/v1/realtime"
    first, second = (websockets.sync.client.connect(address, legacy=True) for _ in range(2))
    with pytest.raises(websockets.exceptions.InvalidStatus), websockets.sync.client.connect(address):
        pass
    first.recv()
    time.sleep(0.6)
    second.send(json.dumps({"type": "input_audio_buffer.clear"}))
    while json.loads(second.recv())["type"] != "input_audio_buffer.cleared":
        pass
    with websockets.sync.client.connect(address) as third:
        assert json.loads(third.recv())["type"] == "session.created"
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            first.recv(timeout=10)
        assert closed.value.rcvd.code == 1001
        second.send(json.dumps({"type": "input_audio_buffer.clear"}))
        assert json.loads(second.recv())["type"] == "input_audio_buffer.cleared"
    second.close()
