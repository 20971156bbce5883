"""A learning-rate range test (Smith, arXiv 1506.01186, section 3.3): the loss while the rate grows.

The recipe's model takes optimizer steps on its own data; the rate starts low and is multiplied by the same
factor at each of them, until the loss leaves. Nothing is kept. Losses are averaged as they come,

    m <- b m + (1 - b) loss,   loss shown = m / (1 - b^n)

with b = 0.9. Where the shown loss falls fastest over the logarithm of the rate, a run learns fastest; a tenth
of the rate at which it is lowest is the usual careful choice.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers import set_seed as seed_everything
from transformers.trainer_utils import SaveStrategy

from lalm.training.batches import Batches
from lalm.training.clip_loading import reader
from lalm.training.manifests import mixtures, training_sources
from lalm.training.preparing import collator_of, warm_up
from lalm.training.recipe import Recipe
from lalm.training.report import TrainError
from lalm.training.run import arguments, build, steps_of, trainer_of

SMOOTHING = 0.9
LEAVES = 4.0  # times the lowest loss so far: the test is over
SETTLED = 5  # losses before the average means something


@dataclass(frozen=True)
class RateTest:
    """``rates`` and, at each, the averaged loss; and what they suggest, None where nothing was learned."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    steepest: float | None
    careful: float | None


class _Rates(TrainerCallback):
    """Sets the rate of every step and keeps its loss; rates of single parts keep their ratio."""

    def __init__(self, lowest: float, highest: float, steps: int) -> None:
        self.rates = [lowest * (highest / lowest) ** (n / (steps - 1)) for n in range(steps)]
        self.losses: list[float] = []
        self._ratios: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        groups = others["optimizer"].param_groups
        self._ratios = [group.get("initial_lr", group["lr"]) / args.learning_rate for group in groups]

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        for group, ratio in zip(others["optimizer"].param_groups, self._ratios, strict=True):
            group["lr"] = self.rates[state.global_step] * ratio

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **others: Any) -> None:
        if "loss" not in logs:
            return
        self.losses.append(float(logs["loss"]))
        shown = averaged(self.losses)
        if not math.isfinite(shown[-1]) or shown[-1] > LEAVES * min(shown):
            control.should_training_stop = True


def find_rate(recipe: Recipe, *, lowest: float = 1e-6, highest: float = 1.0, steps: int = 100) -> RateTest:
    """Run the test with the recipe's own model, data, objective and optimizer; its ``out`` is not touched.

    Raises TrainError for a range that is none, and for what a run of the recipe would refuse.
    """
    if not 0 < lowest < highest or steps < 2 * SETTLED:
        raise TrainError(f"a test needs rates from low to high and {2 * SETTLED} steps or more")
    if recipe.shard is not None:
        raise TrainError("shard: a test of rates runs on one process; leave it out (--set shard=null)")
    with tempfile.TemporaryDirectory() as folder:
        rates = _Rates(lowest, highest, steps)
        _train(_tested(recipe, Path(folder), steps), rates)
    losses = averaged(rates.losses)
    return suggested(rates.rates[: len(losses)], losses)


def _tested(recipe: Recipe, out: Path, steps: int) -> Recipe:
    """The recipe as it is run for the test: no validation, no checkpoints, nothing reported."""
    constant = {
        "max_steps": steps,
        "epochs": None,
        "warmup_steps": 0,
        "schedule": "constant",
        "average": None,
    }
    changes = {
        "out": str(out),
        "keep": None,
        "report_to": None,
        "optim": recipe.optim.model_copy(update=constant | {"average": None}),
        "every": recipe.every.model_copy(update={"log": 1, "valid": 0}),
    }
    return recipe.model_copy(update=changes)


def _train(recipe: Recipe, rates: _Rates) -> None:
    console = Console(stderr=True)
    seed_everything(recipe.optim.seed)
    sources = training_sources(recipe)
    model, processor = build(recipe)
    train, _ = mixtures(recipe, sources, model, console)
    settings = arguments(recipe, len(rates.rates), model, with_valid=False)
    settings.save_strategy, settings.report_to = SaveStrategy.NO, []
    model.to(settings.device)
    if recipe.warm_start:
        plain = recipe.model_copy(update={"augment": None})
        warm_up(recipe, model, processor, train, reader(plain, model, processor, [train], console), console)
    read = reader(recipe, model, processor, [train], console)
    trainer = trainer_of(recipe)(
        recipe=recipe,
        processor=processor,
        model=model,
        args=settings,
        data_collator=collator_of(recipe, model, processor, [train], read, console),
        train_dataset=steps_of(recipe, Batches(train, len(rates.rates) * train.parts)),
        callbacks=[rates],
    )
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    trainer.train()


def averaged(losses: Sequence[float]) -> list[float]:
    """The running average of each loss with those before it."""
    shown, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        shown.append(mean / (1 - SMOOTHING**number))
    return shown


def suggested(rates: Sequence[float], losses: Sequence[float]) -> RateTest:
    """What averaged losses at growing rates suggest."""
    kept = [loss for loss in losses if math.isfinite(loss)]
    rates = tuple(rates[: len(kept)])
    steepest = careful = None
    if len(kept) > SETTLED:
        lowest = min(range(SETTLED, len(kept)), key=kept.__getitem__)
        if lowest > SETTLED and kept[lowest] < kept[SETTLED]:
            slopes = torch.tensor(kept[SETTLED - 1 : lowest + 1]).diff()
            steepest = rates[SETTLED + int(slopes.argmin())]
            careful = rates[lowest] / 10
    return RateTest(rates, tuple(kept), steepest, careful)
