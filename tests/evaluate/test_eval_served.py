"""`lalm eval` of our own server as an endpoint, and by two processes that share the work."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import uvicorn

from lalm.cli.app import run
from lalm.cli.serve import Place, listen
from lalm.data.mixture import Mixture, open_manifest, text_tokens
from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, ask, write_manifest
from lalm.inference import device as engines
from lalm.inference.engine import Engine
from lalm.models.processing import AudioLMProcessor
from lalm.models.save import save_model
from lalm.serve.app import create_app
from lalm.training.batches import Batches, Collator

SAMPLES = Path(__file__).parents[2] / "samples"
TASK = "mine: {about: x, metrics: [names, perplexity], max_new_tokens: 4}\n"


@contextmanager
def served(engine: Engine) -> Iterator[str]:
    """The address of a server while it runs."""
    listening = listen(Place("127.0.0.1", 0, None))
    server = uvicorn.Server(uvicorn.Config(create_app(engine), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [
        Sample(
            ask([str(SAMPLES / f"{name}.ogg")], f"Is there a {name}?").messages, id=name, references=("yes",)
        )
        for name in ("bird", "horse", "train")
    ]
    write_manifest(tmp_path / "questions.jsonl", rows)
    (tmp_path / "mine.yaml").write_text(TASK)
    return tmp_path / "questions.jsonl"


def answers(folder: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return {row["id"]: row["text"] for row in rows}


def test_the_server_answers_as_the_model_does_and_all_three_read_the_same_tokens(
    tiny, manifest, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(engines, "pick_dtype", lambda device: torch.float32)  # rounding decides no token
    torch.manual_seed(0)
    model, processor = tiny("acdc")
    save_model(model, processor, tmp_path / "model", slim=False)
    rendered: list[list[int]] = []
    batch = AudioLMProcessor.batch

    def noting(self, *given, **more):
        made = batch(self, *given, **more)
        if not more.get("labels"):
            for ids, mask in zip(made["input_ids"], made["attention_mask"], strict=True):
                rendered.append(ids[mask.bool()].tolist())
        return made

    monkeypatch.setattr(AudioLMProcessor, "batch", noting)
    task = ["--task", f"{tmp_path / 'mine.yaml'}={manifest}", "--json"]
    words = ["eval", str(tmp_path / "model"), *task, "--no-controls"]
    assert run([*words, "--out", str(tmp_path / "local")]) == 0
    local, rendered[:] = sorted(rendered), []
    card = json.loads(capsys.readouterr().out)["tasks"]["mine"]
    found = card["metrics"]["perplexity"]
    assert found["low"] <= found["mean"] <= found["high"] and found["mean"] > 1 and not found["percent"]
    with served(Engine.load(str(tmp_path / "model"), "cpu")) as url:
        assert run(["eval", "model", "--url", url, *task, "--out", str(tmp_path / "far")]) == 0
    served_tokens = sorted(rendered)
    card = json.loads(capsys.readouterr().out)["tasks"]["mine"]
    assert "needs a local model" in card["skipped"]["perplexity"]
    assert answers(tmp_path / "far") == answers(tmp_path / "local")
    assert len(local) == 3 and served_tokens == local
    write_manifest(tmp_path / "train.jsonl", [s.with_target("Yes.") for s in read_manifest(manifest)])
    mixture = Mixture([(open_manifest(tmp_path / "train.jsonl"), 1.0)], text_tokens, batch_size=3)
    rows = Collator(processor, processor.clips)([Batches(mixture, 1)[0]])
    trained = []
    for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
        trained.append(ids[: int((labels != -100).nonzero()[0])].tolist())
    assert sorted(trained) == local


def test_two_processes_share_a_run(tiny, manifest, tmp_path, crew):
    torch.manual_seed(0)
    model, processor = tiny("acdc")
    save_model(model, processor, tmp_path / "model", slim=False)
    task = f"{tmp_path / 'mine.yaml'}={manifest}"
    words = ["eval", str(tmp_path / "model"), "--task", task, "--no-controls"]
    assert run([*words, "--out", str(tmp_path / "one")]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    to = ["--device", "cpu", "--out", str(tmp_path / "two")]
    code = f"import sys; from lalm.cli.app import run; sys.exit(run({[*words, *to]}))"
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    together |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    codes = crew(code, [{**together, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"], tmp_path / "said")
    told = [(tmp_path / f"said{rank}").read_text() for rank in (0, 1)]
    assert codes == [0, 0], told
    assert "report.html" in told[0] and "report.html" not in told[1]
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    assert [path.name for path in (tmp_path / "two").glob("predictions*")] == ["predictions.jsonl"]
