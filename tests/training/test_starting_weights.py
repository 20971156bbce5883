"""Stages: a run in bfloat16 that goes on from a model whose LLM was trained as a whole."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import lines, settings, training_world

from lalm.training import recipe, starting_weights
from lalm.training import run as train
from lalm.training.recipe import Recipe
from lalm.training.report import TrainError

OPTIONS = {
    "acdc": {"group_size": 10, "connector_width": 32},
    "modular": {"connector": "mlp", "connector_options": {"stack": 3, "hidden": 16}},
}
BRIEF = {"dtype": "bfloat16", "max_steps": 2, "warmup_steps": 0}


@pytest.mark.parametrize("system", OPTIONS)
@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4}], ids=["whole", "lora"])
def test_a_stage_begins_with_the_numbers_that_were_kept(system: str, lora: object, tmp_path: Path) -> None:
    world = training_world(tmp_path / "world", dropout=0.0)
    learns = ["connector", "language_model"]
    own = {
        "system": system,
        "init": {"options": OPTIONS[system]},
        "data": {"valid": []},
        "every": {"valid": 0},
    }
    first = train.run(settings(world, tmp_path / "a", **own, lora=None, trainable=learns, optim=BRIEF))
    saved = load_file(first / "model.safetensors")
    assert saved["model.connector.frame_mean"].dtype == torch.float32
    for part in ("language_model.layers.0", "language_model.embed_tokens"):
        one = settings(world, tmp_path / "c", **own, lora=None, trainable=[part], optim=BRIEF)
        with pytest.raises(
            TrainError, match=r"optim.dtype: 'language_model.*does not; so the LLM cannot be bf"
        ):
            train.build(one)
    onward = settings(world, tmp_path / "b", **own, lora=lora, optim=BRIEF).model_dump(by_alias=True)
    onward |= {"init": {"from": str(first)}, "trainable": learns if lora is None else ["connector"]}
    model, _ = train.build(Recipe.model_validate(onward))
    begun = {name: value for name, value in model.named_parameters() if value.requires_grad}
    begun |= {name: value for name, value in model.named_buffers() if "connector" in name}
    kept = [name for name in begun if name in saved]
    assert len(kept) >= 6
    for name in kept:
        assert begun[name].dtype == torch.float32 and torch.equal(begun[name], saved[name]), name
    out = train.run(Recipe.model_validate(onward))
    assert all(math.isfinite(loss) for loss in lines(out).values())


@pytest.mark.parametrize(("fast", "named"), [(torch.bfloat16, "bfloat16"), (torch.float32, "float32")])
def test_auto_is_what_the_machine_computes_fast_and_a_run_keeps_it(
    fast: torch.dtype,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = training_world(tmp_path / "world", dropout=0.0)
    monkeypatch.setattr(starting_weights, "pick_dtype", lambda device: fast)
    monkeypatch.setattr(starting_weights, "is_slow", lambda asked: False)
    auto = settings(world, tmp_path / "a", optim=BRIEF | {"dtype": "auto"}, every={"save": 1, "valid": 0})
    model, _ = train.build(auto)
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert frozen == {fast} and {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    out = train.run(auto)
    assert recipe.load(out).optim.dtype == named
    other = torch.float32 if fast == torch.bfloat16 else torch.bfloat16
    monkeypatch.setattr(starting_weights, "pick_dtype", lambda device: other)
    monkeypatch.setattr(starting_weights, "is_slow", lambda asked: other == torch.float32)
    capsys.readouterr()
    longer = auto.model_copy(update={"optim": auto.optim.model_copy(update={"max_steps": 4})})
    assert recipe.load(train.run(longer)).optim.dtype == named
    said = " ".join(capsys.readouterr().out.split())
    assert "Resuming from" in said and ("the run began so on another" in said) == (named == "bfloat16")
    with pytest.raises(TrainError, match=f"was trained with optim.dtype = {named}, the recipe says"):
        train.run(settings(world, tmp_path / "a", optim=BRIEF | {"dtype": str(other).split(".")[1]}))


def test_bfloat16_where_it_is_slow_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = training_world(tmp_path / "world", dropout=0.0)
    monkeypatch.setattr(starting_weights, "is_slow", lambda asked: True)
    train.run(settings(world, tmp_path / "a", optim=BRIEF, every={"valid": 0}))
    said = " ".join(capsys.readouterr().out.split())
    assert "has no instructions for bfloat16" in said and "optim.dtype=auto takes float32 here" in said
    assert recipe.load(tmp_path / "a").optim.dtype == "bfloat16"


@pytest.mark.parametrize(
    "name", sorted(name for name in recipe.shipped() if "small" in name or "own" in name)
)
def test_recipes_for_a_cpu_leave_the_number_format_to_it(name: str) -> None:
    assert recipe.load(name).optim.dtype == "auto"
