"""What a recipe's objective needs before the first step: its batches, its teacher, its warm start."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console

from lalm.data.audio_inputs import CachedFrames
from lalm.data.augment import Augmentation
from lalm.data.mixture import Mixture
from lalm.data.sample import Sample
from lalm.models.llm_sketch import tensors_digest
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.training.batches import Collator
from lalm.training.manifests import processes
from lalm.training.objectives.alignment import alignment_collator
from lalm.training.objectives.contrast import contrast_collator
from lalm.training.objectives.curriculum import FILE, easy_first, measure
from lalm.training.objectives.distil import check_known, distil_collator, known_rows, teach
from lalm.training.objectives.dpo import ReferenceTable, check_pairs, pair_collator, reference_model
from lalm.training.objectives.grpo import group_collator
from lalm.training.objectives.kto import answer_collator, check_answers
from lalm.training.objectives.least_squares import least_squares_start
from lalm.training.objectives.teacher_table import TeacherTable
from lalm.training.objectives.warm_start import warm_start
from lalm.training.recipe import Recipe
from lalm.training.report import TrainError, say
from lalm.training.resuming import run_digest
from lalm.training.text_replay import has_text
from lalm.training.trainer import Read
from lalm.training.underway import underway

LLM = ("model.language_model.", "lm_head.")


def collator_of(
    recipe: Recipe,
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    mixed: Sequence[Mixture | None],
    read: Read,
    console: Console,
) -> Collator:
    """What makes batches of samples: conversations, or pairs of answers when the recipe has ``dpo``."""
    if recipe.align:
        return alignment_collator(processor, read)
    augment = Augmentation(**recipe.augment.model_dump()) if recipe.augment else None
    if recipe.contrast is not None:
        check_known(sample for m in mixed if m is not None for source in m.sources for sample in source)
        return contrast_collator(processor, read, augment)
    texts = [m is not None and any(map(has_text, m.sources)) for m in mixed]
    if texts[0]:
        check_llm_learns(model)
    if recipe.grpo is not None:
        return group_collator(processor, read, recipe.grpo)
    packing = recipe.optim.packing
    if recipe.distil is not None:
        told = teacher_of(recipe, model, processor, mixed, console)
        return distil_collator(processor, read, told, augment, packing=packing, replay=any(texts))
    if recipe.dpo is None:
        return Collator(processor, read, augment=augment, packing=packing, replay=any(texts))
    names = [*(source.path for source in recipe.data.train), "data.valid"]
    sources = [source for m in mixed if m is not None for source in m.sources]
    kto = recipe.dpo.loss == "kto"
    for name, source in zip(names, sources, strict=False):
        (check_answers if kto else check_pairs)(source, name)
    if kto:
        return answer_collator(processor, read, augment=augment, packing=packing)
    table = None
    if recipe.dpo.reference == "precomputed":
        table = ReferenceTable(Path(recipe.out) / "reference.json", run_digest(recipe))
        table.fill(model, processor, sources, read, recipe.optim.batch_size)
    return pair_collator(processor, read, table, augment=augment, packing=packing)


def check_llm_learns(model: AudioLMForConditionalGeneration) -> None:
    """Raises TrainError where nothing of the LLM trains, whatever is learned of text without a recording."""
    if not any(n.startswith(LLM) and p.requires_grad for n, p in model.named_parameters()):
        raise TrainError(
            "data.train: samples without a recording teach the LLM alone, and nothing of it trains: take "
            "them out, or add 'lora'"
        )


def teacher_of(
    recipe: Recipe,
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    mixed: Sequence[Mixture | None],
    console: Console,
) -> TeacherTable | None:
    """What the teacher of ``distil`` says of all samples, read once; None where it reads in every step."""
    settings = recipe.distil
    assert settings is not None
    sources = [source for m in mixed if m is not None for source in m.sources]
    check_known(sample for source in sources for sample in source)
    if settings.cache is None:
        return None
    numbers = {"on": settings.on, "top_k": settings.top_k, "temperature": settings.temperature}
    table = TeacherTable(
        Path(settings.cache),
        json.dumps([llm_digest(model), model.config.text_config.to_dict(), numbers], default=str),
        processor.tokenizer.pad_token_id,
        int(settings.cache_gb * 1e9),
    )
    rank, count = int(os.environ.get("RANK", "0")), processes()
    with underway(console, "The teacher reads") as tell, reference_model(model, None) as teacher:
        new = table.fill(
            islice(known_rows(processor, sources), rank, None, count),
            lambda rows: teach(teacher, {k: v.to(model.device) for k, v in rows.items()}, settings),
            recipe.optim.batch_size,
            lambda done: tell(f"The teacher reads: {done} rows"),
        )
    if count > 1:
        torch.distributed.barrier()
        table.refresh()
    say(console, f"Teacher: {new} rows read now, {len(table)} there.")
    return table


def llm_digest(model: AudioLMForConditionalGeneration) -> str:
    """Which LLM reads as the teacher, with LoRA off: told by a few numbers of each of its tensors."""
    return tensors_digest(
        (name.replace(".base_layer.", "."), tensor)
        for name, tensor in model.named_parameters()
        if name.startswith(LLM) and "lora_" not in name
    )


def order_prompts(
    recipe: Recipe,
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    train: Mixture,
    read: Read,
    console: Console,
) -> None:
    """Put the training prompts in the order of ``grpo.curriculum``, from easy to hard."""
    assert recipe.grpo is not None
    settings, optim = recipe.grpo, recipe.optim
    with underway(console, "Answering the prompts once, to begin with the easy ones") as tell:
        easy_first(
            train,
            Path(recipe.out) / FILE,
            run_digest(recipe),
            optim.batch_size,
            lambda samples, at: measure(model, processor, samples, read, settings, optim.seed, at),
            lambda done, total: tell(f"Answering the prompts: {done}/{total}"),
        )


def with_events(train: Mixture, read: Read) -> list[Sample]:
    """The samples of one recording with events; what cannot be read is left out, for the collator to name.

    Raises TrainError where there are none.
    """
    found = []
    for source in train.sources:
        for number in range(len(source)):
            with suppress(ValueError, OSError):
                sample = source[number]
                if sample.events and len(sample.audios) == 1:
                    read(sample)
                    found.append(sample)
    if not found:
        raise TrainError(
            "warm_start: no training sample has one recording that can be read and events to name"
        )
    return found


def warm_up(
    recipe: Recipe,
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    train: Mixture,
    read: Read,
    console: Console,
) -> None:
    """Pull the connector's tokens to the names of the events, before the first step. Raises TrainError."""
    assert recipe.warm_start is not None
    if any(p.requires_grad for p in model.model.audio_tower.parameters()):
        raise TrainError(
            "warm_start: frames are read once, so the encoder cannot train: take 'warm_start' out, or train "
            "the encoder in a later stage"
        )

    def frames_of(sample: Sample) -> torch.Tensor:
        (clip,) = read(sample)
        assert isinstance(clip, CachedFrames)
        return clip.frames

    samples = with_events(train, read)
    settings = recipe.warm_start
    if settings.kind == "least_squares":
        start = least_squares_start(model, processor, samples, frames_of)
        say(
            console,
            f"Warm start in closed form: {start.tokens} audio tokens, penalty {start.penalty:g}, explains "
            f"{start.explained:.0%} of the variance of held-out clips.",
        )
        return
    assert settings.epochs is not None and settings.learning_rate is not None
    loss = warm_start(
        model,
        processor,
        samples,
        frames_of,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        folder=recipe.out,
        seed=recipe.optim.seed,
        progress=lambda done, steps, loss: say(console, f"warm start {done}/{steps}  loss {loss:.3f}"),
    )
    say(console, f"Warm start: loss {loss:.3f} after {settings.epochs:g} epochs.")
