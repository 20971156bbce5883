"""A metric and a task of one's own: the examples of docs/add-a-metric.md and add-a-task.md, as they stand."""

import json
import re
from pathlib import Path

import pytest
import soundfile

from lalm import systems
from lalm.cli.app import run
from lalm.evaluate import metrics
from lalm.evaluate.task import TaskError, read_tasks

ROOT = Path(__file__).parents[2]
SAID = {"1": "A bell rings.", "2": "A bird sings quite loudly in a tree.", "3": "Water flows."}
RIGHT = {"1": "a bell rings", "2": "the bird calls", "3": "water runs"}


def block(page: str, language: str) -> str:
    """The first block of a language on a page of the docs."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)[0]


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """Own files and their metrics are forgotten afterwards."""
    monkeypatch.setenv(systems.VARIABLE, "")
    known = dict(metrics.METRICS)
    yield
    metrics.METRICS.clear()
    metrics.METRICS.update(known)


def answers(folder: Path, said: dict[str, str]) -> str:
    """A file of answers."""
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in said.items()))
    return str(path)


def test_a_metric_of_ones_own_is_one_file(tmp_path):
    code, task = block("add-a-metric.md", "python"), block("add-a-metric.md", "yaml")
    assert len(code.splitlines()) < 60
    (tmp_path / "own_metric.py").write_text(code)
    (tmp_path / "own_task.yaml").write_text(task)
    rows = []
    for name, text in RIGHT.items():
        turn = {"role": "user", "content": [{"type": "audio", "audio": str(ROOT / "samples" / "bell.flac")}]}
        rows.append(json.dumps({"id": name, "messages": [turn], "references": [text]}))
    (tmp_path / "clips.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(TaskError, match=r"there is no metric 'first_word'.*your own needs --code"):
        read_tasks(tmp_path / "own_task.yaml")
    words = ["eval", answers(tmp_path, SAID), "--task", f"{tmp_path}/own_task.yaml={tmp_path}/clips.jsonl"]
    assert run(["--code", str(tmp_path / "own_metric.py"), *words, "--out", str(tmp_path / "out")]) == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    found = card["tasks"]["short_captions"]["metrics"]
    means = {name: found[name]["mean"] for name in ("first_word", "brief", "length")}
    assert means == {"first_word": pytest.approx(2 / 3), "brief": pytest.approx(2 / 3), "length": 13 / 3}


def test_a_task_of_ones_own_is_an_entry_and_a_table(tmp_path):
    (tmp_path / "own_task.yaml").write_text(block("add-a-task.md", "yaml"))
    (tmp_path / "doors.csv").write_text(block("add-a-task.md", "csv"))
    (tmp_path / "doors").mkdir()
    samples, rate = soundfile.read(ROOT / "samples" / "bell.flac")
    for number in (1, 2):
        soundfile.write(tmp_path / "doors" / f"{number}.wav", samples, rate)
    said = {"doors-1": "It is being opened.", "doors-2": "opened"}
    words = ["eval", answers(tmp_path, said), "--task", f"{tmp_path}/own_task.yaml={tmp_path}/doors.csv"]
    assert run([*words, "--out", str(tmp_path / "out")]) == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["tasks"]["doors"]["metrics"]["accuracy"]["mean"] == 0.5
    asked = json.loads((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()[0])
    assert "Is the door opened or closed?" in json.dumps(asked)
