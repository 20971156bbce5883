"""``lalm reproduce``: plans that hold, runs that go on, intervals that cover, verdicts by the rule."""

import errno
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lalm.cli import reproduce
from lalm.cli.app import run as command
from lalm.data.sample import ask, write_manifest
from lalm.reproduce import experiment as experiments
from lalm.reproduce import steps, verdict_page
from lalm.reproduce.estimates import (
    CONFIRMED,
    NOT_RUN,
)
from lalm.reproduce.interval_figure import figure
from lalm.reproduce.planning import plan
from lalm.training import recipe as recipes

ROOT = Path(__file__).parents[2]
EVERY = [(name, size) for name in experiments.names() for size in experiments.load(name).sizes]


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_every_step_of_every_size_is_a_command_that_there_is(name, size):
    """Recipes load with their changes, tasks are known, and each path is made before it is read."""
    from lalm.evaluate.task import known_tasks

    own = experiments.load(name)
    planned = plan(own, size, data=Path("/corpora"))
    assert planned.steps and len({step.name for step in planned.steps}) == len(planned.steps)
    assert bool(planned.evaluations) == bool(own.contrasts)
    for step in planned.steps:
        for words in step.commands:
            if words[0] == "train":
                changes = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
                recipes.load(words[1], changes)
            if words[0] == "eval":
                asked = words[words.index("--task") + 1].partition("=")
                known = {*known_tasks(), "manifest"}
                assert asked[1] or set(asked[0].split(",")) <= known, asked
    whole = plan(own, size)
    assert not own.contrasts or any(size in one.sizes and one.decides for one in own.contrasts)
    for one in own.contrasts:
        had = {(e.cell, e.set) for e in whole.evaluations}
        later = any(not experiments.seeds_of(own.cells[side.cell], size) for side in (one.plus, one.minus))
        if size in one.sizes and (one.decides or (size == "small" and not later)):
            assert {(one.plus.cell, one.set), (one.minus.cell, one.set)} <= had, one.about


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_every_row_of_every_size_is_a_model_of_its_own(name, size):
    """Also the rows that a size leaves out until they are asked for: what they go on from is made before,
    nothing is made twice, and two rows are never the same model asked in the same way."""
    own = experiments.load(name)
    asked = {}
    for row in [row for row, cell in own.cells.items() if size in cell.sizes]:
        planned, made = plan(own, size, rows=[row]), set()
        for step in planned.steps:
            for words in step.commands:
                text = " ".join(words)
                for start in re.findall(r"(?:init\.from=|init=\{from: )([^\s}]+)", text):
                    assert start in made, (row, step.name, start)
                made |= {word[4:] for word in words if word.startswith("out=")}
            assert not made & {*step.makes}, (row, step.name)
            made |= {*step.makes} | {path.removesuffix("/config.json") for path in step.makes}
        for one in planned.evaluations:
            (words,) = next(step.commands for step in planned.steps if step.name == one.step)
            key = (*words[: words.index("--out")], one.seed if size != "full" else "")
            assert asked.setdefault(key, (row, one.set)) == (row, one.set), key


@pytest.mark.parametrize("name", [name for name in experiments.names() if name != "small"])
def test_size_small_is_planned_for_three_hours(name):
    planned = plan(experiments.load(name), "small")
    assert sum(step.minutes for step in planned.steps) <= 180


@pytest.mark.parametrize("name", [name for name, size in EVERY if size == "full"])
def test_the_papers_own_set_up_is_that_of_the_page_of_manifests(name):
    """docs/manifests.md, whose commands another test runs on small copies of the corpora."""
    text = (ROOT / "docs" / "manifests.md").read_text().replace("\\\n", " ")
    there = {re.sub(r"\s+", " ", line).strip() for line in text.splitlines()}
    planned = plan(experiments.load(name), "full")
    made = [
        steps.shown(replace(step, commands=(words,))) for step in planned.steps for words in step.commands
    ]
    made = [line.replace("DATA/", "") for line in made if line.split()[1] in ("build", "respond", "data")]
    made = [re.sub(r"'(\S+) (\S+)'", r"\1\\ \2", line) for line in made]  # Music Info.csv
    assert len(made) >= 19 and not set(made) - there


@pytest.mark.parametrize(
    ("minutes", "taken", "slow", "told"),
    [
        (40, 120, False, "the steps that are done took 3.0 times their estimates: rather 3.0 h"),
        (40, 44, True, ""),
        (4, 60, False, ""),  # too little to tell
        (4, 60, True, "may take three times as long"),
    ],
)
def test_a_plan_says_how_much_longer_this_machine_takes(monkeypatch, minutes, taken, slow, told):
    monkeypatch.setattr("lalm.inference.device.is_slow", lambda kind: slow)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    step = SimpleNamespace(minutes=minutes)
    found = [steps.State(step, "done", 60.0 * taken, 0.0, ()), steps.State(step, "to do", 0.0, 0.0, ())]
    said = reproduce._slower(found, 60)
    assert (told in said) if told else not said


STEPS = """
title: Steps
sizes: {small: {word: yes}}
steps:
  - {name: one, run: "do one $word", makes: [one]}
  - {name: two, run: ["do two", "do three"], makes: [two, three]}
result: three
"""


def test_a_plan_names_corpora_and_tests_that_are_missing(tmp_path, capsys):
    (tmp_path / "AudioCaps").mkdir()
    (tmp_path / "AudioCaps" / "train.csv").write_text("")
    assert command(["reproduce", "acdc", "--full", "--data", str(tmp_path), "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    missing = [line.split()[-1].removeprefix(f"{tmp_path}/") for line in lines if line.startswith("missing")]
    assert "AudioCaps/val.csv" in missing and "AudioCaps/train.csv" not in missing
    assert "AudioBench/clotho_aqa_test" in missing and "WavCaps/SoundBible_flac" in missing
    assert any(line.startswith("weights meta-llama/Meta-Llama-3-8B-Instruct: ") for line in lines)


def test_a_run_goes_on_where_it_was_killed(tmp_path):
    (tmp_path / "own.yaml").write_text(STEPS)
    own = experiments.load(str(tmp_path / "own.yaml"))
    done: list[str] = []

    def do(words: Sequence[str], broken: str = "") -> int:
        done.append(words[1])
        if words[1] == broken:
            print("lalm: it is dark")
            return 2
        Path(words[1]).write_text("")
        return 0

    planned, work = plan(own, "small"), tmp_path / "work"
    with pytest.raises(
        experiments.ReproduceError, match=r"^two: it is dark \(all of it: '.*two.log'; run again"
    ):
        steps.run(planned, work, lambda words: do(words, "three"), lambda line: None)
    steps.run(planned, work, do, lambda line: None)
    assert done == ["one", "two", "three", "two", "three"]
    assert [one.state for one in steps.states(planned, work)] == ["done", "done"]
    (work / "three").unlink()  # what a step made is gone: it is done again
    assert [one.state for one in steps.states(planned, work)] == ["done", "to do"]
    other = plan(own, "small", changes={"word": "no"})
    with pytest.raises(experiments.ReproduceError, match=r"other settings \(one\): give --work a new folder"):
        steps.run(other, work, do, lambda line: None)


SHARED_OUT = """
title: Several at once
sizes: {small: {word: yes}}
steps: [{name: ground, run: do ground, makes: [ground]}]
cells:
  a: {about: a, run: "do $cell-$seed", model: $cell-$seed, seeds: 2}
  b: {about: b, run: "do $cell-$seed", model: $cell-$seed, after: a}
sets: {asked: {about: asked, eval: --task manifest=x}}
"""
ONE_OF_TWO = """
import sys, time
from pathlib import Path
from lalm.reproduce import experiment, steps
from lalm.reproduce.planning import plan

here, work, me = Path(sys.argv[1]), Path(sys.argv[1]) / "work", sys.argv[2]

def do(words):
    asks = words[0] == "eval"
    while words[1] == "ground" and len([*here.glob("*.here")]) < 2:
        time.sleep(0.01)
    time.sleep(1 if words[1] == "ground" else 0.1)
    made = Path(words[words.index("--out") + 1], "report.html") if asks else Path(words[1], "config.json")
    made.parent.mkdir(parents=True, exist_ok=True)
    made.touch()
    with open(here / "done", "a") as file:
        print(me, *words[:2], file=file)
    return 0

steps.POLL_S = 0.01
planned = plan(experiment.load(f"{here}/own.yaml"), "small")
(here / f"{me}.here").touch()
steps.run(planned, work, do, print)
"""


def test_two_runs_in_one_folder_share_the_steps(tmp_path):
    """Every step is done once, after what it rests on, and both runs end when all are done."""
    (tmp_path / "own.yaml").write_text(SHARED_OUT)
    words = [sys.executable, "-c", ONE_OF_TWO, str(tmp_path)]
    runs = [subprocess.Popen([*words, me], stdout=subprocess.PIPE, text=True) for me in "12"]
    told = [run.communicate(timeout=100)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    lines = [line.split(" ", 1) for line in (tmp_path / "done").read_text().splitlines()]
    did = [what for _, what in lines]
    models = ("a-0", "a-1", "b-0")
    asked = [f"eval {one}" for one in models]
    assert sorted(did) == sorted(["do ground", *(f"do {one}" for one in models), *asked])
    assert did[0] == "do ground" and did.index("do a-0") < did.index("do b-0")
    assert all(did.index(f"do {one}") < did.index(f"eval {one}") for one in models)
    assert {who for who, _ in lines} == {"1", "2"}
    assert any("waiting for another run in" in text for text in told)


def test_a_run_with_other_settings_that_begins_meanwhile_is_told(tmp_path):
    """Both began while nothing of their own was there yet."""
    (tmp_path / "own.yaml").write_text(STEPS)
    own, work = experiments.load(str(tmp_path / "own.yaml")), tmp_path / "work"

    def do(words: Sequence[str]) -> int:
        Path(words[1]).write_text("")
        if words[1] == "one":  # now the other one begins the second step
            stamp = {"two": {"chain": "of others", "begun": ["one"]}}
            Path(steps.STAMPS).write_text(json.dumps(stamp))
        return 0

    with pytest.raises(experiments.ReproduceError, match=r"holds a run with other settings \(two\)"):
        steps.run(plan(own, "small"), work, do, lambda line: None)


def test_a_task_that_there_is_not_is_told_before_the_first_step(tmp_path):
    (tmp_path / "own.yaml").write_text(EXPERIMENT.replace("--task ", "--task nosuch,"))
    planned = plan(experiments.load(str(tmp_path / "own.yaml")), "small")
    with pytest.raises(experiments.ReproduceError, match=r"^ask A, seed 0: yesno: there is no task 'nosuch'"):
        steps.refuse_faults(planned, tmp_path, lambda words: None)


def test_what_was_begun_with_other_settings_is_not_gone_on_with(tmp_path):
    """A training that was killed leaves checkpoints, from which one of more steps would go on."""
    text = STEPS.replace('run: "do one $word"', 'run: "do one $word --out run"')
    (tmp_path / "own.yaml").write_text(text)
    own, work = experiments.load(str(tmp_path / "own.yaml")), tmp_path / "work"

    def killed(words: Sequence[str]) -> int:
        Path("run").mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.run(plan(own, "small"), work, killed, lambda line: None)
    assert steps.states(plan(own, "small"), work)[0].state == "to do"  # the same command goes on
    other = plan(own, "small", changes={"word": "no"})
    with pytest.raises(
        experiments.ReproduceError, match=r"other settings \(one\): .* or remove '.*/run', which"
    ):
        steps.run(other, work, killed, lambda line: None)
    (work / "run").rmdir()
    assert steps.states(other, work)[0].state == "to do"  # as after a slip that made nothing


def test_a_shared_step_is_done_once_for_all_experiments(tmp_path):
    shared = STEPS.replace("makes: [one]", "makes: [../both], shared: true").replace("one $word", "../both")
    done: list[str] = []

    def do(words: Sequence[str]) -> int:
        done.append(words[1])
        Path(words[1]).write_text("")
        return 0

    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(shared)
        planned = plan(experiments.load(str(tmp_path / f"{name}.yaml")), "small")
        clock, _ = steps.run(planned, tmp_path / "runs" / name, do, lambda line: None)
        assert clock >= 0
    assert done == ["../both", "two", "three", "two", "three"]
    other = plan(experiments.load(str(tmp_path / "b.yaml")), "small", changes={"word": "no"})
    assert [one.state for one in steps.states(other, tmp_path / "runs" / "c")] == ["done", "to do"]
    (tmp_path / "runs" / "both").unlink()
    assert steps.states(planned, tmp_path / "runs" / "b")[0].state == "to do"


def test_a_step_for_some_rows_is_run_for_them_alone():
    own = experiments.load("acdc")
    quick = plan(own, "quick")
    assert "targets of three sources" not in {step.name for step in quick.steps}
    row, other = (plan(own, "quick", rows=["B2"], changes={"rows": n}) for n in ("320", "321"))
    found = [{step.name: step.chain for step in planned.steps} for planned in (row, other)]
    assert "targets of three sources" in found[0]
    assert found[0]["train B2, seed 0"] != found[1]["train B2, seed 0"]
    small = {step.name: step.chain for step in plan(own, "small").steps}
    small_b2 = plan(own, "small", rows=["B2"]).steps
    assert {step.chain for step in small_b2} <= {*small.values()}  # a row goes on with what the whole has


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        ("matplotlib", "draws curves, for which there is no matplotlib: pip install 'lalm[plot]'"),
        ("jiwer", "asks questions, for which there is no jiwer: pip install 'lalm[evaluate]'"),
    ],
)
def test_a_library_that_is_missing_is_told_before_the_first_step(tmp_path, monkeypatch, capsys, absent, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(steps, "find_spec", lambda name: None if name == absent else True)
    assert command(["reproduce", "salmonn"]) == 2
    assert said in capsys.readouterr().err
    assert command(["reproduce", "salmonn", "--plan"]) == 0
    assert f"missing the library {absent}" in capsys.readouterr().out


def test_only_libraries_that_a_run_uses_are_missed(monkeypatch):
    monkeypatch.setattr(steps, "find_spec", lambda name: None)
    quick = plan(experiments.load("salmonn"), "quick")  # which draws nothing
    assert "matplotlib" not in {name for name, _, _ in steps.libraries_missing(quick)}
    assert "jiwer" in {name for name, _, _ in steps.libraries_missing(quick)}


def test_a_disk_that_is_too_small_is_told_before_the_first_step(tmp_path):
    (tmp_path / "own.yaml").write_text(STEPS + "disk_gb: {small: 1.0e+9}\n")
    planned = plan(experiments.load(str(tmp_path / "own.yaml")), "small")
    with pytest.raises(experiments.ReproduceError, match=r"GB free, and the run writes about 1e\+09 GB"):
        steps.run(planned, tmp_path / "work", lambda words: 1 / 0, lambda line: None)
    assert not (tmp_path / "work").exists()


def test_a_number_of_another_kind_does_not_flatten_the_shares_in_the_figure():
    share = {"mean": 0.5, "low": 0.4, "high": 0.6, "seeds": [], "verdict": CONFIRMED, "set": "story"}
    share |= {"plus": "A", "minus": "B", "metric": "repeat_rate", "tasks": []}
    words = {**share, "mean": 60.0, "low": 50.0, "high": 70.0, "metric": "diversity"}
    alone, both = (figure(rows, []) for rows in ([share], [share, words]))
    bar = re.search(r'<line [^>]*stroke-width="3"/>', alone)
    assert bar is not None and bar[0] in both
    assert "A - B: story, diversity" in both and "A - B: story, repeat_rate" in both


def test_a_figure_has_room_for_its_labels_and_numbers_on_its_axis():
    one = {
        "mean": 0.5,
        "low": -0.004,
        "high": 0.9,
        "seeds": [1.1],
        "verdict": CONFIRMED,
        "set": "s",
        "worth": 0.2,
    }
    one |= {
        "plus": "a long name of a row",
        "minus": "another such name",
        "metric": "content_f1",
        "tasks": ["what"],
    }
    drawn = figure([one, {**one, "mean": None}], [])
    assert "stroke-dasharray" in drawn and ">0</text>" in drawn and ">1.1</text>" in drawn
    assert ">-0.004</text>" not in drawn  # it would lie over the 0
    ends = [float(x) for x in re.findall(r'<text x="([0-9.]+)" y="[0-9]+" text-anchor="end">', drawn)]
    label = "a long name of a row - another such name: s, content_f1, what"
    assert len(ends) == 1 and label in drawn and ends[0] > 6 * len(label)
    width = float(re.findall(r'width="([0-9]+)"', drawn)[0])
    assert max(float(x) for x in re.findall(r'c?x[12]?="([0-9.]+)"', drawn)) + 40 < width


def test_a_table_is_what_the_experiment_has_for_it():
    salmonn = experiments.load("salmonn")
    asked = {(e.cell, e.set) for e in plan(salmonn, "small", table="5").evaluations}
    assert {("A-asr", "story"), ("A-text", "story"), ("A", "words"), ("A", "co-reasoning")} <= asked
    assert not {"captions", "questions"} & {name for _, name in asked}
    assert [*plan(salmonn, "small", table="figure 3").beside] == ["scales"]


def test_which_contrasts_are_of_two_trainings():
    salmonn = experiments.load("salmonn")
    assert not experiments.two_trainings(salmonn, "small", "S1", "S4")  # one model at two scales
    assert experiments.two_trainings(salmonn, "small", "A", "S4")
    assert not experiments.two_trainings(salmonn, "small", "A", "A")


EXPERIMENT = """
title: Answers
claim: A is right more often than B.
sizes: {small: {}}
cells:
  A: {about: mostly right, model: a.jsonl, paper: {yesno: 90}}
  B: {about: always yes, model: b.jsonl}
sets:
  yesno: {about: yes or no, eval: "--task manifest=rows.jsonl", exact: accuracy}
beside:
  curve: {about: drawn, table: figure 2, of: [A], numbers: c.json, columns: [step, score], picture: c.png}
contrasts:
  - {about: A beats B, set: yesno, plus: {cell: A}, minus: {cell: B}, worth: 0.1, paper: "+40"}
  - {about: A beats the best constant, set: yesno, plus: {cell: A}, minus: {cell: A, control: constant}}
"""


def test_a_finding_from_answers_to_the_page(tmp_path, capsys, monkeypatch):
    """The whole command on recorded answers: 60 questions, A right on 50 of them, B says yes to all."""
    work = tmp_path / "work"
    work.mkdir()
    right = ["yes", "no"] * 30
    rows = [
        replace(ask([], "Is it?"), task="presence", id=f"q{i}", references=(r,)) for i, r in enumerate(right)
    ]
    write_manifest(work / "rows.jsonl", rows)
    said = {"a": [r if i < 50 else "no" for i, r in enumerate(right)], "b": ["yes"] * 60}
    for name, answers in said.items():
        lines = [json.dumps({"id": f"q{i}", "text": text}) for i, text in enumerate(answers)]
        (work / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "answers.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    assert command(["reproduce", "answers.yaml", "--plan", "--work", "work"]) == 0
    assert "2 steps, 0 files missing" in capsys.readouterr().out
    assert command(["reproduce", "answers.yaml", "--row", "A", "--work", "work", "--out", "out"]) == 0
    assert "Answers: not run" in capsys.readouterr().out  # B was not asked: A's scores are kept
    assert command(["reproduce", "answers.yaml", "--work", "work", "--out", "out"]) == 0
    told = capsys.readouterr()
    assert "Answers: confirmed" in told.out and "ask A, seed 0: yesno: done before" in told.err
    found = json.loads((tmp_path / "out" / "small.json").read_text())
    beats, constant = found["contrasts"]
    assert beats["mean"] == pytest.approx(25 / 60, abs=1e-3)  # A: 50 and 5 of 10; B: 30
    assert constant["mean"] == pytest.approx(25 / 60, abs=1e-3) and constant["minus"] == "A, constant"
    assert {c["cell"]: c["mean"] for c in found["cells"]} == {"A": 0.9167, "B": 0.5}
    text = (tmp_path / "out" / "small.md").read_text()
    assert "| 90 |" in text and "![Intervals](small.svg)" in text and "# Answers: confirmed" in text
    assert (tmp_path / "out" / "small.svg").read_text().count("<circle") >= 8
    assert found["judges"] == [] and found["beside"] == []  # no judge was asked, nothing is drawn yet
    _judge_half(work / "eval" / "A-0-yesno" / "predictions.jsonl")
    (work / "c.png").write_bytes(b"png")
    (work / "c.json").write_text(json.dumps([{"step": 1, "score": 0.12345, "more": 0}]))
    (tmp_path / "out" / "small.reservation.md").write_text("The size was\nchosen late.\n")
    assert command(["reproduce", "answers.yaml", "--work", "work", "--out", "out"]) == 0
    text = (tmp_path / "out" / "small.md").read_text()
    assert "| yesno |" in text and "| accuracy | 0.50 | -0.03 [" in text  # by chance
    assert "**With a reservation.** The size was chosen late.\n" in text
    assert "![curve](small-curve.png)" in text and "| 1 | 0.1235 |" in text and "(figure 2)" in text
    assert (tmp_path / "out" / "small-curve.png").read_bytes() == b"png"


@pytest.mark.parametrize(
    ("there", "instead", "told"),
    [
        ("metric: accuracy", "metric: acuracy", "sets.yesno: there is no metric 'acuracy'"),
        ("sizes: {small: {}}", "sizes: {smal: {}}", "sizes: there is no size 'smal'"),
        ("seeds: 1", "seeds: {quik: 3}", "cells.B: seeds: there is no size 'quik'"),
        ("of: [A]", "of: [C]", "beside.curve: of: there is no cell 'C'"),
        ("seeds: 1", "after: C", "cells.B: after: there is no cell 'C'"),
        ("metric: accuracy", "only: [A]", "'A beats B': yesno is not asked of B"),
        ("control: constant", "control: shuffled", "yesno has no control 'shuffled' for A"),
        ("minus: {cell: B}", "minus: {cell: C}", "'A beats B' names a set or cell that there is not"),
        ("metric: accuracy", "controls: [shufled]", "sets.yesno: there is no control 'shufled'"),
    ],
)
def test_a_slip_in_an_experiment_is_told_before_the_first_step(there, instead, told, tmp_path):
    """Each would be left out without a word, or be found when all models are trained."""
    text = EXPERIMENT.replace("model: b.jsonl", "model: b.jsonl, seeds: 1")
    text = text.replace("exact: accuracy", "metric: accuracy, exact: accuracy")
    (tmp_path / "own.yaml").write_text(text)
    experiments.load(str(tmp_path / "own.yaml"))
    assert there in text
    (tmp_path / "own.yaml").write_text(text.replace(there, instead, 1))
    with pytest.raises(experiments.ReproduceError, match=f"^own.yaml: .*{re.escape(told)}"):
        experiments.load(str(tmp_path / "own.yaml"))


def _judge_half(file: Path) -> None:
    """Judgments as a judge leaves them: of right answers half are called right, and of wrong ones half."""
    rows, seen = [json.loads(line) for line in file.read_text().splitlines()], {True: 0, False: 0}
    for row in rows:
        right = row["text"] == row["references"][0]
        seen[right] += 1
        row["judged"] = float(seen[right] % 2)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing"], "there is no experiment 'nothing': take one of acdc"),
        (["acdc", "--quick", "--full"], "--quick and --full are two sizes"),
        (["acdc", "--row", "Z9"], "there is no row 'Z9': the rows are A1, A2"),
        (
            ["apt", "--row", "presence-alone", "--full", "--plan"],
            "size 'full' has no row 'presence-alone': the",
        ),
        (
            ["acdc", "--table", "2", "--row", "B1"],
            "size 'small' asks row 'B1' nothing for table '2': leave out",
        ),
        (
            ["apt", "--row", "presence-alone", "--quick"],
            "size 'quick' has no row 'presence-alone': the rows are",
        ),
        (["acdc", "--table", "7"], "size 'small' has nothing for table '7': it has 1, 2"),
        (["salmonn", "--quick", "--table", "4"], "size 'quick' has nothing for table '4': it has 3, 5"),
        (["acdc", "--set", "steps"], "--set steps: write it as KEY=VALUE"),
        (["acdc", "--set", "llm="], "--set llm=: write it as KEY=VALUE"),
        (["acdc", "--set", "llm=nosuch"], "train A1, seed 0: there is no 'nosuch': give a folder, a name of"),
        (["acdc", "--set", "steps=many"], "small.yaml: optim.max_steps: Input should be a valid integer"),
        (["acdc", "--set", "items=few"], "ask A1, seed 0: questions: Invalid value for '--samples'"),
        (["acdc", "--set", "speed=1"], "size 'small' has no setting 'speed'"),
        (["acdc", "--full"], "--full needs --data FOLDER, the folder of the corpora: `lalm reproduce acdc"),
        (["acdc", "--quick", "--data", "."], "size 'quick' reads no corpora of yours: leave --data out"),
        (["acdc", "--full", "--data", "nowhere"], "there is no folder 'nowhere': --data is"),
        (["acdc", "--full", "--data", "."], "AudioCaps/train.csv' (--plan lists"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_sentence(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(["reproduce", *words]) == 2
    said = capsys.readouterr().err
    assert told in said and len(said.splitlines()) == 1


def test_a_page_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "answers.yaml").write_text(EXPERIMENT)
    own = experiments.load(str(tmp_path / "answers.yaml"))
    (tmp_path / "small.md").write_text("before")

    def full(self: Path, *words: object, **more: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    about = dict.fromkeys(("date", "commit", "machine", "command"), "") | {"minutes": 0.0}
    found = {"verdict": NOT_RUN, "contrasts": [], "cells": [], "judges": [], "beside": []}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match=r"small.svg"):
            verdict_page.write(plan(own, "small"), found, about, tmp_path)
    assert (tmp_path / "small.md").read_text() == "before" and not [*tmp_path.glob("*.partial")]


def test_a_row_of_a_larger_size_does_not_hide_the_verdict_of_a_smaller_one(tmp_path):
    assert verdict_page.newest(tmp_path) is None
    (tmp_path / "small.json").write_text('{"size": "small", "verdict": "not run"}')
    assert verdict_page.newest(tmp_path) == {"size": "small", "verdict": NOT_RUN}
    (tmp_path / "quick.json").write_text('{"size": "quick", "verdict": "confirmed"}')
    assert verdict_page.newest(tmp_path) == {"size": "quick", "verdict": CONFIRMED}


def test_the_readme_has_the_table_of_the_results():
    """Verdicts and numbers come from results/PAPER alone: run ``python docs/findings.py``."""
    assert verdict_page.papers_table(ROOT / "results") in (ROOT / "README.md").read_text()
