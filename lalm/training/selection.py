"""The best model of a run by a measure of validation, and stopping when it no longer gets better.

What was best so far, and how long ago, is read from the Trainer's log of validations, which each checkpoint
holds: a resumed run knows it without a state of its own.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lalm.training.recipe import Keep
from lalm.training.report import TrainError, say
from lalm.weights import checkpoint

BEST = "best"  # the folder in a run's out
STATE = "trainer_state.json"  # in a checkpoint
FALLING = (  # of these measures less is better; of all others more
    *("loss", "loss_audio", "loss_text", "kl", "distance", "cross_entropy"),
    *("atc", "atm", "agtg", "rejected_log_prob", "reward_repeats"),
)


def measures(history: Sequence[Mapping[str, Any]], measure: str) -> list[tuple[int, float]]:
    """(step, value) of every validation in the Trainer's log. ``measure`` is named as in metrics.jsonl.

    Raises TrainError when a validation did not give it.
    """
    key = measure.replace("valid_", "eval_", 1)
    validations = [entry for entry in history if "eval_loss" in entry]
    if validations and key not in validations[-1]:
        known = (name for name in validations[-1] if name.startswith("eval_"))
        timing = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
        shown = ", ".join(name.replace("eval_", "valid_", 1) for name in known if name not in timing)
        raise TrainError(f"keep.best: validation gives no '{measure}'; it gives {shown}")
    return [(int(entry["step"]), float(entry[key])) for entry in validations]


def best_of(found: Sequence[tuple[int, float]], measure: str) -> tuple[int, float]:
    """(step, value) of the first best validation; one that gave no number is the worst."""
    falling = measure.removeprefix("valid_") in FALLING
    numbers = [pair for pair in found if not math.isnan(pair[1])] or found
    return (min if falling else max)(numbers, key=lambda pair: pair[1])


def has_stopped(found: Sequence[tuple[int, float]], keep: Keep) -> bool:
    """Whether the last ``patience`` validations were none better than one before them."""
    if keep.patience is None or keep.best is None or len(found) <= keep.patience:
        return False
    step, _ = best_of(found, keep.best)
    return [at for at, _ in found].index(step) < len(found) - keep.patience


def stopped_at(folder: Path, keep: Keep | None) -> bool:
    """Whether the run of a checkpoint had stopped there for want of progress."""
    if keep is None or keep.best is None:
        return False
    history = json.loads((folder / STATE).read_text(encoding="utf-8"))["log_history"]
    return has_stopped(measures(history, keep.best), keep)


class KeepBest(TrainerCallback):
    """Leaves the model of the best validation in ``out/best``, and stops a run that gets no better.

    ``save`` writes the model as it is now into a folder; all processes call it together.
    """

    def __init__(self, keep: Keep, out: Path, save: Callable[[Path], None], console: Console) -> None:
        assert keep.best is not None
        self._keep, self._measure = keep, keep.best
        self._out, self._save, self._console = out, save, console

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        found = measures(state.log_history, self._measure)
        step, value = best_of(found, self._measure)
        if step == state.global_step:
            draft = checkpoint.staging(self._out) / BEST
            with checkpoint.writing(draft, self._out / BEST):
                self._save(draft)
                if args.should_save:
                    checkpoint.publish(draft, self._out / BEST)
            say(self._console, f"Best so far: {self._measure} {value:.4f} at step {step}, kept in {BEST}.")
        if has_stopped(found, self._keep):
            control.should_training_stop = control.should_save = True
            say(
                self._console,
                f"Stopping after step {state.global_step}: no better {self._measure} than {value:.4f} (step "
                f"{step}) in {self._keep.patience} validations.",
            )


def take_best(out: Path) -> bool:
    """Make the best model the model of ``out``; False where there is none."""
    if not (out / BEST).is_dir():
        return False
    for file in (out / BEST).iterdir():
        if file.name != checkpoint.CHECKSUMS:
            draft = out / f".{file.name}.part"
            shutil.copyfile(file, draft)
            draft.replace(out / file.name)
    return True
