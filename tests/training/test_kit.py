"""The experimenter's kit: optimizers, averages, the best model, stopping early, sweeps, trackers, the Hub."""

import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import lines, settings, training_world

from lalm.cli.app import run as command
from lalm.data.readers import read_manifest
from lalm.data.sample import write_manifest
from lalm.models.load import load_model
from lalm.training import recipe, report, selection, sweep
from lalm.training import run as train
from lalm.training.recipe import Keep, Recipe, RecipeError
from lalm.training.report import TrainError
from lalm.weights import checkpoint

Made = Callable[..., Recipe]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = training_world(tmp_path_factory.mktemp("world"))
    samples = read_manifest(folder / "train.jsonl")
    pairs = [replace(s.prompt(), chosen=s.target, rejected=f"No. {s.id}") for s in samples]
    write_manifest(folder / "pairs.jsonl", pairs)
    thumbs = [replace(pair, **{("rejected", "chosen")[i % 2]: ""}) for i, pair in enumerate(pairs)]
    write_manifest(folder / "thumbs.jsonl", thumbs)
    return folder


def short(world: Path, out: Path, **changes: Any) -> Recipe:
    """Six steps with a checkpoint at every second one and validations in between."""
    optim = {"max_steps": 6, "learning_rate": 5e-3, **changes.pop("optim", {})}
    every = {"log": 1, "save": 2, "valid": 3, **changes.pop("every", {})}
    changes.setdefault("data", {"valid": [str(world / "valid.jsonl")]})
    return settings(world, out, optim=optim, every=every, valid={"samples": 3, "generate": 0}, **changes)


class Died(Exception):
    """A run that ends without a word, as a killed one does."""


def run_that_dies(made: Recipe, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log = report.Report.on_log

    def on_log(self: Any, args: Any, state: Any, control: Any, logs: Any, **others: Any) -> None:
        log(self, args, state, control, logs, **others)
        if state.global_step == step:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(report.Report, "on_log", on_log)
        with pytest.raises(Died):
            train.run(made)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    ours, theirs = tensors(one), tensors(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


FEATURES: dict[str, dict[str, Any]] = {
    "sgd": {"optim": {"optimizer": "sgd"}},
    "muon": {"optim": {"optimizer": "muon", "learning_rates": {"connector": 1e-3}}},
    "adamw_8bit": {"optim": {"optimizer": "adamw_8bit"}},
    "augmented pairs": {"dpo": {"beta": 0.1}, "augment": {"gain_db": [-20, 20]}},
    "kto": {"dpo": {"beta": 0.5, "loss": "kto"}},
    "simpo": {"dpo": {"beta": 2.0, "loss": "simpo", "margin": 0.3}},
    "orpo": {"dpo": {"beta": 0.5, "loss": "orpo"}},
    "average and best": {"optim": {"average": 0.9}, "keep": {"best": "valid_loss"}},
}


@pytest.mark.parametrize("name", FEATURES)
def test_a_run_that_died_and_was_resumed_is_the_run_that_did_not(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    changes = dict(FEATURES[name])
    if "dpo" in changes:
        pairs = str(world / ("thumbs.jsonl" if name == "kto" else "pairs.jsonl"))
        changes["data"] = {"train": [{"path": pairs}], "valid": [pairs]}
    whole = train.run(short(world, tmp_path / "whole", **changes))
    assert not same(whole, whole / "checkpoint-4")
    died = short(world, tmp_path / "died", **changes)
    run_that_dies(died, 5, monkeypatch)
    assert checkpoint.checkpoints(tmp_path / "died")[0].name == "checkpoint-4"
    train.run(died)
    for key in ("loss", "valid_loss", "grad_norm", "learning_rate", "margin", "valid_margin"):
        assert lines(tmp_path / "died", key) == lines(whole, key), key
    assert same(tmp_path / "died", whole)
    if "keep" in FEATURES[name]:
        assert same(tmp_path / "died" / "best", whole / "best")


def test_the_average_is_its_formula_over_the_checkpoints(world: Path, tmp_path: Path) -> None:
    optim, every = {"average": 0.6, "max_steps": 4}, {"save": 1, "valid": 4}
    out = train.run(short(world, tmp_path / "run", optim=optim, every=every, keep={"last": 9}))
    assert len(checkpoint.checkpoints(out)) == 4
    average = tensors(out / "checkpoint-1")
    for step in range(1, 5):
        now, decay = tensors(out / f"checkpoint-{step}"), min(0.6, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * now[name] for name in now}
    for name, tensor in tensors(out).items():
        torch.testing.assert_close(tensor, average[name], atol=1e-6, rtol=1e-5)
    assert not same(out, out / "checkpoint-4")
    plain = train.run(short(world, tmp_path / "plain", optim={"max_steps": 4}, every=every))
    assert lines(plain) == lines(out) and lines(plain, "valid_loss") != lines(out, "valid_loss")


def test_the_best_model_is_the_runs_and_a_run_that_gets_worse_stops(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate that destroys what was learned: validation gets worse from some step on."""
    keep = {"best": "valid_loss", "patience": 2, "last": 1}
    optim = {"learning_rate": 0.3, "warmup_steps": 3, "max_steps": 60, "schedule": "constant"}
    made = short(world, tmp_path / "run", keep=keep, optim=optim, every={"valid": 1, "save": 50})
    out = train.run(made)
    valid = lines(out, "valid_loss")
    best = min(valid, key=lambda step: valid[step])
    last = max(valid)
    assert best < last < 60 and all(valid[step] >= valid[best] for step in range(best + 1, last + 1))
    assert last - best == 2
    assert f"no better valid_loss than {valid[best]:.4f} (step {best}) in 2 valid" in capsys.readouterr().out
    assert [folder.name for folder in checkpoint.checkpoints(out)] == [f"checkpoint-{last}"]
    assert same(out, out / "best") and not same(out, out / f"checkpoint-{last}")
    assert checkpoint.fault(out / "best") == ""
    (out / "model.safetensors").unlink()
    train.run(made)  # a run that has stopped does not go on
    assert f"This run stopped at step {last}" in capsys.readouterr().out
    assert lines(out, "valid_loss") == valid and same(out, out / "best")
    load_model(out / "best")


def test_measures_that_rise_and_fall_and_are_not_there() -> None:
    log = [
        {"eval_loss": v, "eval_accuracy": a, "step": s}
        for s, v, a in ((2, 3.0, 0.1), (4, 1.0, 0.5), (6, 2.0, 0.9))
    ]
    assert selection.best_of(selection.measures(log, "valid_loss"), "valid_loss") == (4, 1.0)
    assert selection.best_of(selection.measures(log, "valid_accuracy"), "valid_accuracy") == (6, 0.9)
    broken = [(2, math.nan), (4, 2.0), (6, 1.0)]
    assert selection.best_of(broken, "valid_loss") == (6, 1.0)
    assert selection.best_of(broken, "valid_accuracy") == (4, 2.0)
    for name in (
        "loss_text",
        "kl",
        "distance",
        "cross_entropy",
        "atm",
        "rejected_log_prob",
        "reward_repeats",
    ):
        assert selection.best_of([(1, 2.0), (2, 1.0)], f"valid_{name}") == (2, 1.0), name
    assert selection.has_stopped(selection.measures(log, "valid_loss"), Keep(best="valid_loss", patience=1))
    assert not selection.has_stopped(
        selection.measures(log, "valid_accuracy"), Keep(best="valid_accuracy", patience=1)
    )
    with pytest.raises(TrainError, match="gives no 'valid_wer'; it gives valid_loss, valid_accuracy"):
        selection.measures(log, "valid_wer")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep": {"patience": 3}}, "'patience' needs 'best'"),
        ({"keep": {"best": "loss"}}, "'best' is a measure of validation"),
        ({"keep": {"best": "valid_loss"}, "data": {"valid": []}}, "needs validations"),
        ({"shard": "fsdp2", "dpo": {"beta": 0.1}}, "whose reference would be a second model in one piece"),
        ({"shard": "zero2", "optim": {"average": 0.9}}, "divides AdamW's states alone"),
        (
            {"augment": {"gain_db": [-3, 3]}, "dpo": {"beta": 0.1, "reference": "precomputed"}},
            "say copy or adapter",
        ),
    ],
)
def test_what_does_not_go_together_is_said_with_the_reason(
    world: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        short(world, tmp_path, **changes)


def test_captions_of_ones_own_and_what_is_missing_in_them(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``acdc/small`` on captions without events, and clips without captions: said before fetching."""
    monkeypatch.setattr("lalm.cli.weights.fetch_with_bar", lambda names: pytest.fail("fetched first"))
    own = [f"data.train=[{{path: '{world / 'train.jsonl'}'}}]", "data.valid=[]", f"out={tmp_path / 'run'}"]
    sets = [word for change in own for word in ("--set", change)]
    assert command(["train", "acdc/small", *sets]) == 2
    said = capsys.readouterr().err
    assert "warm_start learns the names of 'events'" in said and "--set warm_start=null" in said
    sets[1] = f"data.train=[{{path: '{world / 'clips'}'}}]"
    assert command(["train", "acdc/small", *sets, "--set", "warm_start=null"]) == 2
    assert "has no answers to learn" in capsys.readouterr().err


def test_a_table_and_its_prompts_train_as_the_manifest_of_them(world: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (world / "train.jsonl").read_text().splitlines()]
    table = [f"{r['messages'][0]['content'][0]['audio']},{r['messages'][1]['content']}" for r in rows]
    (world / "t.csv").write_text(
        "\n".join(["where,said", *(line.replace(", ", " - ") for line in table)]) + "\n"
    )
    entry = {
        "path": str(world / "t.csv"),
        "columns": {"audio": "where", "answer": "said"},
        "prompt": ["A?", "B?"],
    }
    made = short(world, tmp_path / "table", data={"train": [entry], "valid": [entry]}, optim={"max_steps": 2})
    assert recipe.Recipe.model_validate(made.model_dump(by_alias=True)) == made
    words = [
        "data",
        "validate",
        str(world / "t.csv"),
        "--columns",
        "audio=where,answer=said",
        "--prompt",
        "A?",
    ]
    assert command([*words, "--prompt", "B?", "--out", str(world / "m.jsonl"), "--workers", "1"]) == 0
    plain = {"path": str(world / "m.jsonl")}
    same_run = short(
        world, tmp_path / "plain", data={"train": [plain], "valid": [plain]}, optim={"max_steps": 2}
    )
    assert lines(train.run(made)) == lines(train.run(same_run))


def test_a_warm_start_hears_the_sound_as_it_is_and_the_steps_an_augmented_one(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = {"label": "noise", "caption": "a hiss", "onset_s": 0.0, "offset_s": 0.4}
    rows = [json.loads(line) | {"events": [event]} for line in (world / "train.jsonl").open()]
    (world / "events.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    said, losses = [], []
    for name, augment in (("plain", None), ("loud", {"gain_db": [10, 10], "probability": 1.0})):
        changes = {"warm_start": {"epochs": 2, "learning_rate": 1e-3}, "cache": str(tmp_path / "frames")}
        data = {"train": [{"path": str(world / "events.jsonl")}]}
        made = short(
            world, tmp_path / name, data=data, augment=augment, lora=None, optim={"max_steps": 1}, **changes
        )
        losses.append(lines(train.run(made)))
        said.append(re.findall(r"Warm start: loss [\d.]+", capsys.readouterr().out))
    assert said[0] == said[1] and len(said[0]) == 1 and losses[0] != losses[1]


def test_a_sweep_runs_all_resumes_and_shows_intervals(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(recipe.dump(short(world, tmp_path / "x", optim={"max_steps": 2}, every={"valid": 2})))
    words = ["sweep", str(file), "--out", str(tmp_path / "sweep")]
    words += ["--set", "optim.seed=1,2", "--set", "optim.learning_rate=1e-3,1e-2"]
    ran: list[str] = []
    run = train.run

    def counted(made: Recipe, **others: Any) -> Any:
        ran.append(Path(made.out).name)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return run(made, **others)

    monkeypatch.setattr(train, "run", counted)
    assert command(words) == 1
    assert command(words) == 0
    names = [f"seed={s},learning_rate={r}" for s in (1, 2) for r in ("1e-3", "1e-2")]
    assert ran == [*names[:3], *names[2:]]
    shown = capsys.readouterr().out
    table = (tmp_path / "sweep" / "table.md").read_text()
    assert shown.endswith(table)
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    assert [(row[0], row[1]) for row in rows] == [
        ("| learning_rate=1e-3", "2"),
        ("| learning_rate=1e-2", "2"),
    ]
    losses = [lines(tmp_path / "sweep" / name, "valid_loss")[2] for name in (names[0], names[2])]
    cell = dict(zip(table.splitlines()[0].split(" | "), rows[0], strict=True))["valid_loss"]
    assert cell.startswith(f"{sum(losses) / 2:.4g} ± ")


def test_the_interval_is_students() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = [1.0, 1.5, 0.7, 1.1]
    middle, half = sweep.interval(values)
    low, high = stats.t.interval(0.95, 3, loc=middle, scale=stats.sem(values))
    assert (middle - half, middle + half) == pytest.approx((low, high), abs=1e-3)
    degrees = [*range(1, 41), 60, 120, 1000, 10**6]
    points = [sweep.t_point(n) for n in degrees]
    assert [stats.t.ppf(0.975, n) for n in degrees] == pytest.approx(points, abs=6e-4)
    assert sweep.interval([2.0]) == (2.0, None)


def test_values_of_a_sweep_may_be_lists() -> None:
    assert sweep.grid(["a=1", "b=[x, y],{c: 1, d: 2},'e,f'"]) == [
        ("a=1", "b=[x, y]"),
        ("a=1", "b={c: 1, d: 2}"),
        ("a=1", "b='e,f'"),
    ]
    with pytest.raises(RecipeError, match=r"--set a=1,,2: write it as"):
        sweep.grid(["a=1,,2"])


@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "trackio"])
def test_trackers_report_offline_into_the_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    if find_spec(tracker) is None:  # not imported here: trackio reads its settings when it is
        pytest.skip(f"{tracker} is not installed")
    for name in (
        "WANDB_DIR",
        "WANDB_PROJECT",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "TRACKIO_DIR",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in [n for n in sys.modules if n.split(".")[0] == "trackio"]:  # it reads its folder at import
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    out = train.run(short(world, tmp_path / "run", report_to=[tracker], optim={"max_steps": 2}))
    if tracker == "wandb":
        assert list((out / "wandb").glob("offline-run-*/run-*.wandb"))
    elif tracker == "mlflow":
        import mlflow

        client = mlflow.MlflowClient((out / "mlruns").as_uri())
        (found,) = client.search_runs([client.get_experiment_by_name("lalm").experiment_id])
        assert [m.value for m in client.get_metric_history(found.info.run_id, "loss")] == pytest.approx(
            list(lines(out).values()), abs=1e-3
        )
    else:
        assert list((out / "trackio").glob("*lalm*"))


def test_a_tracker_that_is_not_here_is_said_first(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lalm.training.trackers.find_spec", lambda name: None)
    with pytest.raises(TrainError, match=r"wandb is not installed: pip install 'lalm\[report\]'"):
        train.run(short(world, tmp_path / "run", report_to=["wandb"]))


def test_a_model_is_pushed_without_its_checkpoints_and_opens_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Hub is a local folder, which takes what huggingface_hub would send."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    out = train.run(short(world, tmp_path / "run", optim={"max_steps": 2}))
    hub = tmp_path / "hub"

    def upload(
        self: Any, repo_id: str, folder_path: Path, allow_patterns: Any, ignore_patterns: Any, **others: Any
    ) -> Any:
        names = [
            str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()
        ]
        for name in filter_repo_objects(
            names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            (hub / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder_path / name, hub / name)
        return type("Commit", (), {"commit_url": f"https://hub/{repo_id}"})

    monkeypatch.setattr(HfApi, "create_repo", lambda self, *args, **others: None)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert command(["push", str(out), "me/mine"]) == 2
    assert "names its encoder by a folder of this machine" in capsys.readouterr().err
    config = json.loads((out / "config.json").read_text())
    for role in config["parts"]:
        (out / "parts").mkdir(exist_ok=True)
        shutil.copytree(config["parts"][role], out / "parts" / role)
        config["parts"][role] = f"./parts/{role}"
    (out / "config.json").write_text(json.dumps(config))
    assert command(["push", str(out), "me/mine"]) == 0 and "https://hub/me/mine" in capsys.readouterr().out
    assert (
        not list(hub.glob("checkpoint-*"))
        and not (hub / "runs").exists()
        and not (hub / "metrics.jsonl").exists()
    )
    model, _ = load_model(hub)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in tensors(out).items())
    for words in (["push", str(tmp_path), "me/mine"], ["push", str(out), "mine"]):
        assert command(words) == 2
