"""Training runs on tiny random parts: exact resume, equal accumulation, and what a run shows and leaves."""

import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from rich.console import Console
from safetensors.torch import load_file
from tiny_runs import lines, settings, training_world

from lalm.models.classes import classes_of
from lalm.models.load import load_model
from lalm.training import recipe
from lalm.training import run as train
from lalm.training.manifests import mixtures, training_sources
from lalm.training.report import GradientCheck, TrainError, part_of, show_example
from lalm.weights import checkpoint

KILLED_RUN = """
import os, signal
from lalm.training import recipe, report
from lalm.training import run as train
log = report.Report.on_log
def then_die(self, args, state, control, logs, **kwargs):
    log(self, args, state, control, logs, **kwargs)
    if state.global_step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
report.Report.on_log = then_die
train.run(recipe.load({recipe!r}))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def finished(world: Path) -> Path:
    """One run from start to end, with validation."""
    torch.set_num_threads(1)
    return train.run(settings(world, world / "finished", data={"valid": [str(world / "valid.jsonl")]}))


def test_a_run_learns_and_leaves_a_model_that_loads(finished: Path) -> None:
    losses = lines(finished)
    assert list(losses) == list(range(1, 13))
    assert losses[12] < losses[1] - 0.5
    assert sorted(lines(finished, "valid_loss")) == [4, 8, 12]
    assert sorted(lines(finished, "answers")) == [4, 8, 12]
    assert recipe.load(finished) == recipe.load(finished / "checkpoint-12")
    assert any(file.name.startswith("events") for file in (finished / "runs").iterdir())
    card = (finished / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: lalm") and "trained for 12 steps" in card
    assert "samples were read" in card and "None was left out." in card
    assert not checkpoint.staging(finished).exists()
    model, _ = load_model(finished)
    tensors = load_file(finished / "model.safetensors")
    assert tensors and all("connector" in name or "lora_" in name for name in tensors)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


def test_the_last_two_checkpoints_are_kept_and_whole(finished: Path) -> None:
    assert [folder.name for folder in checkpoint.checkpoints(finished)] == ["checkpoint-12", "checkpoint-8"]
    assert [checkpoint.fault(folder) for folder in checkpoint.checkpoints(finished)] == ["", ""]


def test_a_run_killed_and_resumed_is_the_run_that_was_not(world: Path, finished: Path, crew: Any) -> None:
    """kill -9 between two checkpoints; losses, validation and final weights agree to the last bit."""
    out = world / "killed"
    killed = settings(world, out, data={"valid": [str(world / "valid.jsonl")]})
    file = world / "killed.yaml"
    file.write_text(recipe.dump(killed))
    (code,) = crew(KILLED_RUN.format(recipe=str(file)), [{}], world / "killed-said")
    assert code == -signal.SIGKILL, (world / "killed-said0").read_text()
    assert max(lines(out)) == 7 and [f.name for f in checkpoint.checkpoints(out)] == ["checkpoint-4"]
    with (out / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 8, "lo')  # as if the kill had come in the middle of a line
    train.run(killed)
    for key in ("loss", "valid_loss", "grad_norm", "learning_rate"):
        assert lines(out, key) == lines(finished, key), key
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, finished))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_broken_newest_checkpoint_is_skipped_with_a_sentence(
    world: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "broken"
    plain = settings(world, out)
    train.run(plain)
    whole = lines(out)
    weights = out / "checkpoint-12" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    capsys.readouterr()
    train.run(plain)
    said = " ".join(capsys.readouterr().out.split())
    assert "checkpoint-12 is broken (model.safetensors has" in said
    assert "Resuming from" in said and "checkpoint-8." in said
    assert lines(out) == whole
    bits = bytearray((out / "checkpoint-12" / "optimizer.pt").read_bytes())
    bits[len(bits) // 2] ^= 1
    (out / "checkpoint-12" / "optimizer.pt").write_bytes(bits)
    assert checkpoint.newest_good(out)[1] == [
        f"{out / 'checkpoint-12'} is broken (the checksum of optimizer.pt differs) and is not used."
    ]


def test_pruning_keeps_two_and_drops_what_lies_beyond_the_newest(tmp_path: Path) -> None:
    for step in (4, 8, 12, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
    checkpoint.prune(tmp_path, 12)
    assert [folder.name for folder in checkpoint.checkpoints(tmp_path)] == ["checkpoint-12", "checkpoint-8"]


def test_accumulating_four_times_one_equals_one_batch_of_four(world: Path, tmp_path: Path) -> None:
    runs = []
    for batch_size, accumulation in ((4, 1), (1, 4), (2, 2)):
        optim = {"batch_size": batch_size, "accumulation": accumulation, "max_steps": 4}
        out = tmp_path / f"{batch_size}x{accumulation}"
        train.run(settings(world, out, optim=optim, lora=None))
        runs.append((lines(out), load_file(out / "model.safetensors")))
    for losses, weights in runs[1:]:
        assert losses == pytest.approx(runs[0][0], abs=1e-4)
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, runs[0][1][name], atol=2e-3, rtol=0)


def test_the_frame_cache_changes_nothing_but_the_work(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = settings(world, tmp_path / "plain", optim={"max_steps": 3}, lora=None)
    cached = settings(
        world, tmp_path / "cached", optim={"max_steps": 3}, lora=None, cache=str(tmp_path / "frames")
    )
    train.run(plain)
    calls = []
    model_class = classes_of("acdc").headless
    monkeypatch.setattr(model_class, "encode", lambda *args: calls.append(args))
    train.run(cached)
    assert not calls
    assert lines(tmp_path / "cached") == pytest.approx(lines(tmp_path / "plain"), abs=2e-2)  # bfloat16 frames


def test_packing_and_recomputing_change_no_loss(world: Path, tmp_path: Path) -> None:
    optim = {"batch_size": 4, "max_steps": 4}
    plain = train.run(settings(world, tmp_path / "plain", optim=optim, lora=None))
    optim |= {"packing": True, "gradient_checkpointing": True}
    valid = {"valid": [str(world / "valid.jsonl")]}
    packed = train.run(settings(world, tmp_path / "packed", optim=optim, lora=None, data=valid))
    assert lines(packed) == pytest.approx(lines(plain), abs=1e-4)
    assert lines(packed, "valid_loss").keys() == {4} == lines(packed, "answers").keys()


def test_a_recipe_that_compiles_does_so_layer_by_layer(world: Path, tmp_path: Path) -> None:
    model, _ = train.build(settings(world, tmp_path, optim={"compile": True}))
    compiled = [name for name, m in model.named_modules() if m._compiled_call_impl is not None]
    assert compiled == [f"model.language_model.layers.{i}" for i in (0, 1)]


def test_frozen_parts_stay_in_eval_mode_and_as_they_were(world: Path, tmp_path: Path) -> None:
    model, _ = train.build(settings(world, tmp_path, lora=None))
    model.train()
    assert model.model.connector.training
    assert not any(module.training for module in model.model.audio_tower.modules())
    assert not any(module.training for module in model.model.language_model.modules())
    assert {part_of(n) for n, p in model.named_parameters() if p.requires_grad} == {"connector"}


def test_bfloat16_freezes_in_bfloat16_and_trains_in_float32(world: Path, tmp_path: Path) -> None:
    half = settings(world, tmp_path / "half", optim={"dtype": "bfloat16", "max_steps": 2})
    model, _ = train.build(half)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
    assert len(lines(train.run(half))) == 2


@pytest.mark.parametrize(("dtype", "bits"), [("int8", 8), ("nf4", 4)])
def test_a_frozen_llm_in_few_bits_learns_what_the_whole_one_does(
    world: Path, tmp_path: Path, dtype: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    models = []
    build = train.build
    monkeypatch.setattr(train, "build", lambda made: models.append(build(made)) or models[-1])
    whole = train.run(settings(world, tmp_path / "whole", optim={"dtype": "bfloat16", "max_steps": 4}))
    few = train.run(settings(world, tmp_path / "few", optim={"dtype": dtype, "max_steps": 4}))
    assert lines(few) == pytest.approx(lines(whole), rel=0.1) and lines(few) != lines(whole)
    weight = models[1][0].model.language_model.layers[0].mlp.up_proj.weight
    assert weight.nbytes * 8 == bits * models[0][0].model.language_model.layers[0].mlp.up_proj.weight.numel()
    assert load_model(few)[0].config.lora == {
        "rank": 2,
        "alpha": 4,
        "dropout": 0.2,
        "targets": ["q_proj", "v_proj"],
    }


def test_few_bits_need_a_library_and_a_frozen_llm(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"int8 needs bitsandbytes: pip install 'lalm\[quantize\]'"):
        train.build(settings(world, tmp_path, optim={"dtype": "int8"}))
    learns = {"trainable": ["language_model"], "lora": None}
    with pytest.raises(
        TrainError, match=r"optim.dtype: model.language_model.\S+ trains, so the LLM cannot be nf4"
    ):
        train.build(settings(world, tmp_path, optim={"dtype": "nf4"}, **learns))


def test_the_example_shows_slots_folded_and_the_loss_marked(world: Path, tmp_path: Path) -> None:
    made = settings(world, tmp_path)
    model, processor = train.build(made)
    mixture, _ = mixtures(made, training_sources(made), model, Console(quiet=True))
    sample = mixture.sources[0][0]
    text = show_example(
        processor.batch([sample, mixture.sources[0][11]], labels=True),
        processor.tokenizer,
        model.config.audio_token_id,
    ).plain
    slots = model.config.num_audio_tokens(8000)
    assert text == (
        f"<|im_start|>user\n<audio x {slots}><|im_end|>\n<|im_start|>assistant\n"
        "[[Noise, number 0.<|im_end|>]]\n"
    )


def test_a_part_without_gradient_is_named(world: Path, tmp_path: Path) -> None:
    model, _ = train.build(settings(world, tmp_path, lora=None))
    check = GradientCheck(Console(quiet=True))
    for step in range(3):
        for name, parameter in model.named_parameters():
            reached = parameter.requires_grad and (
                "linear_2" in name or (step == 2 and name.endswith("1.bias"))
            )
            parameter.grad = torch.ones_like(parameter) if reached else None
        check.on_pre_optimizer_step(None, None, None, model=model)  # type: ignore[arg-type]
    assert check.silent == ["connector.linear_1"]


def test_every_trained_part_gets_a_gradient(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.run(settings(world, tmp_path / "out", optim={"max_steps": 4}))
    said = capsys.readouterr().out
    assert "No gradient" not in said
    assert "language_model (LoRA)" in said and "connector" in said


def test_two_runs_do_not_train_in_one_folder(world: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(TrainError, match="another run is training in"):
        train.run(settings(world, tmp_path / "run"))
    assert not list((tmp_path / "run").glob("*.jsonl"))


@pytest.mark.usefixtures("ctrl_c_heeded")
def test_interrupting_saves_and_says_how_to_go_on(
    world: Path,
    tmp_path: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "stopped"
    stopped = settings(world, out, data={"valid": [str(world / "valid.jsonl")]})
    log = train.Report.on_log

    def then_interrupt(self: Any, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        log(self, args, state, control, logs, **kwargs)
        if state.global_step == 5 and "loss" in logs:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(train.Report, "on_log", then_interrupt)
        with pytest.raises(KeyboardInterrupt):
            train.run(stopped)
    said = " ".join(capsys.readouterr().out.split())
    assert "Stopped after step 6" in said and "Go on with: lalm train" in said
    assert not (out / "model.safetensors").exists()
    train.run(recipe.load(out / "checkpoint-6" / "recipe.yaml"))
    assert lines(out) == lines(finished)


def test_a_disk_that_fills_up_while_saving_costs_the_steps_since_the_last_checkpoint(
    world: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "full"
    full = settings(world, out, data={"valid": [str(world / "valid.jsonl")]})
    publish = checkpoint.publish

    def write(draft: Path, final: Path) -> None:
        if final.name == "checkpoint-8":
            raise OSError(28, "No space left on device")
        publish(draft, final)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "publish", write)
        with pytest.raises(OSError, match=r"the disk is full.*checkpoint-8"):
            train.run(full)
    assert [folder.name for folder in checkpoint.checkpoints(out)] == ["checkpoint-4"]
    train.run(full)
    assert lines(out) == lines(finished)


FULL_DISK = """
import ctypes, os, sys
from pathlib import Path
system, user, group = ctypes.CDLL(None), os.getuid(), os.getgid()
if system.unshare(0x10000000 | 0x00020000):  # a user and a mount namespace of its own
    sys.exit(77)
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/uid_map").write_text(f"0 {{user}} 1")
Path("/proc/self/gid_map").write_text(f"0 {{group}} 1")
if system.mount(b"full", {out!r}.encode(), b"tmpfs", 0, b"size={size}"):
    sys.exit(77)
import lalm.cli.app
code = lalm.cli.app.run(["train", {file!r}])
print("there are:", os.listdir({out!r}), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a small file system")
def test_a_really_full_disk_is_one_sentence(world: Path, tmp_path: Path, finished: Path, crew: Any) -> None:
    """A file system with room for one checkpoint and a half."""
    out = tmp_path / "small"
    out.mkdir()
    file = tmp_path / "full.yaml"
    file.write_text(recipe.dump(settings(world, out, every={"save": 2, "valid": 0})))
    size = sum(-(-f.stat().st_size // 4096) * 4096 for f in (finished / "checkpoint-12").iterdir())
    program = FULL_DISK.format(size=size * 3 // 2, out=str(out), file=str(file))
    (code,) = crew(program, [{}], tmp_path / "said")
    if code == 77:
        pytest.skip("no user namespaces here")
    said = (tmp_path / "said0").read_text()
    assert code == 1, said
    assert f"lalm: the disk is full '{out / 'checkpoint-4'}'" in said.splitlines()
    left = next(line for line in said.splitlines() if line.startswith("there are: "))
    assert "Traceback" not in said and "checkpoint-2" in left


def test_a_step_is_shared_by_processes_or_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = []
    for count in (1, 2, 4, 8, 3):
        monkeypatch.setenv("WORLD_SIZE", str(count))
        optim = settings(world, tmp_path, optim={"batch_size": 4, "accumulation": 2}).optim
        try:
            shared.append(train.shared_step(optim))
        except TrainError as error:
            shared.append(str(error))
    assert shared[:4] == [(4, 2), (4, 1), (2, 1), (1, 1)]
    assert shared[4] == (
        "optim: 2 batches of 4 cannot be shared evenly by 3 processes: make accumulation a multiple of 3"
    )


def test_augmentation_turns_the_cache_off_and_resumes_exactly(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "augmented"
    loud = {"probability": 1.0, "gain_db": (3, 9), "mix_snr_db": (0, 10), "masks": 1}
    made = settings(
        world, out, augment=loud, cache=str(tmp_path / "frames"), optim={"max_steps": 8}, lora=None
    )
    train.run(made)
    assert "The frame cache is off: augmentation changes the waveform." in capsys.readouterr().out
    whole = lines(out)
    shutil.rmtree(out / "checkpoint-8")
    train.run(made)
    assert lines(out) == whole
    plain = train.run(settings(world, tmp_path / "plain", optim={"max_steps": 8}, lora=None))
    assert lines(plain) != whole


def test_another_recipe_is_not_resumed(world: Path, finished: Path) -> None:
    other = settings(
        world, finished, optim={"learning_rate": 2e-2}, data={"valid": [str(world / "valid.jsonl")]}
    )
    with pytest.raises(TrainError, match=r"checkpoint-12 was trained with optim.learning_rate = 0.01"):
        train.run(other)
    with pytest.raises(TrainError, match="already holds checkpoint-12"):
        train.run(settings(world, finished), resume=False)


def test_a_loss_that_is_not_a_number_stops_the_run(world: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"step \d+: the loss is (nan|inf)"):
        train.run(
            settings(world, tmp_path / "out", optim={"learning_rate": 1e25, "max_grad_norm": 0}, lora=None)
        )


def test_epochs_count_the_data(world: Path, tmp_path: Path) -> None:
    optim = {"max_steps": None, "epochs": 1.5, "batch_size": 4}
    assert max(lines(train.run(settings(world, tmp_path / "out", optim=optim)))) == 5  # ceil(1.5 * 12 / 4)


def test_the_next_stage_starts_from_a_trained_folder(world: Path, finished: Path, tmp_path: Path) -> None:
    fields = settings(world, tmp_path).model_dump(by_alias=True)
    fields["init"] = {"from": str(finished)}
    model, _ = train.build(recipe.Recipe.model_validate(fields))
    tensors = load_file(finished / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in tensors.items())
    learns = {name: p.requires_grad for name, p in model.named_parameters()}
    assert all(learns[name] for name in tensors if name in learns)  # the others are buffers
    fields["lora"] = {"rank": 3, "alpha": 4}
    with pytest.raises(TrainError, match="already has LoRA"):
        train.build(recipe.Recipe.model_validate(fields))


def test_a_trained_encoder_lies_in_checkpoints_that_resume(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder"
    both = settings(world, out, trainable=["connector", "audio_tower"], lora=None, optim={"max_steps": 6})
    train.run(both)
    whole = lines(out)
    (out / "checkpoint-6" / "trainer_state.json").unlink()
    train.run(both)
    assert lines(out) == whole
    assert any("audio_tower" in name for name in load_file(out / "model.safetensors"))
    load_model(out)


def test_parts_learn_at_their_own_rates_and_resume_with_them(world: Path, tmp_path: Path) -> None:
    rates = {"connector.linear_2": 1e-3, "*lora_A*": 5e-3}
    optim = {"learning_rate": 1e-2, "learning_rates": rates, "schedule": "constant", "max_steps": 4}
    out = tmp_path / "rates"
    train.run(settings(world, out, optim=optim, every={"save": 2}))
    saved = torch.load(out / "checkpoint-4" / "optimizer.pt", weights_only=True)
    rows = {(group["lr"], len(group["params"]) > 0) for group in saved["param_groups"]}
    assert rows == {(1e-2, True), (1e-3, True), (5e-3, True)}
    whole = lines(out)
    shutil.rmtree(out / "checkpoint-4")
    train.run(settings(world, out, optim=optim, every={"save": 2}))
    assert lines(out) == whole
    wrong = {**optim, "learning_rates": {"audio_tower": 1e-3}}
    with pytest.raises(ValueError, match="nothing that trains is called 'audio_tower'"):
        train.run(settings(world, tmp_path / "wrong", optim=wrong))
