"""Additions to transformers' Trainer: checkpoints, answers at validation, Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from accelerate import FullyShardedDataParallelPlugin
from rich.console import Console
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lalm.data.audio_inputs import CachedFrames, Clip
from lalm.data.sample import Sample
from lalm.errors import refuse_pickled_code
from lalm.inference.generation import processors_of, settings_of
from lalm.inference.options import Options
from lalm.inference.protocols import Protocol, asked
from lalm.models.answer_end import answer_ends
from lalm.models.load import load_trained
from lalm.models.modeling import AudioLMForConditionalGeneration, name_matches
from lalm.models.processing import AudioLMProcessor
from lalm.models.save import has_parts, save_model, trained_names
from lalm.training import recipe as recipes
from lalm.training.averaging import WeightAverage
from lalm.training.optimizers import MuonWithAdamW
from lalm.training.parallel.deepspeed import (
    gather_optimizer_state,
    gather_zero_weights,
    scatter_optimizer_state,
)
from lalm.training.parallel.fsdp2 import METADATA, gather_weights, load_shards, save_shards, shard_on_cpus
from lalm.training.recipe import Recipe
from lalm.training.report import Report, say
from lalm.training.text_replay import ROWS, losses_apart
from lalm.weights import checkpoint

ANSWER_TOKENS = 64
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"

Read = Callable[[Sample], Sequence[Clip | CachedFrames]]


class RecipeTrainer(Trainer):
    """The Trainer with checkpoints of ours: what trains, sealed, renamed into place, the last ones kept.

    Validation and what a run leaves are of the weights' average where the recipe wants one.
    """

    def __init__(self, recipe: Recipe, processor: AudioLMProcessor, **settings: Any) -> None:
        super().__init__(**settings)
        self.whole: Any = self.model  # what is saved, where less of it is trained by itself
        self._recipe, self._processor = recipe, processor
        self._out = Path(recipe.out)
        self._groups: list[list[torch.nn.Parameter]] = []  # what AdamW was made with
        self._noted: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}  # by whether it trains
        decay = recipe.optim.average
        self._average = WeightAverage(self.whole, decay) if decay else None
        if self._average:
            self.add_callback(Averaging(self._average))

    def averaged(self) -> AbstractContextManager[None]:
        """The average in the place of the weights, if there is one."""
        return self._average.in_place() if self._average else nullcontext()

    def evaluate(self, *args: Any, **settings: Any) -> dict[str, float]:
        """The Trainer's validation and all that hangs on it."""
        with self.averaged():
            return super().evaluate(*args, **settings)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimizer, with the recipe's learning rates of parts as groups of their own."""
        optimizer = super().create_optimizer(model)
        rates = self._recipe.optim.learning_rates
        if rates:
            names = {id(p): name for name, p in self.model.named_parameters()}
            optimizer.param_groups[:] = split_groups(optimizer.param_groups, names, rates)
        if self._recipe.optim.optimizer == "muon":
            optimizer = MuonWithAdamW(optimizer.param_groups)
            self.optimizer: Any = optimizer
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        return optimizer

    def compute_loss(self, model: Any, inputs: Any, *given: Any, **more: Any) -> Any:
        """The Trainer's; of batches that tell which rows are text alone, the two losses are noted apart."""
        if ROWS in inputs:
            count = more.get("num_items_in_batch")
            inputs = {**inputs, "answer_loss": partial(self._told_apart, inputs[ROWS], count)}
            del inputs[ROWS]
        return super().compute_loss(model, inputs, *given, **more)

    def _told_apart(self, text: Tensor, count: Any, hidden: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """The cross-entropy as ever. text: (B,) bool; hidden: (P, D), targets, rows: (P,)."""
        plain, alone = self.model, text[rows]
        sums = losses_apart(plain.logits, hidden, targets, alone, plain.config.text_config.vocab_size)
        for name, total, tokens in zip(
            ("loss_audio", "loss_text"), sums.detach(), (~alone, alone), strict=True
        ):
            self.note(name, float(total / tokens.sum()) if bool(tokens.any()) else None)
        return sums.sum() / (count if count is not None else len(targets))

    def note(self, name: str, value: float | None) -> None:
        """Keep a measure of one batch; the mean stands in the next line of training or of validation.

        All processes note the same names, with None where their batch has no such measure.
        """
        self._noted[self.model.training].setdefault(name, []).extend([] if value is None else [value])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's line and the means of what was noted since the last one."""
        validation = "eval_loss" in logs
        if validation or "loss" in logs:
            prefix = "eval_" if validation else ""
            noted, self._noted[not validation] = self._noted[not validation], {}
            means = {prefix + name: self._mean(values) for name, values in noted.items()}
            logs |= {name: mean for name, mean in means.items() if mean is not None}
        super().log(logs, start_time)

    def _mean(self, values: Sequence[float]) -> float | None:
        """The mean over the values of all processes, which call it together; None of none."""
        total = torch.tensor([sum(values), len(values)], dtype=torch.float64, device="cpu")
        if self.args.world_size > 1:
            total = self.accelerator.reduce(total.to(self.args.device), "sum")
        return float(total[0] / total[1]) if total[1] else None

    def create_accelerator_and_postprocess(self) -> None:
        """The Trainer's accelerator, which shards on CPUs too."""
        super().create_accelerator_and_postprocess()
        if self.args.fsdp_plugin_args is not None:
            shard_on_cpus(self.accelerator, FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args))
            self.is_fsdp_enabled = True

    def save_run(self, folder: Path) -> None:
        """Weights and recipe of the run as it is now; all processes call it, the first one writes."""
        slim = is_slim(self.whole)
        names = trained_names(self.whole) if slim else list(self.whole.state_dict())
        state = None
        if self._recipe.shard:
            state = (gather_zero_weights if self.is_deepspeed_enabled else gather_weights)(self.whole, names)
        if self.args.should_save:
            save_model(self.whole, self._processor, folder, slim=slim, state=state)
            (folder / "recipe.yaml").write_text(recipes.dump(self._recipe), encoding="utf-8")

    def _get_output_dir(self, trial: Any) -> str:
        return str(checkpoint.staging(self._out))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        draft, final = checkpoint.staging(self._out) / name, self._out / name
        with checkpoint.writing(draft, final):
            super()._save_checkpoint(model, trial)
            if self._average and self.args.should_save:
                self._average.save(draft)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                checkpoint.publish(draft, final)
                last = self._recipe.keep.last if self._recipe.keep else checkpoint.KEEP
                checkpoint.prune(self._out, self.state.global_step, last)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.save_run(Path(output_dir or self._out))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The Trainer's; with FSDP2 only the recipe, because its weights lie with the optimizer."""
        folder = Path(output_dir or self._out)
        if self.is_deepspeed_enabled:
            self.save_run(folder)
        elif self._recipe.shard != "fsdp2":
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "recipe.yaml").write_text(recipes.dump(self._recipe), encoding="utf-8")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled:
            states = gather_optimizer_state(self.optimizer.optimizer, self._groups)
            if self.args.should_save:
                torch.save(states, Path(output_dir) / OPTIMIZER)
        elif self._recipe.shard == "fsdp2":
            save_shards(self.whole, self.optimizer, Path(output_dir))
        else:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:
        """The Trainer's; DeepSpeed would resume from files of its own alone."""
        if resume_from_checkpoint is None or not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self._load_from_checkpoint(resume_from_checkpoint)  # now, while the weights are in one piece
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        folder = Path(resume_from_checkpoint)
        states = _states(folder / OPTIMIZER)
        scatter_optimizer_state(self.optimizer.optimizer, self._groups, states)
        self.lr_scheduler.load_state_dict(_states(folder / SCHEDULER))
        return prepared

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not (Path(checkpoint) / METADATA).is_file():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_shards(self.whole, self.optimizer, Path(checkpoint))
        self.lr_scheduler.load_state_dict(_states(Path(checkpoint) / SCHEDULER))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        if self._average:
            self._average.load(Path(resume_from_checkpoint))
        if (Path(resume_from_checkpoint) / METADATA).is_file():
            return  # its weights come with the optimizer
        if is_slim(self.whole):
            load_trained(self.whole, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


class Averaging(TrainerCallback):
    """Takes the weights after each optimizer step into their average."""

    def __init__(self, average: WeightAverage) -> None:
        self._average = average

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._average.update(state.global_step)


class Answers(TrainerCallback):
    """After each validation, prints and logs what the model answers to a few samples.

    Of a model whose weights are divided all processes answer ``together``, and the first one tells. They are
    asked in the words and with the settings of a paper's ``protocol``, if one is given.
    """

    def __init__(
        self,
        samples: list[Sample],
        processor: AudioLMProcessor,
        read: Read,
        report: Report,
        console: Console,
        together: bool,
        protocol: Protocol | None = None,
    ) -> None:
        self._samples = [asked(s, protocol) for s in samples] if protocol else samples
        self._options = Options(
            **{"max_new_tokens": ANSWER_TOKENS, **(protocol.generation if protocol else {})}
        )
        self._processor, self._read = processor, read
        self._report, self._console, self._together = report, console, together

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: AudioLMForConditionalGeneration,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero and not self._together:
            return
        answers = []
        for sample in self._samples:
            try:
                batch = self._processor.batch([sample.prompt()], audios=[self._read(sample)])
            except (ValueError, OSError) as error:
                say(self._console, f"no answer: {error}", "yellow")
                continue
            ids = model.generate(**batch.to(model.device), **self._settings(model, batch["input_ids"]))
            (answer,) = self._processor.decode_new(ids)
            target = sample.target or sample.chosen
            answers.append({"id": sample.id, "target": target, "answer": answer})
            for name, text in (("target", target), ("answer", answer)):
                line = "".join(c if c.isprintable() else " " for c in text)
                say(self._console, f"  {name} {sample.id}: {line}")
        if answers and state.is_world_process_zero:
            self._report.write(state.global_step, {"answers": answers})

    def _settings(self, model: AudioLMForConditionalGeneration, prompts: torch.Tensor) -> dict[str, Any]:
        """How answers are generated, as ``generate`` takes it; prompts: (B, L) ids."""
        tokenizer = self._processor.tokenizer
        ends = answer_ends(tokenizer, str(self._processor.chat_template), model.generation_config)
        vocabulary = int(model.config.text_config.vocab_size)
        return {
            "generation_config": settings_of(self._options, ends, tokenizer.pad_token_id),
            "logits_processor": processors_of(list(prompts), vocabulary, ends, self._options),
        }


class Interruption(TrainerCallback):
    """Ctrl-C or SIGTERM: finish the step, save, stop. A second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if torch.distributed.is_initialized():  # all processes stop at the same step
            asked = torch.tensor(int(self.asked), device=args.device)
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
            self.asked = bool(asked)
        if self.asked:
            control.should_save = control.should_log = control.should_training_stop = True


def _states(path: Path) -> Any:
    """What a checkpoint keeps of the optimizer or the schedule. Raises UnsafePickle."""
    with refuse_pickled_code(f"'{path}'"):
        return torch.load(path, weights_only=True, mmap=path.name == OPTIMIZER)


def is_slim(model: AudioLMForConditionalGeneration) -> bool:
    """True when connector and LoRA are all that trains and the other parts can be found by name."""
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    return learning <= set(trained_names(model)) and has_parts(model.config)


def split_groups(
    groups: Sequence[dict[str, Any]], names: Mapping[int, str], rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Optimizer groups split by the first pattern of ``rates`` that fits a parameter's name (by its id).

    Raises ValueError for a pattern that fits no trainable parameter.
    """
    split: list[dict[str, Any]] = []
    used: set[str] = set()
    for group in groups:
        parts: dict[str, list[torch.nn.Parameter]] = {}
        for parameter in group["params"]:
            fits = (pattern for pattern in rates if name_matches(names[id(parameter)], pattern))
            parts.setdefault(next(fits, ""), []).append(parameter)
        used |= parts.keys()
        split += [
            {**group, "params": members, "lr": rates.get(pattern, group["lr"])}
            for pattern, members in sorted(
                parts.items()
            )  # "", the rest, first: it is the rate that is logged
        ]
    for pattern in rates:
        if pattern not in used:
            raise ValueError(f"optim.learning_rates: nothing that trains is called '{pattern}'")
    return split
