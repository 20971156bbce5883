"""Two processes with gloo: they train as one does, share the model, and any number resumes any."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from crew import Crew
from safetensors.torch import load_file
from tiny_runs import lines, settings, training_world

from lalm.data.readers import read_manifest
from lalm.data.sample import write_manifest
from lalm.models.load import load_model
from lalm.training import recipe
from lalm.training import run as train
from lalm.training.parallel.deepspeed import deepspeed_arguments
from lalm.training.recipe import Recipe
from lalm.weights import checkpoint

PATHS = {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])}
TORCHRUN = (
    "import sys, torch, lalm.cli.app; torch.set_num_threads(1); sys.exit(lalm.cli.app.run(sys.argv[1:]))"
)
TRAINS = "import sys, lalm.cli.app; sys.exit(lalm.cli.app.run(['--debug', 'train', {recipe!r}]))"
Pair = Callable[[Recipe, Path], str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    return training_world(folder, dropout=0.0)  # which each process would draw for itself


@pytest.fixture
def pair(crew: Crew) -> Pair:
    """``pair(recipe, folder)``: what the first of two processes prints that train as torchrun's would."""

    def run(made: Recipe, folder: Path) -> str:
        (folder / "pair.yaml").write_text(recipe.dump(made))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        both = [{"RANK": rank, "LOCAL_RANK": rank, **shared} for rank in ("0", "1")]
        codes = crew(TRAINS.format(recipe=str(folder / "pair.yaml")), both, folder / "said")
        said = [(folder / f"said{rank}").read_text() for rank in (0, 1)]
        assert codes == [0, 0], "\n".join(text[-3000:] for text in said)
        return said[0]

    return run


def until(made: Recipe, step: int) -> Recipe:
    """The same run, stopped after ``step``; its schedule must be constant."""
    return made.model_copy(update={"optim": made.optim.model_copy(update={"max_steps": step})})


def test_one_process_two_and_one_again_train_as_one_does(world: Path, tmp_path: Path) -> None:
    """torchrun: two steps by one process, three by two, two by one, against seven by one."""
    optim = {"batch_size": 2, "accumulation": 2, "max_steps": 7, "schedule": "constant", "batch_s": 9.0}
    alone = train.run(settings(world, tmp_path / "alone", optim=optim, lora=None))
    out = tmp_path / "shared"
    shared = settings(world, out, optim=optim, lora=None, cache=str(tmp_path / "frames"))
    train.run(until(shared, 2))
    (tmp_path / "shared.yaml").write_text(recipe.dump(until(shared, 5)))
    (tmp_path / "launch.py").write_text(TORCHRUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "launch.py"), "train", str(tmp_path / "shared.yaml")]
    done = subprocess.run(command, env=os.environ | PATHS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Done after step 5") == 1  # the first process speaks
    train.run(shared)
    assert list(lines(out)) == list(range(1, 8))
    assert lines(out) == pytest.approx(lines(alone), abs=2e-2)  # bfloat16 frames


def shared_settings(world: Path, out: Path, **changes: Any) -> Recipe:
    """Connector and LLM learn, validated every two steps. Some sizes are odd: two cannot halve them."""
    optim = {"batch_size": 2, "accumulation": 4, "max_steps": 6, "schedule": "constant"}
    return settings(
        world,
        out,
        init={"options": {"group_size": 10, "connector_width": 33}},
        trainable=["connector", "language_model", "lm_head"],
        lora=None,
        data={"valid": [str(world / "valid.jsonl")]},
        optim=optim,
        every={"log": 1, "save": 2, "valid": 2},
        **changes,
    )


@pytest.fixture(scope="module")
def alone(world: Path) -> Path:
    return train.run(shared_settings(world, world / "alone"))


@pytest.mark.parametrize("shard", ["fsdp2", "zero2", "zero3"])
def test_one_process_two_and_one_again_share_the_model(
    shard: str, world: Path, alone: Path, pair: Pair, tmp_path: Path
) -> None:
    """Two steps by one process, three by two, one by one, against six by one."""
    if shard != "fsdp2":
        pytest.importorskip("deepspeed")
    out = tmp_path / "shared"
    shared = shared_settings(world, out, shard=shard)
    train.run(until(shared, 2))
    said = pair(until(shared, 5), tmp_path)
    assert "Resuming from" in said and "Done after step 5" in said and "No gradient" not in said
    half = out / "checkpoint-5"
    assert checkpoint.fault(half) == ""
    if shard == "fsdp2":
        assert {"__0_0.distcp", "__1_0.distcp", ".metadata"} <= {file.name for file in half.iterdir()}
    saved = load_model(out)[0].state_dict()
    train.run(shared)
    for key, deviation in (("loss", 1e-4), ("grad_norm", 1e-3), ("valid_loss", 1e-2)):
        told = {step: lines(out, key)[step] for step in lines(alone, key)}  # a part validates at its end too
        assert told == pytest.approx(lines(alone, key), rel=deviation), key
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, alone))
    assert ours.keys() == theirs.keys() == saved.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-3, rtol=0)


def test_two_processes_learn_preferences_as_one_does(world: Path, pair: Pair, tmp_path: Path) -> None:
    """Also with a waveform that changes, and with a reference that one of them computes for both."""
    samples = [
        replace(s.prompt(), chosen=s.target, rejected=f"No. {s.id}")
        for s in read_manifest(world / "train.jsonl")
    ]
    write_manifest(world / "pairs.jsonl", samples)
    data = {"train": [{"path": str(world / "pairs.jsonl")}], "valid": [str(world / "pairs.jsonl")]}
    optim = {"batch_size": 2, "accumulation": 2, "max_steps": 3, "schedule": "constant"}
    for reference, augment in (("copy", {"gain_db": [-3, 3]}), ("precomputed", None)):
        changes = {
            "dpo": {"beta": 0.1, "reference": reference},
            "data": data,
            "optim": optim,
            "augment": augment,
        }
        changes |= {"lora": None, "every": {"valid": 3, "save": 3}, "valid": {"samples": 4, "generate": 0}}
        alone = train.run(settings(world, tmp_path / f"alone-{reference}", **changes))
        said = pair(settings(world, tmp_path / f"shared-{reference}", **changes), tmp_path)
        assert said.count("Done after step 3") == 1
        for key in ("loss", "margin", "chosen_log_prob", "grad_norm", "valid_margin"):
            one, two = lines(alone, key), lines(tmp_path / f"shared-{reference}", key)
            assert one and two == pytest.approx(one, abs=1e-3), key


def test_zero_needs_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ValueError, match=r"shard: zero2 needs DeepSpeed: pip install 'lalm\[deepspeed\]'"):
        deepspeed_arguments("zero2")


@pytest.mark.parametrize("objective", ["distil", "text"])
def test_two_processes_learn_from_a_teacher_and_from_text_as_one_does(
    objective: str, world: Path, pair: Pair, tmp_path: Path
) -> None:
    """By SGD, which a gradient of half the size moves half as far."""
    read = list(read_manifest(world / "train.jsonl"))
    samples = [replace(sample, origin={"caption": f"a {sample.target}"}) for sample in read]
    samples[::3] = read[::3]  # of which nothing is known: some batches have none of these, and some others
    if objective == "text":
        samples += [
            replace(one, id=f"text{i}", messages=({"role": "user", "content": "Well?"}, one.messages[1]))
            for i, one in enumerate(samples)
        ]
    write_manifest(tmp_path / "known.jsonl", samples)
    made = settings(
        world,
        tmp_path / "alone",
        data={"train": [{"path": str(tmp_path / "known.jsonl")}]},
        lora={"rank": 2, "alpha": 4, "dropout": 0.0},
        optim={"accumulation": 2, "max_steps": 3, "optimizer": "sgd", "learning_rate": 0.5},
        **({"distil": {}} if objective == "distil" else {}),
    )  # fmt: skip
    alone = load_file(train.run(made) / "model.safetensors")
    pair(made.model_copy(update={"out": str(tmp_path / "shared")}), tmp_path)
    shared = load_file(tmp_path / "shared" / "model.safetensors")
    moved = "model.connector.linear_2.weight"
    torch.testing.assert_close(shared[moved], alone[moved], atol=1e-4, rtol=1e-3)
    names = ("kl", "cross_entropy") if objective == "distil" else ("loss_audio", "loss_text")
    for name in names:
        one, two = lines(tmp_path / "alone", name), lines(tmp_path / "shared", name)
        assert one and two.keys() == one.keys(), name
        assert list(two.values()) == pytest.approx(list(one.values()), abs=1e-3), name


def test_two_processes_bring_clips_and_captions_together_as_one_does(
    world: Path, pair: Pair, tmp_path: Path
) -> None:
    """The second one's clips count: by SGD, with gradients of both."""
    read = read_manifest(world / "train.jsonl")
    write_manifest(tmp_path / "known.jsonl", [replace(s, origin={"caption": s.target}) for s in read])
    made = settings(
        world,
        tmp_path / "alone",
        data={"train": [{"path": str(tmp_path / "known.jsonl")}]},
        lora=None,
        contrast={},
        optim={"accumulation": 2, "max_steps": 3, "optimizer": "sgd", "learning_rate": 0.5},
    )
    alone = load_file(train.run(made) / "model.safetensors")
    pair(made.model_copy(update={"out": str(tmp_path / "shared")}), tmp_path)
    shared = load_file(tmp_path / "shared" / "model.safetensors")
    moved = "model.connector.linear_2.weight"
    torch.testing.assert_close(shared[moved], alone[moved], atol=1e-4, rtol=1e-3)
    one, two = (lines(tmp_path / name, "grad_norm") for name in ("alone", "shared"))
    assert two == pytest.approx(one, rel=1e-3)


def test_two_processes_go_on_between_two_updates_on_the_same_answers(
    world: Path, pair: Pair, tmp_path: Path
) -> None:
    """Each has answers of its own in the checkpoint; one process goes on with those of both."""
    (tmp_path / "mine.py").write_text("def short(sample, answer):\n    return 1 / (1 + len(answer))\n")
    made = settings(
        world,
        tmp_path / "alone",
        lora={"rank": 2, "alpha": 4, "dropout": 0.0},
        grpo={
            "rewards": [{"name": f"{tmp_path}/mine.py:short"}],
            "group": 3,
            "max_new_tokens": 5,
            "updates": 3,
        },
        optim={"accumulation": 2, "max_steps": 4, "schedule": "constant", "optimizer": "sgd"},
        every={"log": 1, "save": 2, "valid": 0},
    )
    train.run(made)
    for name in ("two", "then one"):
        shared = made.model_copy(update={"out": str(tmp_path / name)})
        pair(until(shared, 2), tmp_path)
        files = (tmp_path / name / "checkpoint-2").glob("rollouts-*.safetensors")
        assert sorted(file.name for file in files) == ["rollouts-0.safetensors", "rollouts-1.safetensors"]
        pair(shared, tmp_path) if name == "two" else train.run(shared)
        for key in ("loss", "grad_norm", "reward"):
            one, other = lines(tmp_path / "alone", key), lines(tmp_path / name, key)
            assert one and other == pytest.approx(one, abs=1e-3), (name, key)
