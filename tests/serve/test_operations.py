"""What an operator relies on: ids, a log, readiness, TLS, several models, files of requests, deployment."""

import asyncio
import io
import json
import logging
import re
import shlex
import shutil
import ssl
import subprocess
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
import torch
import uvicorn
from test_api import part, turn, wav
from typer.main import get_command

from lalm.cli.app import app as command
from lalm.cli.app import run
from lalm.cli.serve import Place, listen
from lalm.data.sample import ask
from lalm.inference.engine import Engine, Options
from lalm.models.lora import add_lora
from lalm.models.shared_weights import share_weights
from lalm.serve.app import create_app
from lalm.serve.batch_file import BatchError, answer_file, answered, read_requests
from lalm.serve.connections import Tls, config
from lalm.serve.scheduler import Scheduler
from lalm.serve.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
ASKED = {"messages": turn("?"), "max_tokens": 2}


def test_requests_have_ids_and_a_line_each(serve, client, caplog):
    address = serve(api_key="secret")
    caplog.set_level(logging.INFO, "lalm.serve.access")
    given = httpx.get(f"{address}/v1/models", headers={"X-Request-Id": "trace-7"})
    odd = httpx.get(f"{address}/health", headers={"X-Request-Id": "a b"})
    assert given.headers["X-Request-Id"] == "trace-7" and given.status_code == 401
    assert re.fullmatch(r"req_[0-9a-f]{24}", odd.headers["X-Request-Id"])
    answer = client(address, "secret").chat.completions.create(model="tiny", messages=turn("?"), max_tokens=1)
    assert answer._request_id.startswith("req_")
    lines = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"trace-7 127\.0\.0\.1 GET '/v1/models' status=401 .* seconds=\d\.\d{3}", lines[0])
    posted = next(line for line in lines if answer._request_id in line)
    assert "POST '/v1/chat/completions' status=200" in posted and "received=0" not in posted
    assert not any("secret" in line for line in lines)


def test_it_is_ready_only_while_the_models_thread_runs(serve, engine, monkeypatch):
    address = serve()
    assert httpx.get(f"{address}/ready").json() == {"ready": True}

    def dies(self, admitted):
        raise SystemExit  # not an Exception, so nothing in the thread catches it

    monkeypatch.setattr("lalm.serve.scheduler.Scheduler._step", dies)
    broken = httpx.post(f"{address}/v1/chat/completions", json=ASKED, timeout=30)
    assert broken.status_code == 500
    for path in ("ready", "health"):
        assert httpx.get(f"{address}/{path}").status_code == 503
    assert httpx.post(f"{address}/v1/chat/completions", json=ASKED, timeout=30).status_code == 429


@pytest.fixture
def two_models(tiny, monkeypatch):
    """An application of the models a, b and c, two of them open at a time; and how often each was opened."""
    monkeypatch.setattr("lalm.serve.model_pool.QUIET_S", 0.0)
    opened: list[str] = []

    def opener(name: str):
        def load() -> Engine:
            opened.append(name)
            torch.manual_seed(ord(name))
            return Engine(*tiny("acdc"), name)

        return load

    loaders = {name: opener(name) for name in "abc"}
    return create_app(loaders["a"](), Settings(models=2, open_s=0.5), loaders), opened


def test_models_are_chosen_by_name_and_opened_when_asked_for(two_models, monkeypatch):
    app, opened = two_models
    step, go, held = Scheduler._step, threading.Event(), []
    go.set()

    def when_told(self, admitted):
        if not go.is_set():
            held.append(self)
        assert go.wait(60)
        step(self, admitted)

    monkeypatch.setattr(Scheduler, "_step", when_told)

    async def ask() -> None:
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as asking,
        ):

            async def chat(model: str | None, **more) -> httpx.Response:
                body = {**ASKED, **more, **({"model": model} if model else {})}
                return await asking.post("/v1/chat/completions", json=body, timeout=60)

            listed = (await asking.get("/v1/models")).json()["data"]
            assert [(one["id"], one["lalm"]["open"]) for one in listed] == [
                ("a", True),
                ("b", False),
                ("c", False),
            ]
            assert opened == ["a"] and (await chat(None)).json()["model"] == "a"
            assert (await chat("b")).json()["model"] == "b" and opened == ["a", "b"]
            assert (await chat("a")).status_code == 200 and opened == ["a", "b"]
            assert (await chat("c")).json()["model"] == "c" and opened == ["a", "b", "c"]
            states = {
                one["id"]: one["lalm"]["open"] for one in (await asking.get("/v1/models")).json()["data"]
            }
            assert states == {"a": True, "b": False, "c": True}  # b was asked least recently
            assert "lalm_models_open 2.0" in (await asking.get("/metrics")).text
            unknown = await chat("d")
            assert unknown.status_code == 404 and "there is 'a' and 'b' and 'c'" in unknown.text
            go.clear()
            long = [asyncio.create_task(chat(name)) for name in "ac"]
            while len(set(held)) < 2:
                await asyncio.sleep(0.02)
            full = await chat("b")
            go.set()
            assert full.status_code == 429 and "in use: try again later" in full.text
            assert [(await one).status_code for one in long] == [200, 200]
            assert (await chat("b")).json()["model"] == "b"

    asyncio.run(ask())


def test_models_share_what_they_have_in_common(tiny, engine):
    def opened(seed: int) -> Engine:
        torch.manual_seed(seed)
        other = Engine(*tiny("acdc"), str(seed))
        add_lora(other.model, {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "v_proj"]})
        for name, weight in other.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight)
        return other

    asked = [ask([], "What?")]
    before = engine.reply(asked, Options(8))[0].text
    first, second = opened(1), opened(2)
    said = [one.reply(asked, Options(8))[0].text for one in (first, second)]
    assert share_weights(first.model, [engine.model]) == share_weights(
        second.model, [first.model, engine.model]
    )
    llm = sum(p.nbytes for n, p in engine.model.named_parameters() if "language_model" in n)
    places = [{p.data_ptr() for p in one.model.parameters()} for one in (engine, first, second)]
    own = [p.nbytes for p in second.model.parameters() if p.data_ptr() not in places[0] | places[1]]
    assert len(places[0] & places[1] & places[2]) > 20
    assert sum(own) < 0.2 * llm  # the connector and LoRA
    assert [one.reply(asked, Options(8))[0].text for one in (first, second)] == said != [before, before]
    assert engine.reply(asked, Options(8))[0].text == before


def test_the_unit_of_systemd_is_one(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    text = (DEPLOY / "lalm.service").read_text().replace("/opt/lalm/bin/lalm", "/bin/true")
    (tmp_path / "lalm.service").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "lalm.service")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "lalm.service" not in done.stderr


def test_it_speaks_tls(engine, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    subprocess.run([*make, *names, *files], check=True, capture_output=True)
    tls = Tls(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    listening = listen(Place("127.0.0.1", 0, None))
    server = uvicorn.Server(config(create_app(engine), patience_s=5, tls=tls))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    trusted = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    address = f"https://localhost:{listening.getsockname()[1]}"
    try:
        assert httpx.get(f"{address}/ready", verify=trusted).json() == {"ready": True}
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/ready")
    finally:
        server.should_exit = True
        thread.join(20)
    with pytest.raises(ValueError, match="are no certificate with its key"):
        Tls(str(tmp_path / "key.pem"), str(tmp_path / "cert.pem"))


@pytest.mark.parametrize(
    "words, said",
    [
        (["--tls-certificate", "a.pem"], "--tls-certificate and --tls-key go together"),
        (
            ["--tls-certificate", "a.pem", "--tls-key", "b.pem"],
            "there is no file 'a.pem' with the TLS certificate",
        ),
        (["--model", "a"], "--model takes NAME=FOLDER, not 'a'"),
        (["--model", "a=x", "--model", "a=y"], "--model names 'a' twice"),
        (["--model", "a=nowhere", "--port", "0"], "nowhere"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_sentence(capsys, words, said):
    assert run(["serve", *words]) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.splitlines()) == 1


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def request(name: str, **body) -> dict:
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {**ASKED, **body}}


def test_a_file_of_requests_becomes_a_file_of_answers(engine, tmp_path):
    asked, out = tmp_path / "asked.jsonl", io.StringIO()
    heard = [{"role": "user", "content": [part(wav(0.3)), {"type": "text", "text": "What?"}]}]
    rows = [request("plain"), request("sound", messages=heard), request("odd", top_k="many")]
    rows.append({**request("reply"), "url": "/v1/responses", "body": {"input": "?", "max_output_tokens": 2}})
    asked.write_text(lines(*rows))
    app = create_app(engine, Settings(rows=2, waiting=1))  # a full queue is waited for
    assert asyncio.run(answer_file(app, [*read_requests(asked)], out, 4)) == 1
    found = {row["custom_id"]: row for row in map(json.loads, out.getvalue().splitlines())}
    assert set(found) == {"plain", "sound", "odd", "reply"}
    assert found["plain"]["response"]["body"]["choices"][0]["message"]["content"]
    assert found["plain"]["error"] is None and found["plain"]["response"]["request_id"].startswith("req_")
    assert found["sound"]["response"]["body"]["usage"]["prompt_tokens_details"]["audio_tokens"] > 0
    assert found["odd"]["response"]["status_code"] == 400
    assert found["reply"]["response"]["body"]["object"] == "response"
    done = tmp_path / "out.jsonl"
    done.write_text(out.getvalue().splitlines()[0] + "\n" + '{"custom_id": "cut')
    assert len(answered(done)) == 1 and done.read_text().endswith("}\n")


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "asked.jsonl:1: this line is not JSON"),
        (lines({"body": {}}), ":1: a request needs a custom_id and a body"),
        (lines(request("a"), request("a")), ":2: the custom_id 'a' is there twice"),
        (lines({**request("a"), "url": "/v1/images"}), ":1: url must be one of /v1/chat/completions"),
        (lines(request("a", stream=True)), ":1: an answer in a file is no stream"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_before_anything_is_asked(tmp_path, text, said):
    (tmp_path / "asked.jsonl").write_text(text)
    with pytest.raises(BatchError, match=re.escape(said)):
        [*read_requests(tmp_path / "asked.jsonl")]


def test_the_files_in_deploy_use_options_that_exist():
    service = re.search(r"^ExecStart=(.*)$", (DEPLOY / "lalm.service").read_text(), re.M)
    docker = re.search(r"^ENTRYPOINT (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.M)
    assert service is not None and docker is not None
    context = get_command(command)
    known = {option for one in context.commands["serve"].params for option in one.opts}
    for words in (shlex.split(service[1]), json.loads(docker[1])):
        assert Path(words[0]).name == "lalm" and words[1] == "serve"
        assert {word for word in words if word.startswith("--")} <= known


def test_the_official_client_lists_the_models(serve, client):
    asked = client(serve())
    assert [model.id for model in asked.models.list()] == ["tiny"]
    with pytest.raises(openai.NotFoundError):
        asked.models.retrieve("gpt-9")
