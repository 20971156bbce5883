"""Clients that ask and never read the answer: they are cut off, and nobody else waits for them."""

import asyncio
import base64
import json
import os
import re
import socket
import time

import httpx
import pytest

from lalm.inference.engine import Engine
from lalm.serve.connections import Connection

LOOK_S = 0.5


@pytest.fixture(autouse=True)
def connections(monkeypatch) -> dict[int, asyncio.Transport]:
    """The server's side of each connection by the client's port. The kernel keeps little of what is not
    read, and the server looks often."""
    made, found = Connection.connection_made, {}

    def connection_made(self, transport):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        found[transport.get_extra_info("peername")[1]] = transport
        made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", connection_made)
    monkeypatch.setattr("lalm.serve.connections.REQUEST_HEAD_S", LOOK_S)
    return found


def asked(address: str, request: bytes) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.settimeout(20)
    client.connect((host, int(port)))
    client.sendall(request)
    return client


def read(client: socket.socket) -> bytes:
    """All that still comes."""
    got = b""
    try:
        while part := client.recv(65_536):
            got += part
    except ConnectionResetError:
        pass
    client.close()
    return got


def wait(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stream_that_is_not_read_ends_and_delays_no_other(serve, engine, monkeypatch):
    monkeypatch.setattr(Engine, "ends", lambda self: {10**6})
    logits = engine.model.logits
    monkeypatch.setattr(engine.model, "logits", lambda hidden: (time.sleep(0.01), logits(hidden))[1])
    address = serve()
    question = {"messages": [{"role": "user", "content": "?"}]}
    long = {**question, "max_tokens": 1800, "stream": True, "logprobs": True, "top_logprobs": 20}
    body = json.dumps(long).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    deaf = asked(address, f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    with httpx.Client(base_url=address, timeout=60) as asking:
        wait(lambda: asking.get("/health").json()["running"] == 1)
        proper = [asking.post("/v1/chat/completions", json={**question, "max_tokens": 4}) for _ in range(3)]
        assert [answer.status_code for answer in proper] == [200] * 3
        wait(lambda: asking.get("/health").json()["running"] == 0)
    assert b"[DONE]" not in read(deaf)


def test_answers_that_are_not_read_are_dropped(serve, connections):
    address = serve()
    deaf = []
    for path in ("/openapi.json", "/page/bell.flac"):  # written at once; piece by piece
        size = len(httpx.get(f"{address}{path}", timeout=60).content)
        assert size > 15_000
        for manner in ("close", "keep-alive"):
            head = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: {manner}\r\n\r\n"
            deaf.append((size, asked(address, head.encode())))
    ports = [client.getsockname()[1] for _, client in deaf]
    wait(lambda: set(ports) <= set(connections))
    held = [connections[port] for port in ports]
    wait(lambda: all(one.is_closing() and not one.get_write_buffer_size() for one in held))
    for size, client in deaf:
        assert len(read(client)) < size


def frame(text: str) -> bytes:
    """A client's message on a WebSocket, its mask all zeros."""
    data = text.encode()
    return b"\x81\xff" + len(data).to_bytes(8, "big") + bytes(4) + data


def test_a_session_whose_client_does_not_read_ends(serve):
    address = serve(sessions=1)
    key = base64.b64encode(os.urandom(16)).decode()
    deaf = asked(
        address,
        f"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode(),
    )

    def sessions() -> int:
        return int(re.findall(r"^lalm_realtime_sessions (\d)", httpx.get(f"{address}/metrics").text, re.M)[0])

    wait(lambda: sessions() == 1)
    content = [{"type": "input_text", "text": "x" * 90_000}]
    item = {"type": "message", "role": "user", "content": content}
    deaf.sendall(frame(json.dumps({"type": "conversation.item.create", "item": item})))
    wait(lambda: sessions() == 0)
    assert len(read(deaf)) < 90_000
