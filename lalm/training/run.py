"""Runs a recipe with transformers' Trainer; the result is a model folder.

``run`` assembles the model, freezes what does not learn, shows what it will do, trains, and leaves in
``out``: config.json, model.safetensors, recipe.yaml (what ``lalm.models.load`` opens),
metrics.jsonl, TensorBoard's ``runs/``, the last two checkpoints and, if asked for, the best model. Started
again, it goes on from the newest good checkpoint.
"""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainingArguments
from transformers import set_seed as seed_everything

from lalm.data.mixture import subset
from lalm.inference.protocols import find_protocol
from lalm.models.answer_end import check_learned
from lalm.models.assemble import build_model
from lalm.models.load import load_model, model_folder
from lalm.models.lora import add_lora, merge_lora
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.packing import check_packable
from lalm.models.processing import AudioLMProcessor
from lalm.models.save import trained_names
from lalm.systems import use_code
from lalm.training.batches import Batches
from lalm.training.clip_loading import reader
from lalm.training.cpu_attention import train_on_cpu
from lalm.training.llm_layers import compile_layers, enable_gradient_checkpointing, quantize
from lalm.training.malloc import keep_freed_memory
from lalm.training.manifests import mixtures, processes, shared_step, training_sources
from lalm.training.model_card import NAME, write_card
from lalm.training.objectives.alignment import AlignmentTrainer, check_alignable
from lalm.training.objectives.contrast import ContrastTrainer
from lalm.training.objectives.distil import DistillationTrainer
from lalm.training.objectives.dpo import PreferenceTrainer
from lalm.training.objectives.grpo import GroupTrainer, Repeated
from lalm.training.objectives.kto import KtoTrainer
from lalm.training.optimizers import TRAINER_ARGUMENTS, TRAINER_NAMES, check_optimizer
from lalm.training.parallel.deepspeed import deepspeed_arguments, first_moment
from lalm.training.parallel.fsdp2 import fsdp_arguments, full_gradient
from lalm.training.preparing import collator_of, order_prompts, warm_up
from lalm.training.recipe import Recipe
from lalm.training.report import GradientCheck, Report, TrainError, parts_table, say, show_example
from lalm.training.resuming import alone_in, check_fresh, starting_point
from lalm.training.selection import KeepBest, stopped_at, take_best
from lalm.training.starting_weights import frozen_dtype, settled_dtype, trained_in_float32
from lalm.training.trackers import PROJECT, check_trackers, trackers
from lalm.training.trainer import Answers, Interruption, RecipeTrainer, is_slim
from lalm.training.underway import run_console
from lalm.weights import checkpoint


def run(recipe: Recipe, *, resume: bool = True) -> Path:
    """Train as the recipe says and return the folder of the trained model.

    Resumes from the newest good checkpoint in ``out``; with ``resume=False`` an ``out`` that holds
    checkpoints is refused. Ctrl-C saves a checkpoint first and then raises KeyboardInterrupt.
    Example: ``run(recipe.load("acdc/small", ["out=runs/mine"]))``.
    """
    main_process = os.environ.get("RANK", "0") == "0"
    if recipe.valid.protocol:
        find_protocol(recipe.valid.protocol)  # an unknown one is said before a folder is made
    with alone_in(Path(recipe.out), main_process):
        return _run(recipe, resume, main_process)


def _run(recipe: Recipe, resume: bool, main_process: bool) -> Path:
    """``run``, in a folder of its own."""
    console = run_console(quiet=not main_process)
    out = Path(recipe.out)
    protocol = find_protocol(recipe.valid.protocol) if recipe.valid.protocol else None
    if not resume:
        check_fresh(out)
    start = starting_point(recipe, out, console)
    recipe = settled_dtype(recipe, start, console)
    if main_process:
        shutil.rmtree(checkpoint.staging(out), ignore_errors=True)
    seed_everything(recipe.optim.seed)
    if not torch.accelerator.is_available():
        keep_freed_memory()
    check_trackers(recipe.report_to or [])
    check_optimizer(recipe.optim.optimizer)
    sources = training_sources(recipe)
    model, processor = build(recipe)
    train, valid = mixtures(recipe, sources, model, console)
    steps = recipe.optim.max_steps or train.steps_in(recipe.optim.epochs or 0)
    if start is not None and stopped_at(start, recipe.keep):
        steps = checkpoint.step_of(start)
        say(console, f"This run stopped at step {steps}, when it got no better; keep.patience=null goes on.")
    settings = arguments(recipe, steps, model, with_valid=valid is not None)
    # Sharding moves a layer at a time: a model that is larger than a device must not go there whole.
    (model.model.audio_tower if recipe.shard else model).to(settings.device)
    if recipe.warm_start and start is None:
        plain = recipe.model_copy(update={"augment": None})  # names are learned from the sound as it is
        frames = reader(plain, model, processor, [train], console)
        warm_up(recipe, model, processor, train, frames, console)
    read = reader(recipe, model, processor, [train, valid], console)
    collator = collator_of(recipe, model, processor, [train, valid], read, console)
    if recipe.grpo is not None and recipe.grpo.curriculum:
        order_prompts(recipe, model, processor, train, read, console)
    batches = Batches(train, steps * train.parts)
    console.print(parts_table(model))
    first = collator([batches[0]])
    if not recipe.align:
        told = (
            "The first prompt" if recipe.grpo else "The first example; the loss learns what stands in [[ ]]"
        )
        say(console, f"{told}:", "bold")
        console.print(show_example(first, processor.tokenizer, model.config.audio_token_id))
    gradient = first_moment if settings.deepspeed else full_gradient
    with Report(out, console, train.steps_per_epoch) as report:
        trainer = trainer_of(recipe)(
            recipe=recipe,
            processor=processor,
            model=model,
            args=settings,
            data_collator=collator,
            train_dataset=steps_of(recipe, batches),
            eval_dataset=Batches(valid, valid.steps_in(1), "validation") if valid else None,
            callbacks=[report, GradientCheck(console, gradient)],
        )
        trainer.remove_callback(PrinterCallback)
        if valid is not None and not recipe.align:
            answered = subset(valid.sources[0], recipe.valid.generate)
            together = recipe.shard in ("fsdp2", "zero3")
            trainer.add_callback(Answers(answered, processor, read, report, console, together, protocol))
        if recipe.keep is not None and recipe.keep.best:
            trainer.add_callback(KeepBest(recipe.keep, out, trainer.save_run, console))
        with Interruption() as interruption:
            trainer.add_callback(interruption)
            trainer.train(resume_from_checkpoint=str(start) if start else None)
    if interruption.asked and trainer.state.global_step < steps:
        newest = out / f"checkpoint-{trainer.state.global_step}"
        say(console, f"Stopped after step {trainer.state.global_step}; {newest} holds everything.")
        say(console, f"Go on with: lalm train {newest / 'recipe.yaml'}")
        raise KeyboardInterrupt
    best = recipe.keep is not None and recipe.keep.best is not None
    _finish(trainer, out, best)
    lost, tally = int(train.unreadable.sum()), train.tally()
    if main_process:
        write_card(recipe, out, trainer.state.global_step, tally, lost)
    if tally.noted:
        say(
            console,
            f"Of {tally.recordings} samples that were heard {tally.noted} had a remark; {out / NAME}.",
        )
    if lost:
        say(console, f"{lost} of {train.num_samples} training samples were skipped; the log names them.")
    say(console, f"Done after step {trainer.state.global_step}; the model is in {out}.")
    return out


def trainer_of(recipe: Recipe) -> Any:
    """The class of the recipe's objective, with its settings, for what every trainer takes."""
    if recipe.dpo is not None:
        return partial(KtoTrainer if recipe.dpo.loss == "kto" else PreferenceTrainer, recipe.dpo)
    if recipe.grpo is not None:
        return partial(GroupTrainer, recipe.grpo)
    if recipe.contrast is not None:
        return partial(ContrastTrainer, recipe.contrast)
    if recipe.distil is not None:
        return partial(DistillationTrainer, recipe.distil)
    return AlignmentTrainer if recipe.align else RecipeTrainer


def steps_of(recipe: Recipe, batches: Batches) -> Dataset[Any]:
    """The batches in the order of the steps: those of ``grpo.updates`` come several times running."""
    if recipe.grpo is None or recipe.grpo.updates == 1:
        return batches
    return Repeated(batches, batches.mixture.parts, recipe.grpo.updates)


def build(recipe: Recipe) -> tuple[AudioLMForConditionalGeneration, AudioLMProcessor]:
    """The recipe's model, frozen but for what trains (float32), and its processor."""
    use_code(recipe.code)
    dtype = frozen_dtype(recipe)
    lora = recipe.lora.settings if recipe.lora else None
    kept: Path | None = None  # the folder whose numbers what trains begins with
    if recipe.init.from_ is None:
        model, processor = build_model(
            recipe.system,
            encoder=str(recipe.init.encoder),
            encoder_2=recipe.init.encoder_2,
            aligner=recipe.init.aligner,
            llm=str(recipe.init.llm),
            options=recipe.init.options,
            lora=lora,
            dtype=dtype,
        )
    else:
        folder = model_folder(recipe.init.from_)
        model, processor = load_model(folder, dtype=dtype, options=recipe.init.options)
        kept = folder if dtype != torch.float32 else None  # else it has them already
        learner = recipe.dpo or recipe.grpo
        if model.config.lora and learner is not None and learner.reference == "adapter":
            merge_lora(model)  # the reference is the model as it is, the new LoRA beside it is what learns
            kept = None
            begun = Path(recipe.init.from_)
            model.config.parts = {"model": str(begun.resolve() if begun.exists() else begun)}
        if lora and not model.config.lora:
            add_lora(model, lora)
        elif (
            lora and lora | {"targets": lora["targets"] or model.config.lora["targets"]} != model.config.lora
        ):
            raise TrainError(
                f"lora: '{recipe.init.from_}' already has LoRA with {model.config.lora}: say the same to "
                "train it on, or leave 'lora' out, and it stays as it is"
            )
    if recipe.transcript is not None:
        model.config.transcript = recipe.transcript
    names = model.set_trainable([*recipe.trainable, *(["*lora_*"] if lora else [])])
    trained_in_float32(model, kept)
    model.config.trained_encoder |= any(name.startswith("model.audio_tower.") for name in names)
    if recipe.align:
        check_alignable(model)
    else:
        check_learned(processor)
    if recipe.optim.packing:
        check_packable(model.model.language_model)
    if recipe.optim.dtype in ("int8", "nf4"):
        if learned := [name for name in names if "language_model" in name and "lora_" not in name]:
            raise TrainError(f"optim.dtype: {learned[0]} trains, so the LLM cannot be {recipe.optim.dtype}")
        quantize(model.model.language_model, recipe.optim.dtype)
    if recipe.optim.gradient_checkpointing:
        enable_gradient_checkpointing(model.model.language_model)
    if recipe.optim.compile:
        compile_layers(model.model.language_model)
    elif not torch.accelerator.is_available():
        train_on_cpu(model.model.language_model)
    if model.config.lora and not is_slim(model):
        extra = sorted(set(names) - set(trained_names(model)))[0]
        raise TrainError(f"trainable: with LoRA only the connector may train beside it, not {extra}")
    return model, processor


def arguments(
    recipe: Recipe, steps: int, model: AudioLMForConditionalGeneration, *, with_valid: bool
) -> TrainingArguments:
    """The recipe in the Trainer's words; ``Mixture`` makes the batches, hence the Trainer's own size of 1."""
    optim, every = recipe.optim, recipe.every
    shard = recipe.shard if processes() > 1 else None
    return TrainingArguments(
        output_dir=recipe.out,
        max_steps=steps,
        num_train_epochs=1,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=shared_step(optim)[1],
        learning_rate=optim.learning_rate,
        lr_scheduler_type="constant_with_warmup" if optim.schedule == "constant" else optim.schedule,
        warmup_steps=optim.warmup_steps,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
        optim=TRAINER_NAMES[optim.optimizer],
        optim_args=TRAINER_ARGUMENTS.get(optim.optimizer),
        seed=optim.seed,
        use_cpu=not torch.accelerator.is_available(),
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
        report_to=trackers(recipe.report_to or [], Path(recipe.out)),
        run_name=Path(recipe.out).name,
        project=PROJECT,
        disable_tqdm=True,
        log_level="error",
        **(fsdp_arguments(model) if shard == "fsdp2" else deepspeed_arguments(shard) if shard else {}),
    )


def _finish(trainer: RecipeTrainer, out: Path, best: bool) -> None:
    """Put the final model (or the ``best``) beside the logs, file by file renamed into place."""
    draft = checkpoint.staging(out) / "final"
    with checkpoint.writing(draft, out / "model.safetensors"), trainer.averaged():
        trainer.save_run(draft)
    if not trainer.args.should_save:
        return
    for file in draft.iterdir():
        file.replace(out / file.name)
    if best:
        take_best(out)
    shutil.rmtree(checkpoint.staging(out), ignore_errors=True)
