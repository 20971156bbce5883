"""One item that fails is one item: recordings, long questions, requests refused; answers made elsewhere."""

import io
import json
import sys
import threading
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from lalm.audio.load import AudioError
from lalm.cli.app import run as lalm
from lalm.cli.eval import prices
from lalm.cli.opening import progress_bar, time_left
from lalm.data.sample import Sample, ask, write_manifest
from lalm.evaluate.answering import Endpoint, Local
from lalm.evaluate.compare import CompareError, compare
from lalm.evaluate.items import Asked, open_task
from lalm.evaluate.recorded import Recorded
from lalm.evaluate.run import Job, run
from lalm.evaluate.said import Said, rows_of
from lalm.inference.engine import Engine, TooLongError
from lalm.synthesis import completions
from lalm.synthesis.completions import CompletionError, EndpointWriter

SAMPLES = Path(__file__).parents[2] / "samples"
NAMES = ("bird", "horse", "train", "water")


def manifest(folder: Path, *names: str, question: str = "Is there a {}?") -> list[Asked]:
    """One item a name; a name that is no sample is a file that cannot be read."""
    rows = []
    for name in names:
        path = SAMPLES / f"{name}.ogg"
        if not path.is_file():
            path = folder / f"{name}.ogg"
            path.write_bytes(b"OggS but not much of it")
        made = ask([str(path)], question.format(name)).messages
        rows.append(Sample(made, id=name, references=("yes",), origin={"recording": name}))
    write_manifest(folder / "rows.jsonl", rows)
    (folder / "t.yaml").write_text("t: {about: x, parser: yes_no, metrics: [accuracy], max_new_tokens: 4}")
    return open_task(f"{folder / 't.yaml'}={folder / 'rows.jsonl'}", folder)


class Yes:
    """Says yes."""

    name = "yes"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, keys, samples, decoding):
        self.asked += [key.id for key in keys]
        return [Said("Yes.", (1.0,)) for _ in keys]


def test_a_recording_that_cannot_be_read_is_one_item_that_failed(tiny, tmp_path):
    model, processor = tiny("acdc")
    answerer = Local(Engine(model, processor, "tiny"))
    card = run(
        Job(manifest(tmp_path, "bird", "broken", "horse"), tmp_path / "out", ("silent",)), answerer
    ).card
    entry = card["tasks"]["t"]
    assert card["finished"] and entry["failed_items"] == 1 and entry["metrics"]["accuracy"]["num_items"] == 2
    assert "broken.ogg" in entry["failures"]["broken"]
    assert entry["controls"]["silent"]["metrics"]["accuracy"]["num_items"] == 2
    rows = {(r["control"], r["id"]): r for _, r in rows_of(tmp_path / "out" / "predictions.jsonl")}
    assert rows["audio", "broken"]["failed"] and rows["silent", "broken"]["failed"]
    assert rows["audio", "bird"]["finish_reason"] and "failed" not in rows["audio", "bird"]
    assert "1 items failed and are left out" in (tmp_path / "out" / "report.html").read_text()


def test_a_question_too_long_for_the_model_counts_as_wrong(tmp_path, monkeypatch):
    class Short:
        name = "short"

        def reply(self, samples, options, *, errors, arrived):
            for number, _ in enumerate(samples):
                arrived(number, TooLongError("too long") if number else AudioError("cannot be read"))

    entry = run(Job(manifest(tmp_path, *NAMES), tmp_path / "out"), _local(Short(), monkeypatch)).card[
        "tasks"
    ]["t"]
    assert (entry["too_long"], entry["failed_items"]) == (3, 1)
    assert entry["metrics"]["accuracy"]["mean"] == 0.0 and entry["metrics"]["accuracy"]["num_items"] == 3


def _local(engine, monkeypatch) -> Local:
    monkeypatch.setattr(
        "lalm.evaluate.card.model_card", lambda answerer, folder: {"name": "m", "kind": "endpoint"}
    )
    local = Local(engine)
    monkeypatch.setattr(local, "sharing", nullcontext)  # it has no encoder
    return local


def test_what_the_model_itself_refuses_still_ends_the_run(tmp_path, monkeypatch):
    class Refusing:
        name = "refusing"

        def reply(self, samples, options, *, errors, arrived):
            arrived(0, ValueError("a LoRA scale is for a model with LoRA"))

    with pytest.raises(ValueError, match="LoRA"):
        run(Job(manifest(tmp_path, "bird"), tmp_path / "out"), _local(Refusing(), monkeypatch))


def test_failed_items_are_asked_again_and_the_rest_is_not(tmp_path):
    tasks = manifest(tmp_path, "bird", "broken")
    first = Yes()
    run(Job(tasks, tmp_path / "out", ("silent",)), first)
    log = tmp_path / "out" / "predictions.jsonl"
    assert sum(bool(row.get("failed")) for _, row in rows_of(log)) == 1  # silent: its recording is read
    again = Yes()
    run(Job(tasks, tmp_path / "out", ("silent",)), again)
    assert first.asked == ["bird", "bird", "broken"] and again.asked == []
    failing = [json.loads(line) for line in log.read_text().splitlines()]
    failing[0] |= {"text": "", "failed": "HTTP 400: not now"}
    log.write_text("".join(json.dumps(row) + "\n" for row in failing))
    card = run(Job(tasks, tmp_path / "out", ("silent",)), again).card
    assert again.asked == [failing[0]["id"]] and "failed_items" not in card["tasks"]["t"]


class Picky(BaseHTTPRequestHandler):
    """An endpoint that counts tokens and refuses what asks about a horse."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        usage = b'"usage": {"prompt_tokens": 100, "completion_tokens": 5}'
        answer = b'{"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}], %s}' % usage
        refused = b"horse" in body
        self.send_response(400 if refused else 200)
        answer = b'{"error": "too large"}' if refused else answer
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        return


def test_a_refused_request_is_one_item_and_tokens_are_counted(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Picky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    writer = EndpointWriter(url, "m", tries=2, pause_s=0.01, concurrency=1, bare=False)
    card = run(Job(manifest(tmp_path, *NAMES), tmp_path / "out", price=(2.0, 10.0)), Endpoint(writer)).card
    assert card["tasks"]["t"]["failed_items"] == 1 and "HTTP 400" in card["tasks"]["t"]["failures"]["horse"]
    assert card["tokens"] == {"prompt": 300, "answer": 15, "answers": 3, "dollars": 0.0008}
    server.shutdown()
    server.server_close()
    assert prices("0.15,0.60") == (0.15, 0.6) and prices(None) is None
    with pytest.raises(ValueError, match="--price takes two numbers"):
        prices("cheap")


def test_an_endpoint_that_stops_answering_is_told_and_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(completions.time, "sleep", lambda seconds: None)
    writer = EndpointWriter("http://x", "m", tries=2, patient_tries=8, concurrency=1, bare=False)
    good = {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}
    replies = [httpx.Response(200, json=good), *[httpx.Response(503, text="busy") for _ in range(8)]]
    monkeypatch.setattr(writer._client, "post", lambda *_, **__: replies.pop(0))
    with pytest.raises(CompletionError, match=r"does not answer: HTTP 503: busy \(8 tries\)"):
        run(Job(manifest(tmp_path, *NAMES[:2]), tmp_path / "out"), Endpoint(writer))
    told = [record.message for record in caplog.records if "asked again in" in record.message]
    assert told and "HTTP 503: busy" in told[0]
    kept = [row for _, row in rows_of(tmp_path / "out" / "predictions.jsonl")]
    assert [row["text"] for row in kept] == ["Yes."]


def test_partial_files_are_counted_official_ids_taken_and_second_answers_refused(tmp_path, capsys):
    manifest(tmp_path, *NAMES)
    theirs = [{"id": name, "model_output": "Yes.", "task": "sound"} for name in NAMES[:3]]
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    words = [
        "eval",
        str(tmp_path / "theirs.json"),
        "--task",
        f"{tmp_path / 't.yaml'}={tmp_path / 'rows.jsonl'}",
    ]
    assert lalm([*words, "--out", str(tmp_path / "out")]) == 0
    assert "t: 1 items have no answer in the file and are left out" in capsys.readouterr().out
    entry = json.loads((tmp_path / "out" / "card.json").read_text())["tasks"]["t"]
    assert entry["unanswered"] == 1 and entry["metrics"]["accuracy"]["num_items"] == 3
    (tmp_path / "theirs.json").write_text(json.dumps([*theirs[1:], {"id": "brid", "response": "Yes."}]))
    assert lalm([*words, "--out", str(tmp_path / "odd")]) == 0
    assert "1 answers belong to no item that was asked, 'brid' for one" in capsys.readouterr().err
    (tmp_path / "twice.json").write_text(json.dumps([*theirs, theirs[0]]))
    with pytest.raises(ValueError, match=r"twice\.json:3: a second answer to 'bird'"):
        Recorded(tmp_path / "twice.json")


def test_runs_are_compared_on_the_items_that_both_have(tmp_path):
    for name, items in (("a", NAMES[:3]), ("b", NAMES[1:])):
        (tmp_path / name).mkdir()
        run(Job(manifest(tmp_path / name, *items), tmp_path / name / "out"), Yes())
    (row,) = compare(tmp_path / "a" / "out", tmp_path / "b" / "out")
    assert (row.shared, row.items_a, row.items_b, row.difference.num_items) == (2, 3, 3, 2)
    (tmp_path / "c").mkdir()
    run(Job(manifest(tmp_path / "c", *NAMES, question="Do you hear a {}?"), tmp_path / "c" / "out"), Yes())
    with pytest.raises(CompareError, match="differ in"):
        compare(tmp_path / "a" / "out", tmp_path / "c" / "out")


def test_the_time_left_is_told_from_the_first_answer(capsys):
    assert time_left(90.0, 1, 41) == "1:00:00" and time_left(None, 0, 41) == time_left(5.0, 0, 4) == "-:--:--"
    with progress_bar("answers") as progress:
        progress(0, 2)
        progress(1, 2)
    assert "1/2" in capsys.readouterr().err


def test_progress_on_a_terminal_leaves_standard_output_to_its_file(monkeypatch):
    """``lalm transcribe talk.mp3 > talk.txt``: the text is for the file, not for the terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    written, terminal = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stdout", written)
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar("talk.mp3, seconds", transient=True) as progress:
        progress(1, 2)
        print("a long line " * 20)
    assert written.getvalue() == "a long line " * 20 + "\n"
    assert "a long line" not in terminal.getvalue() and "talk.mp3" in terminal.getvalue()
