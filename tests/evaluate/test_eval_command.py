"""`lalm eval` as people call it: a tiny model, an endpoint, bad inputs; and the same tokens everywhere."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from lalm.cli.app import run
from lalm.data.mixture import Mixture, open_manifest, text_tokens
from lalm.data.sample import Sample, ask, write_manifest
from lalm.evaluate.answering import Local
from lalm.evaluate.items import open_task
from lalm.evaluate.run import Job
from lalm.evaluate.run import run as evaluated
from lalm.inference.engine import Engine
from lalm.models.save import save_model
from lalm.training.batches import Batches, Collator

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [
        Sample(
            ask([str(SAMPLES / f"{name}.ogg")], f"Is there a {name}?").messages,
            id=name,
            task="presence",
            references=("yes",),
        )
        for name in ("bird", "horse", "train")
    ]
    write_manifest(path, rows)
    return path


def test_a_tiny_model_is_evaluated_and_compared(tiny, tmp_path, manifest, capsys):
    model, processor = tiny("acdc")
    save_model(model, processor, tmp_path / "model", slim=False)
    task = tmp_path / "mine.yaml"
    task.write_text("mine: {about: x, metrics: [names], max_new_tokens: 4}\n")
    out = tmp_path / "out"
    words = ["eval", str(tmp_path / "model"), "--task", f"{task}={manifest}", "--out", str(out)]
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert "mine" in shown and "names" in shown and "report.html" in shown
    card = json.loads((out / "card.json").read_text())
    assert card["model"]["kind"] == "local" and len(card["model"]["weights"]) == 32
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert {row["id"] for row in rows} == {"bird", "horse", "train"}
    heard = [row for row in rows if row["control"] == "audio"]
    assert all(row["heard_s"] and row["given_s"][0] > 1 for row in heard) and len(heard) == 3
    assert all(abs(row["accounts"][0]["decoded_s"] - row["given_s"][0]) < 0.002 for row in heard)
    assert {row["control"] for row in rows} >= {"silent", "noise", "shuffled", "text_only", "first_half"}
    assert "audio reliance" in shown and "no slot at all (text only)" in shown
    assert run(["compare", str(out), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["difference"]["mean"] == 0
    assert run([*words, "--lora-scale", "2", "--json"]) == 2
    assert "holds a run of model with another model" in capsys.readouterr().err


class Handler(BaseHTTPRequestHandler):
    """Answers "Yes" to whoever sends audio."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = body["messages"][-1]["content"]
        heard = [part["type"] for part in parts].count("input_audio")
        text = "Yes" if heard == 1 and body["temperature"] == 0 else "no"
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        reply = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 99}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *words):
        pass


def test_an_endpoint_is_evaluated(manifest, tmp_path, capsys):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    words = [
        "eval",
        "their-model",
        "--url",
        url,
        "--task",
        f"manifest={manifest}",
        "--out",
        str(tmp_path / "o"),
    ]
    try:
        assert run([*words, "--controls", "--json"]) == 0
    finally:
        server.shutdown()
    card = json.loads(capsys.readouterr().out)
    entry = card["tasks"]["presence"]
    assert entry["metrics"]["accuracy"]["mean"] == 1 and entry["seconds_heard"] is None
    assert card["model"] == {"name": "their-model", "kind": "endpoint", "url": url}
    assert entry["seconds_given"] == pytest.approx(3.0 + 1.8 + 2.1, abs=0.2)
    assert "impossible" in entry["controls"]["cascade"]  # these items have no caption


def test_several_tasks_go_on_past_one_whose_data_is_not_there(manifest, tmp_path, capsys):
    rows = [json.dumps({"id": name, "text": "yes"}) for name in ("bird", "horse", "train")]
    (tmp_path / "said.jsonl").write_text("\n".join(rows) + "\n")
    asked = f"mmau,manifest={manifest},clotho"
    words = ["eval", str(tmp_path / "said.jsonl"), "--data", str(tmp_path), "--out", str(tmp_path / "o")]
    assert run([*words, "--task", asked, "--json"]) == 0
    found = capsys.readouterr()
    assert set(json.loads(found.out)["tasks"]) == {"presence"}
    assert "left out: mmau: there is no" in found.err and "left out: clotho: there is no" in found.err
    assert run([*words, "--task", "mmau,clotho"]) == 2
    assert run([*words, "--task", f"nonsense,manifest={manifest}"]) == 2  # a name that is nowhere is refused


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["eval"], "there is nothing to ask: say --task NAME"),
        (["eval", "--task", "nonsense"], "there is no task 'nonsense'; `lalm tasks` lists"),
        (["eval", "--task", "presence"], "the task 'presence' needs its file"),
        (["eval", "--task", "manifest=MANIFEST", "--url", "localhost"], "--url needs the endpoint's model"),
        (["eval", "m", "--task", "manifest=MANIFEST", "--url", "localhost"], "--url must begin with http"),
        (["eval", "m", "--task", "manifest=MANIFEST"], "there is no model folder 'm'"),
        (["eval", "gone.jsonl", "--task", "manifest=MANIFEST"], "there is no file of answers 'gone.jsonl'"),
        (["eval", "said.csv", "--task", "manifest=MANIFEST"], "answers made elsewhere are JSON lines"),
        (["eval", "--task", "manifest=MANIFEST", "--resource", "x"], "--resource takes NAME=FOLDER"),
        (["eval", "--task", "manifest=MANIFEST", "--judge-url", "http://x"], "need --judge"),
        (["eval", "--samples", "-1", "--task", "presence"], "Invalid value for '--samples'"),
        (["eval", "http://x/v1", "--task", "manifest=MANIFEST"], "an endpoint is given by --url"),
        (["eval", "--task", "manifest=MANIFEST", "--resource", "meteor=."], "has no meteor-1.5.jar"),
        (["compare", "a", "b"], "'a' is no folder of `lalm eval`"),
        (["agree", "a", "b"], "there is no file 'a'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(words, error, manifest, capsys):
    assert run([word.replace("MANIFEST", str(manifest)) for word in words]) == 2
    said = capsys.readouterr().err.strip()
    assert error in said and "\n" not in said


def test_a_library_that_is_not_there_is_named_before_anything_is_asked(manifest, monkeypatch, capsys):
    monkeypatch.setattr("lalm.cli.eval.LIBRARIES", ("json", "jiwer_of_tomorrow"))
    assert run(["eval", "--task", f"manifest={manifest}"]) == 2
    said = capsys.readouterr().err
    assert "needs jiwer_of_tomorrow, which is not installed: pip install 'lalm[evaluate]'" in said


def test_training_serving_and_evaluation_read_one_example_as_the_same_tokens(
    tiny, manifest, tmp_path, monkeypatch
):
    """The prompt of a training row, of an OpenAI request and of an evaluated item, token by token."""
    model, processor = tiny("acdc")
    rendered: list[list[int]] = []
    generate = model.generate

    def noting(**inputs):
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            rendered.append(ids[mask.bool()].tolist())
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", noting)
    engine = Engine(model, processor, "tiny")
    opened = open_task(f"manifest={manifest}", tmp_path)
    (task,) = opened
    small = task.task.model_copy(update={"max_new_tokens": 2})
    evaluated(Job([type(task)(small, task.samples[:1], task.source)], tmp_path / "out"), Local(engine))

    item = task.samples[0]
    served = Sample.from_openai(item.to_openai())
    engine.reply([served])
    write_manifest(tmp_path / "train.jsonl", [item.with_target("Yes.")])
    mixture = Mixture([(open_manifest(tmp_path / "train.jsonl"), 1.0)], text_tokens, batch_size=1)
    row = Collator(processor, processor.clips)([Batches(mixture, 1)[0]])
    first = int((row["labels"][0] != -100).nonzero()[0])
    rendered.append(row["input_ids"][0, :first].tolist())
    assert len(rendered) == 3 and rendered[0] == rendered[1] == rendered[2]
    assert processor.audio_token_id in rendered[0] and torch.tensor(rendered[0]).unique().numel() > 10
