"""Recipe -> trained model folder, on transformers' Trainer.

``run`` assembles the model, freezes what does not learn, shows what it will do, trains, and leaves in
``out``: config.json, model.safetensors, recipe.yaml (what ``lalm.systems.load`` opens), metrics.jsonl,
TensorBoard's ``runs/`` and the last two checkpoints. Started again, it goes on from the newest good one.
"""

import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers import set_seed as seed_everything

from lalm import checkpoint, systems
from lalm import recipe as recipes
from lalm.audio import SAMPLE_RATE
from lalm.cache import FrameCache
from lalm.data import Batches, Collator, DataError, Mixture, audio_seconds, open_manifest, subset, text_tokens
from lalm.modeling import AudioLMForConditionalGeneration
from lalm.processing import AudioLMProcessor, CachedFrames, Clip
from lalm.recipe import Recipe
from lalm.sample import Sample
from lalm.train_report import GradientCheck, Report, TrainError, parts_table, show_example

ANSWER_TOKENS = 64
# A run may be resumed under a recipe that differs in these; anything else would be another run.
MAY_CHANGE = (
    "every",
    "valid",
    "data.valid",
    "data.workers",
    "optim.max_steps",
    "optim.epochs",
    "cache",
    "out",
)

Read = Callable[[Sample], Sequence[Clip | CachedFrames]]


def run(recipe: Recipe, *, resume: bool = True) -> Path:
    """Train as the recipe says and return the folder of the trained model.

    Resumes from the newest good checkpoint in ``out``; with ``resume=False`` an ``out`` that holds
    checkpoints is refused. Ctrl-C saves a checkpoint first and then raises KeyboardInterrupt.
    Example: ``run(recipe.load("acdc/small", ["out=runs/mine"]))``.
    """
    console = Console()
    out = Path(recipe.out)
    if not resume:
        _check_fresh(out)
    start = _starting_point(recipe, out, console)
    seed_everything(recipe.optim.seed)
    model, processor = build(recipe)
    train, valid = mixtures(recipe, model)
    steps = recipe.optim.max_steps or math.ceil((recipe.optim.epochs or 0) * train.steps_per_epoch)
    out.mkdir(parents=True, exist_ok=True)
    _clear(checkpoint.staging(out))
    frames = _frame_cache(recipe, model, console)
    read: Read = processor.clips if frames is None else lambda sample: _cached(frames, sample)
    batches = Batches(train, steps * train.parts)
    valid_batches = Batches(valid, valid.steps_per_epoch, "validation") if valid else None
    with Report(out, console, train.steps_per_epoch) as report:
        trainer = _Run(
            recipe,
            processor,
            steps,
            model=model,
            args=arguments(recipe, steps, with_valid=valid is not None),
            data_collator=Collator(processor, read),
            train_dataset=batches,
            eval_dataset=valid_batches,
            callbacks=[report, GradientCheck(console)],
        )
        trainer.remove_callback(PrinterCallback)
        if valid_batches is not None:
            answered = subset(
                [s for source in valid_batches.mixture.sources for s in source], recipe.valid.generate
            )
            trainer.add_callback(_Answers(answered, processor, read, report, console))
        if frames is not None:
            _fill(frames, [train, valid], console)
        console.print(parts_table(model))
        console.print("The first example; the loss learns what stands in [[ ]]:", style="bold", markup=False)
        console.print(
            show_example(
                trainer.data_collator([batches[0]]), processor.tokenizer, model.config.audio_token_id
            )
        )
        with _Interruption() as interruption:
            trainer.add_callback(interruption)
            trainer.train(resume_from_checkpoint=str(start) if start else None)
    if interruption.asked and trainer.state.global_step < steps:
        newest = checkpoint.checkpoints(out)[0]
        console.print(
            f"Stopped after step {trainer.state.global_step}; {escape(str(newest))} holds everything."
        )
        console.print(f"Go on with: lalm train {escape(str(newest / 'recipe.yaml'))}", highlight=False)
        raise KeyboardInterrupt
    _finish(trainer, out)
    return out


def build(recipe: Recipe) -> tuple[AudioLMForConditionalGeneration, AudioLMProcessor]:
    """The recipe's model, frozen but for what trains (float32), and its processor."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[recipe.optim.dtype]
    lora = recipe.lora.model_dump() if recipe.lora else None
    if recipe.init.from_ is None:
        model, processor = systems.assemble(
            recipe.system,
            encoder=str(recipe.init.encoder),
            llm=str(recipe.init.llm),
            options=recipe.init.options,
            lora=lora,
            dtype=dtype,
        )
    else:
        model, processor = systems.load(recipe.init.from_, dtype=dtype)
        if lora and not model.config.lora:
            systems.add_lora(model, lora)
        elif lora and lora != model.config.lora:
            raise TrainError(f"lora: '{recipe.init.from_}' already has LoRA with {model.config.lora}")
    names = model.set_trainable([*recipe.trainable, *(["*lora_*"] if lora else [])])
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if model.config.lora and not _is_slim(model):
        extra = sorted(set(names) - set(systems.trained_names(model)))[0]
        raise TrainError(f"trainable: with LoRA only the connector may train beside it, not {extra}")
    return model, processor


def mixtures(recipe: Recipe, model: AudioLMForConditionalGeneration) -> tuple[Mixture, Mixture | None]:
    """The training mixture and, when the recipe names manifests for it, the validation one."""

    def length(sample: Sample) -> float:
        heard = sum(model.config.num_audio_tokens(int(audio_seconds(p) * SAMPLE_RATE)) for p in sample.audios)
        return heard + text_tokens(sample)

    sources = [(open_manifest(source.path), source.weight) for source in recipe.data.train]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    train = Mixture(
        sources,
        length,
        batch_size=recipe.optim.batch_size,
        parts=recipe.optim.accumulation * processes,
        seed=recipe.optim.seed,
    )
    if not recipe.data.valid or not recipe.every.valid:
        return train, None
    held_out = [sample for path in recipe.data.valid for sample in open_manifest(path)]
    held_out = subset(held_out, recipe.valid.samples)
    return train, Mixture([(held_out, 1.0)], length, batch_size=min(recipe.optim.batch_size, len(held_out)))


def arguments(recipe: Recipe, steps: int, *, with_valid: bool) -> TrainingArguments:
    """The recipe in the Trainer's words; ``Mixture`` makes the batches, hence the Trainer's own size of 1."""
    optim, every = recipe.optim, recipe.every
    return TrainingArguments(
        output_dir=recipe.out,
        max_steps=steps,
        num_train_epochs=1,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=optim.accumulation,
        learning_rate=optim.learning_rate,
        lr_scheduler_type="constant_with_warmup" if optim.schedule == "constant" else optim.schedule,
        warmup_steps=optim.warmup_steps,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
        optim="adamw_torch",
        seed=optim.seed,
        bf16=False,  # the model casts; autocast on top would cast the connector's float32 weights too
        use_cache=True,  # leave the config as it is: generation needs the cache, the loss turns it off itself
        train_sampling_strategy="sequential",
        dataloader_num_workers=recipe.data.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=["labels"],
        logging_strategy="steps",
        logging_steps=every.log,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=every.save,
        eval_strategy="steps" if with_valid else "no",
        eval_steps=every.valid or None,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )


class _Run(Trainer):
    """The Trainer with checkpoints of ours: what trains, sealed, renamed into place, the last two kept."""

    def __init__(self, recipe: Recipe, processor: AudioLMProcessor, steps: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._recipe, self._processor = recipe, processor
        self._out = Path(recipe.out)
        self._steps = steps

    def save_run(self, folder: Path) -> None:
        """Weights and recipe of the run as it is now."""
        systems.save(self.model, self._processor, folder, slim=_is_slim(self.model))
        (folder / "recipe.yaml").write_text(recipes.dump(self._recipe), encoding="utf-8")

    def _get_output_dir(self, trial: Any) -> str:
        return str(checkpoint.staging(self._out))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            name = f"checkpoint-{self.state.global_step}"
            checkpoint.publish(checkpoint.staging(self._out) / name, self._out / name)
            checkpoint.prune(self._out)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.save_run(Path(output_dir or self._out))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        if _is_slim(self.model):
            systems.load_trained(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


class _Answers(TrainerCallback):
    """After each validation, prints and logs what the model answers to a few samples."""

    def __init__(
        self, samples: list[Sample], processor: AudioLMProcessor, read: Read, report: Report, console: Console
    ) -> None:
        self._samples, self._processor, self._read = samples, processor, read
        self._report, self._console = report, console

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: AudioLMForConditionalGeneration,
        **kwargs: Any,
    ) -> None:
        answers = []
        for sample in self._samples:
            try:
                batch = self._processor.batch([sample.prompt()], audios=[self._read(sample)])
            except (ValueError, OSError) as error:
                self._console.print(f"no answer: {escape(str(error))}", style="yellow")
                continue
            ids = model.generate(**batch.to(model.device), max_new_tokens=ANSWER_TOKENS, do_sample=False)
            (answer,) = self._processor.decode_new(ids)
            answers.append({"id": sample.id, "target": sample.target, "answer": answer})
            self._console.print(f"  [dim]{escape(sample.id)} target[/]  {escape(sample.target)}")
            self._console.print(f"  [dim]{escape(sample.id)} answer[/]  {escape(answer)}")
        if answers:
            self._report.write(state.global_step, {"answers": answers})


class _Interruption(TrainerCallback):
    """Ctrl-C or SIGTERM: finish the step, save, stop. A second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Interruption":
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
        if self.asked:
            control.should_save = control.should_log = control.should_training_stop = True


def _is_slim(model: AudioLMForConditionalGeneration) -> bool:
    """True when connector and LoRA are all that trains and the other parts can be found by name."""
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    return learning <= set(systems.trained_names(model)) and {"encoder", "llm"} <= set(model.config.parts)


def _check_fresh(out: Path) -> None:
    if found := checkpoint.checkpoints(out):
        raise TrainError(f"'{out}' already holds {found[0].name}: resume that run, or name another 'out'")


def _starting_point(recipe: Recipe, out: Path, console: Console) -> Path | None:
    """The checkpoint to resume from, if any; it must be of the same run."""
    folder, remarks = checkpoint.newest_good(out)
    for remark in remarks:
        console.print(escape(remark), style="yellow")
    if folder is None:
        if remarks:
            console.print("No good checkpoint is left; the run starts again.", style="yellow")
        return None
    earlier = _flat(recipes.load(folder / "recipe.yaml").model_dump(by_alias=True))
    now = _flat(recipe.model_dump(by_alias=True))
    for key in sorted(earlier.keys() | now.keys()):
        free = any(key == name or key.startswith(name + ".") for name in MAY_CHANGE)
        if not free and earlier.get(key) != now.get(key):
            raise TrainError(
                f"{folder} was trained with {key} = {earlier.get(key)}, the recipe says {now.get(key)}: "
                "resume with the same value, or name another 'out'"
            )
    console.print(f"Resuming from {escape(str(folder))}.", highlight=False)
    return folder


def _flat(fields: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys."""
    if not isinstance(fields, dict):
        return {prefix: fields}
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _frame_cache(
    recipe: Recipe, model: AudioLMForConditionalGeneration, console: Console
) -> FrameCache | None:
    if recipe.cache is None:
        return None
    tower = model.model.audio_tower
    if any(p.requires_grad for p in tower.parameters()):
        console.print("The frame cache is off: the encoder trains.", style="yellow")
        return None
    return FrameCache(recipe.cache, tower)


def _fill(frames: FrameCache, mixed: Sequence[Mixture | None], console: Console) -> None:
    """Encode the mixtures' clips that are not in the cache yet; unreadable ones are left to the collator."""
    parts = [p for m in mixed if m is not None for source in m.sources for s in source for p in s.audios]
    with console.status("Encoding clips into the frame cache") as status:
        count = frames.fill(
            parts,
            progress=lambda done, total: status.update(
                f"Encoding clips into the frame cache: {done}/{total}"
            ),
            failed=lambda part, error: None,
        )
    console.print(f"Frame cache: {count} clips encoded, {len(frames)} there.", highlight=False)


def _cached(frames: FrameCache, sample: Sample) -> list[CachedFrames]:
    try:
        return [CachedFrames(frames[part]) for part in sample.audios]
    except KeyError:
        raise DataError("its audio could not be encoded into the frame cache") from None


def _finish(trainer: _Run, out: Path) -> None:
    """Put the final model beside the logs, file by file renamed into place."""
    if not trainer.args.should_save:
        return
    draft = checkpoint.staging(out) / "final"
    trainer.save_run(draft)
    for file in draft.iterdir():
        file.replace(out / file.name)
    _clear(checkpoint.staging(out))


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
