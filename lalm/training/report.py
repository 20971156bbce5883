"""Reports of a training run.

The first example with its loss mask, the table of parts, progress, ``metrics.jsonl``, TensorBoard, and the
parts that got no gradient."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lalm.errors import LalmError
from lalm.models.modeling import IGNORE_INDEX
from lalm.training.parallel.fsdp2 import full_gradient

PREFERENCE = ("margin", "accuracy", "kl", "chosen_log_prob", "rejected_log_prob")
RETRIEVAL = tuple(f"{way}_recall_at_{k}" for way in ("audio_to_text", "text_to_audio") for k in (1, 5, 10))
DISTILLED = ("cross_entropy", "distance")  # and "kl"
REWARDED = ("reward", "spread", "cut", "tokens", "entropy", "clipped", "unheard", "sampler_gap", "recall")
LOGGED = (
    *("loss", "loss_audio", "loss_text", "learning_rate", "grad_norm", *PREFERENCE, *DISTILLED, *REWARDED),
    *("atc", "atm", "agtg", *RETRIEVAL),
)
GRADIENT_STEPS = 3  # LoRA's first matrices get their first gradient in the second step


def say(console: Console, text: str, style: str = "") -> None:
    """Print one sentence as it is: no markup, no wrapping, so that log files stay searchable."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class TrainError(LalmError, ValueError):
    """A run that cannot start or go on; the text says why."""


def show_example(
    batch: Mapping[str, torch.Tensor], tokenizer: PreTrainedTokenizerBase, audio_token_id: int
) -> Text:
    """The first row of a labelled batch as text: what the loss learns is green between ``[[`` and ``]]``.

    Audio slots are folded to ``<audio x 12>``; padding is left out, and so are rows packed behind the first.
    """
    if "position_ids" in batch:
        real = (batch["position_ids"][0] == 0).cumsum(0) == 1
    else:
        real = batch["attention_mask"][0].bool()
    ids, learned = batch["input_ids"][0][real].tolist(), (batch["labels"][0][real] != IGNORE_INDEX).tolist()
    text = Text()
    at = 0
    while at < len(ids):
        end = at
        kind = (learned[at], ids[at] == audio_token_id)
        while end < len(ids) and (learned[end], ids[end] == audio_token_id) == kind:
            end += 1
        if kind[1]:
            text.append(f"<audio x {end - at}>", style="bold cyan")
        else:
            piece = tokenizer.decode(ids[at:end])
            text.append(f"[[{piece}]]" if kind[0] else piece, style="bold green" if kind[0] else "dim")
        at = end
    return text


def part_of(name: str) -> str:
    """The part a parameter belongs to: "connector", "language_model", "language_model (LoRA)", ..."""
    part = name.removeprefix("model.").split(".")[0]
    return f"{part} (LoRA)" if "lora_" in name else part


def parts_table(model: nn.Module) -> Table:
    """Every part of the model with its parameters, how many of them train, and their dtypes."""
    rows: dict[str, tuple[int, int, set[str]]] = {}
    for name, parameter in model.named_parameters():
        total, trained, dtypes = rows.get(part_of(name), (0, 0, set()))
        size = parameter.numel()
        dtype = str(parameter.dtype).removeprefix("torch.")
        rows[part_of(name)] = (total + size, trained + size * parameter.requires_grad, dtypes | {dtype})
    table = Table("part", "parameters", "trained", "dtype")
    for column in table.columns[1:3]:
        column.justify = "right"
    for part, (total, trained, dtypes) in rows.items():
        table.add_row(part, f"{total:,}", f"{trained:,}" if trained else "frozen", ", ".join(sorted(dtypes)))
    table.add_section()
    table.add_row("all", f"{sum(r[0] for r in rows.values()):,}", f"{sum(r[1] for r in rows.values()):,}", "")
    return table


class GradientCheck(TrainerCallback):
    """After three steps, names the modules that should learn but got no gradient (``silent``)."""

    def __init__(
        self,
        console: Console,
        gradient: Callable[[nn.Parameter], torch.Tensor | None] = full_gradient,
    ) -> None:
        self.silent: list[str] = []
        self._console = console
        self._gradient = gradient
        self._pending: set[str] | None = None
        self._steps = 0

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        if self._steps == GRADIENT_STEPS:
            return
        learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if self._pending is None:
            self._pending = set(learning)
        for name in sorted(self._pending):  # sharded gradients are gathered: everywhere in one order
            gradient = self._gradient(learning[name])
            if gradient is not None and bool(gradient.any()):
                self._pending.remove(name)
        self._steps += 1
        if self._steps == GRADIENT_STEPS and self._pending:
            self.silent = sorted({name.rpartition(".")[0].removeprefix("model.") for name in self._pending})
            self._console.print(
                f"No gradient in {GRADIENT_STEPS} steps reached: {escape(', '.join(self.silent))}",
                style="bold red",
            )


class Report(TrainerCallback):
    """Progress bar (or plain lines where there is no terminal), ``metrics.jsonl`` and TensorBoard.

    A line of metrics.jsonl is {"step", "epoch", "loss", "learning_rate", "grad_norm"},
    {"step", "epoch", "valid_loss"} (both with ``PREFERENCE`` in a DPO run), or {"step", "answers": [...]}.
    A resumed run first drops the lines after its checkpoint, so the file reads as if it had never stopped.
    """

    def __init__(self, out: Path, console: Console, steps_per_epoch: int) -> None:
        self.file = out / "metrics.jsonl"
        self._runs = out / "runs"
        self._console = console
        self._steps_per_epoch = steps_per_epoch
        self._board: SummaryWriter | None = None
        self._bar: Progress | None = None
        self._began = (0.0, 0)  # time in s, step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}, ensure_ascii=False) + "\n")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.compute_steps(
            args, state.max_steps
        )  # a resumed state remembers the intervals of its own recipe
        if not state.is_world_process_zero:
            return
        self._forget_after(state.global_step)
        self._began = (time.monotonic(), state.global_step)
        self._board = SummaryWriter(str(self._runs), purge_step=state.global_step + 1)
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console)
            self._bar.add_task("training", total=state.max_steps, completed=state.global_step)
            self._bar.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save:
            control.should_log = True  # so that the mean loss of a log line never spans a checkpoint
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float],
        **kwargs: Any,
    ) -> None:
        values = {
            key.replace("eval_", "valid_"): value
            for key, value in logs.items()
            if key.removeprefix("eval_") in LOGGED or key.removeprefix("eval_").startswith("reward_")
        }
        step = state.global_step
        if values and self._board is not None:
            self.write(step, {"epoch": round(step / self._steps_per_epoch, 4), **values})
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._tell(state, values)
        loss = values.get("loss", 0.0)
        if not math.isfinite(loss):
            raise TrainError(f"step {step}: the loss is {loss}; lower the learning rate or check the data")

    def _tell(self, state: TrainerState, values: Mapping[str, float]) -> None:
        shown = dict.fromkeys(("loss", "loss_audio", "loss_text", "valid_loss"), ".4f") | {
            "learning_rate": ".2e"
        }
        text = "  ".join(f"{name} {value:{shown[name]}}" for name, value in values.items() if name in shown)
        if self._bar is not None and "loss" in values:
            self._bar.update(self._bar.task_ids[0], description=text)
        elif "valid_loss" in values or self._bar is None:
            began, first = self._began
            done = state.global_step - first
            left_s = (time.monotonic() - began) / max(done, 1) * (state.max_steps - state.global_step)
            left = f"{int(left_s) // 3600}:{int(left_s) // 60 % 60:02}:{int(left_s) % 60:02}"
            line = f"step {state.global_step}/{state.max_steps}  {text}  time left {left}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _forget_after(self, step: int) -> None:
        """Drop what a killed run wrote after the checkpoint, and a line it was cut off in."""
        if not self.file.is_file():
            return
        kept = []
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, RecursionError):
                continue
        self.file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
