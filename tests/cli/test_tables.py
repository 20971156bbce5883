"""Tables of ``ask``, ``classify`` and ``detect``: patterns, errors as rows, and a second run that goes on."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_parts import noise

from lalm.cli import app as cli
from lalm.inference.engine import Engine, Heard, Reply
from lalm.models.processing import AudioLMProcessor


class Fake:
    """An engine that decodes, and answers every question with the same words."""

    name = "fake"

    def __init__(self, answer: str) -> None:
        self.answer, self.asked = answer, 0

    def reply(self, samples: Any, options: Any, errors: str = "raise") -> list[Any]:
        return [self._one(sample, errors) for sample in samples]

    def _one(self, sample: Any, errors: str) -> Any:
        self.asked += 1
        try:
            clips = AudioLMProcessor.clips(sample)
        except ValueError as error:
            if errors == "raise":
                raise
            return error
        heard = tuple(Heard(clip.name, clip.seconds, clip.seconds, clip.account) for clip in clips)
        return Reply(self.answer, heard, 0.0, 0.0, 0.0, 1)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder with ``calls``: two recordings, one of them without a suffix, and a broken one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lalm.cli.weights.fetch_for", lambda model: None)
    noise(tmp_path / "calls" / "a.wav", 1.0, seed=1)
    noise(tmp_path / "calls" / "sub" / "b.wav", 0.5, seed=2).rename(tmp_path / "calls" / "b")
    (tmp_path / "calls" / "broken.wav").write_bytes(b"RIFF0000WAVE")
    for label in ("dog", "rain"):
        noise(tmp_path / "support" / label / "1.wav", 0.2)
    return tmp_path


def opened(monkeypatch: pytest.MonkeyPatch, answer: str) -> Fake:
    engine = Fake(answer)
    monkeypatch.setattr(Engine, "load", classmethod(lambda cls, *_: engine))
    return engine


def rows(path: Path) -> dict[str, dict[str, Any]]:
    with path.open(newline="") as file:
        found = csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
        return {row["audio"]: row for row in found}


COMMANDS = {
    "ask": (["calls/*", "What do you hear?"], "answer", "rain"),
    "detect": (["calls/*", "rain", "a dog"], "sounds", '"onset_s": 0.2'),
    "classify": (["calls/*", "--support", "support", "--how", "words"], "label", "rain"),
}
ANSWERS = {"ask": "rain", "detect": "0.2s-0.4s.", "classify": "It is rain."}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_of_a_pattern(command, kind, calls, monkeypatch, capsys) -> None:
    words, column, said = COMMANDS[command]
    engine, out = opened(monkeypatch, ANSWERS[command]), calls / f"t.{kind}"
    assert cli.run([command, *words, "--out", str(out)]) == 0
    error = capsys.readouterr().err
    assert "3 rows in" in error and "1 of them errors" in error and "time left 0:00:0" in error
    found = rows(out)
    assert list(found) == ["calls/a.wav", "calls/b", "calls/broken.wav"]
    text = found["calls/a.wav"][column]
    assert said in (text if isinstance(text, str) else json.dumps(text))
    assert float(found["calls/b"]["decoded_s"]) == 0.5 and found["calls/b"]["codec"] == "pcm_16"
    assert "is not audio" in found["calls/broken.wav"]["error"]
    asked, engine.asked = engine.asked, 0
    noise(calls / "calls" / "broken.wav", 0.3)
    assert cli.run([command, *words, "--out", str(out)]) == 0
    assert 0 < engine.asked < asked and not rows(out)["calls/broken.wav"].get("error")
    if command != "classify":
        assert cli.run([command, *words[:-1], "something else", "--out", str(out)]) == 2
        assert "holds answers to another question" in capsys.readouterr().err


def test_a_killed_run_goes_on(calls, monkeypatch, capsys) -> None:
    opened(monkeypatch, "rain, then\nwind")
    for kind in ("csv", "jsonl"):
        out = calls / f"t.{kind}"
        assert cli.run(["ask", "calls", "?", "--out", str(out)]) == 0
        whole = rows(out)
        out.write_bytes(out.read_bytes()[:-30])  # the last row is not all there
        assert cli.run(["ask", "calls", "?", "--out", str(out)]) == 0
        assert rows(out) == whole and whole["calls/a.wav"]["answer"] == "rain, then\nwind"


def test_choices_are_kept_in_tables(calls, monkeypatch) -> None:
    opened(monkeypatch, "0.2s-0.4s. It is rain.")
    out = calls / "t.jsonl"
    for command in COMMANDS:
        words = [word.replace("calls/*", "calls/a.wav") for word in COMMANDS[command][0]]
        assert cli.run([command, *words, "--channel", "1", "--out", str(out)]) == 0
        assert "has 1 channel" in rows(out)["calls/a.wav"]["error"]
        assert cli.run([command, *words, "--channel", "0", "--lenient", "--out", str(out)]) == 0
        assert rows(out)["calls/a.wav"]["channels"] == [0]
        out.unlink()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ask", "calls", "What?"], "'calls' is a folder: with --out TABLE.csv"),
        (["ask", "calls/*", "What?"], "'calls/*' is a pattern: with --out TABLE.csv"),
        (["detect", "calls/*", "rain"], "'calls/*' is a pattern"),
        (["classify", "calls", "--support", "support"], "'calls' is a folder"),
        (["ask", "no/*", "What?", "--out", "t.csv"], "no file fits no/*"),
        (["detect", "calls", "--out", "t.csv"], "name recordings and what to look for"),
        (["detect", "calls", "rain", "--json", "--out", "t.csv"], "no --labels, --picture or --json"),
        (["classify", "calls", "--support", "support", "--out", "t.txt"], "writes .csv or .jsonl"),
        (["chat", "missing.wav", "What?"], "there is no file 'missing.wav'"),
        (["chat", "What is in missing.mp3?"], "there is no file 'missing.mp3'"),
        (["chat", "calls/", "What?"], "is a folder, not a recording"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_model_is_loaded(
    words, said, calls, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(Engine, "load", classmethod(lambda cls, *_: pytest.fail("the model was loaded")))
    assert cli.run(words) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1, error
