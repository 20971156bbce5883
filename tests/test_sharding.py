"""Several processes that torchrun starts, with gloo: they train as one does, and any number resumes any."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import lines, settings, training_world

from lalm import checkpoint, recipe, systems, train
from lalm.recipe import Recipe


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    return training_world(folder, dropout=0.0)  # which each process would draw for itself


def until(made: Recipe, step: int) -> Recipe:
    """The same run, stopped after ``step``; its schedule must be constant."""
    return made.model_copy(update={"optim": made.optim.model_copy(update={"max_steps": step})})


def launch(made: Recipe, folder: Path, processes: int = 2) -> str:
    """What ``lalm train`` prints when so many processes run the recipe."""
    (folder / "shared.yaml").write_text(recipe.dump(made))
    script = "import sys, torch, lalm.cli; torch.set_num_threads(1); sys.exit(lalm.cli.run(sys.argv[1:]))"
    (folder / "launch.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent.parent)])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes)]
    command += [str(folder / "launch.py"), "train", str(folder / "shared.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"Done after step {made.optim.max_steps}") == 1  # the first process speaks
    return done.stdout


def test_one_process_two_and_one_again_train_as_one_does(world: Path, tmp_path: Path) -> None:
    """Two steps by one process, three by two, two by one, against seven by one."""
    optim = {"batch_size": 2, "accumulation": 2, "max_steps": 7, "schedule": "constant", "batch_s": 9.0}
    alone = train.run(settings(world, tmp_path / "alone", optim=optim, lora=None))
    out = tmp_path / "shared"
    shared = settings(world, out, optim=optim, lora=None, cache=str(tmp_path / "frames"))
    train.run(until(shared, 2))
    launch(until(shared, 5), tmp_path)
    train.run(shared)
    assert list(lines(out)) == list(range(1, 8))
    assert lines(out) == pytest.approx(lines(alone), abs=2e-2)  # bfloat16 frames


def test_one_process_two_and_one_again_share_the_model(world: Path, tmp_path: Path) -> None:
    """FSDP2: two steps by one process, two by two, two by one, against six by one."""
    optim = {"batch_size": 2, "accumulation": 4, "max_steps": 6, "schedule": "constant"}
    whole: dict[str, Any] = {"optim": optim, "trainable": ["connector", "language_model", "lm_head"]}
    whole["every"] = {"log": 1, "save": 2, "valid": 2}
    whole |= {"lora": None, "data": {"valid": [str(world / "valid.jsonl")]}}
    alone = train.run(settings(world, tmp_path / "alone", **whole))
    out = tmp_path / "shared"
    shared = settings(world, out, shard="fsdp2", **whole)
    train.run(until(shared, 2))
    assert [file.name for file in (out / "checkpoint-2").glob("*.distcp")] == ["__0_0.distcp"]
    launch(until(shared, 4), tmp_path)
    half = out / "checkpoint-4"
    assert {"__0_0.distcp", "__1_0.distcp", ".metadata"} <= {file.name for file in half.iterdir()}
    assert checkpoint.fault(half) == ""
    saved = systems.load(out)[0].state_dict()
    train.run(shared)
    for key, deviation in (("loss", 1e-4), ("grad_norm", 1e-3), ("valid_loss", 1e-2)):
        assert lines(out, key) == pytest.approx(lines(alone, key), rel=deviation), key
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, alone))
    assert ours.keys() == theirs.keys() == saved.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-3, rtol=0)
