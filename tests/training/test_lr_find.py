"""The range test of learning rates: what a curve suggests, and the test of a recipe."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import settings, training_world

from lalm.cli.app import run as command
from lalm.training.lr_find import _Rates, averaged, find_rate, suggested
from lalm.training.report import TrainError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return training_world(tmp_path_factory.mktemp("world"))


def test_a_curve_suggests_where_it_falls_fastest_and_a_tenth_of_its_lowest() -> None:
    rates = [10.0 ** (n / 5 - 6) for n in range(30)]
    losses = [3 - 2 / (1 + math.exp(-(n - 14))) + max(0, n - 20) for n in range(30)]
    found = suggested(rates, losses)
    assert found.steepest in rates[13:16] and found.careful == pytest.approx(rates[20] / 10)
    flat = suggested(rates, [3.0] * 30)
    assert (flat.steepest, flat.careful) == (None, None) and len(flat.losses) == 30
    assert suggested(rates, [3.0] * 4).steepest is None
    assert averaged([2.0, 2.0, 2.0]) == pytest.approx([2.0] * 3)
    assert averaged([1.0, 0.0])[1] == pytest.approx(0.09 / 0.19)


def test_a_recipe_is_tested_on_its_own_data_and_leaves_nothing(world: Path, tmp_path: Path) -> None:
    optim = {"max_steps": 3, "learning_rate": 1e-3, "learning_rates": {"connector": 1e-2}}
    made = settings(world, tmp_path / "run", optim=optim)
    found = find_rate(made, lowest=1e-5, highest=1.0, steps=30)
    assert not (tmp_path / "run").exists()
    assert len(found.losses) == len(found.rates) == 30
    assert found.rates[1] / found.rates[0] == pytest.approx(10 ** (5 / 29))
    assert found.steepest is not None and found.rates[0] < found.steepest < found.rates[-1]
    assert find_rate(made, lowest=1e-5, highest=1.0, steps=30).losses == found.losses
    with pytest.raises(TrainError, match="a test needs rates from low to high and 10 steps or more"):
        find_rate(made, lowest=1.0, highest=0.1)


def test_the_test_ends_when_the_loss_leaves_and_parts_keep_their_ratio() -> None:
    rates, control = _Rates(1e-3, 1.0, 4), SimpleNamespace(should_training_stop=False)
    for loss in (2.0, 1.0, 1.0, 90.0):
        assert not control.should_training_stop
        rates.on_log(None, None, control, {"loss": loss})
    assert control.should_training_stop and rates.losses == [2.0, 1.0, 1.0, 90.0]
    groups = [{"lr": 1e-4, "initial_lr": 1e-4}, {"lr": 1e-3, "initial_lr": 1e-3}]
    optimizer = SimpleNamespace(param_groups=groups)
    rates.on_train_begin(SimpleNamespace(learning_rate=1e-4), None, control, optimizer=optimizer)
    rates.on_step_begin(None, SimpleNamespace(global_step=3), control, optimizer=optimizer)
    assert [group["lr"] for group in groups] == pytest.approx([1.0, 10.0])


def test_the_command_prints_a_table_and_a_suggestion(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = settings(world, tmp_path / "run")
    file = tmp_path / "mine.yaml"
    file.write_text(made.model_dump_json(by_alias=True, exclude_defaults=True))
    assert command(["lr-find", str(file), "--steps", "20", "--from", "1e-4", "--to", "1"]) == 0
    told = capsys.readouterr().out
    assert "| learning rate | loss |" in told and "| 0.0001 |" in told
    assert "Try: --set optim.learning_rate=" in told or "The loss never fell" in told
    assert command(["lr-find", str(file), "--steps", "2"]) == 2
