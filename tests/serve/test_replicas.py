"""The nginx configuration of docs/serve.md as it stands there, in front of tiny servers on loopback."""

import concurrent.futures
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from lalm.models.save import save_model

DOCS = Path(__file__).parents[2] / "docs" / "serve.md"
FRAME = """
pid nginx.pid; daemon off; error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy;
    fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
{0}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def front(tmp_path):
    """``front(ports)``: the documented configuration with these ports behind it; its address."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/bin:/usr/local/bin:/usr/local/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    running = []

    def start(first: int, second: int) -> str:
        block = re.search(r"```nginx\n(.*?)```", DOCS.read_text(), re.DOTALL)
        assert block is not None
        port = free_port()
        text = block[1].replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        text = text.replace("127.0.0.1:8001", f"127.0.0.1:{first}").replace(
            "127.0.0.1:8002", f"127.0.0.1:{second}"
        )
        (tmp_path / "nginx.conf").write_text(FRAME.format(text))
        command = [nginx, "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE))
        deadline = time.monotonic() + 120
        while True:
            assert running[-1].poll() is None, running[-1].stderr.read().decode()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return f"http://127.0.0.1:{port}"
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    yield start
    for process in running:
        process.terminate()
        process.wait(10)
        process.stderr.close()


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def answered(address: str) -> float:
    text = httpx.get(f"{address}/metrics").text
    return sum(
        float(n) for n in re.findall(r'lalm_requests_total\{path="/v1/chat.*?status="200"\} (\S+)', text)
    )


BODY = {"messages": [{"role": "user", "content": "What?"}], "max_tokens": 8}


def test_two_replicas_share_requests_streams_and_sessions(serve, client, front):
    replicas = [serve(rows=1, waiting=2), serve(rows=1, waiting=2)]
    address = front(*map(port_of, replicas))
    with httpx.Client(base_url=address, timeout=60) as asking:
        wanted = asking.post("/v1/chat/completions", json=BODY).json()["choices"]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: asking.post("/v1/chat/completions", json=BODY), range(12)))
    assert all(answer.status_code == 200 and answer.json()["choices"] == wanted for answer in found)
    assert min(map(answered, replicas)) >= 2 and sum(map(answered, replicas)) == 13
    asked = client(address)
    chunks = asked.chat.completions.create(model="tiny", messages=BODY["messages"], max_tokens=8, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == wanted[0]["message"]["content"]
    with asked.realtime.connect(model="tiny") as connection:
        assert connection.recv().type == "session.created"


def test_a_dead_replica_harms_no_request(serve, front):
    address = front(port_of(serve()), free_port())
    with httpx.Client(base_url=address, timeout=60) as asking:
        for _ in range(6):
            assert asking.post("/v1/chat/completions", json=BODY).status_code == 200


@pytest.fixture
def processes(tiny, tmp_path) -> Iterator[dict[int, subprocess.Popen]]:
    """Two of ``lalm serve`` by their ports; their model never ends an answer by itself."""
    model, processor = tiny("acdc")
    with torch.no_grad():
        model.lm_head.weight[processor.tokenizer.eos_token_id] = 0  # some other token is likelier
    save_model(model, processor, tmp_path / "tiny", slim=False)
    serving = [sys.executable, "-m", "lalm.cli.app", "serve", str(tmp_path / "tiny"), "--port"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ports = {free_port() for _ in range(2)}
    running = {port: subprocess.Popen([*serving, str(port)], env=environment) for port in ports}
    try:
        for port in running:
            deadline = time.monotonic() + 300
            while running_rows(port) is None:
                assert time.monotonic() < deadline and running[port].poll() is None
                time.sleep(0.1)
        yield running
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def running_rows(port: int) -> int | None:
    """Answers that the replica at ``port`` writes now; None before it listens."""
    try:
        return int(httpx.get(f"http://127.0.0.1:{port}/health", timeout=300).json()["running"])
    except httpx.ConnectError:
        return None


def events(answer: httpx.Response) -> Iterator[dict]:
    """What a stream brings, as it comes; it must end as it should."""
    for line in answer.iter_lines():
        if line == "data: [DONE]":
            return
        if line:
            yield json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended early, as if it were whole")


def test_a_replica_that_is_killed_fails_its_streams_alone(processes, front):
    address = f"{front(*processes)}/v1/chat/completions"
    long = {**BODY, "max_tokens": 1800, "min_tokens": 1800, "temperature": 1.5, "seed": 1}  # says no loop
    streamed = {**long, "stream": True}
    with (
        httpx.Client(timeout=300) as asking,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
        asking.stream("POST", address, json=streamed) as first,
    ):
        told = events(first)
        assert "choices" in next(told)
        [victim] = [port for port in processes if running_rows(port)]
        [other] = set(processes) - {victim}
        with asking.stream("POST", address, json=streamed) as second:  # where fewer are
            whole = [pool.submit(asking.post, address, json=long) for _ in range(2)]  # one with each of them
            while running_rows(victim) != 2:
                time.sleep(0.01)
            assert running_rows(other) == 2
            processes[victim].kill()
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                list(told)
            *_, last = events(second)  # the chunk that tells why it ended
        assert last["choices"][0]["finish_reason"] == "length"
        for answer in whole:  # the one that had heard nothing yet is asked again elsewhere
            assert answer.result().json()["usage"]["completion_tokens"] == 1800
        for _ in range(4):
            assert asking.post(address, json=BODY).status_code == 200
