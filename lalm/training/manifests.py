"""The data of a run: its SOURCES, opened and checked before anything is built, and their mixture."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from lalm.audio.load import SAMPLE_RATE
from lalm.data.mixture import Mixture, audio_seconds, held_out, open_manifest, text_tokens
from lalm.data.readers import Samples
from lalm.data.sample import Sample
from lalm.data.samplers import Limits, PackedMixture
from lalm.data.source_batches import PerSourceMixture
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.synthesis.filters import Filtering
from lalm.training.recipe import Manifest, Optim, Recipe
from lalm.training.report import TrainError, say
from lalm.training.underway import underway


def training_sources(recipe: Recipe) -> list[Samples]:
    """What the recipe learns from. Raises TrainError when that cannot be learned from as the recipe says.

    Its ``valid`` manifests are opened as well, so that a wrong path is said now.
    """
    sources = [open_manifest(source.path, source.reading) for source in recipe.data.train]
    for source, samples in zip(recipe.data.train, sources, strict=True):
        if any(goal is not None for goal in (recipe.dpo, recipe.distil, recipe.grpo)):
            break  # their objectives say themselves what they need
        if not any(message["role"] == "assistant" for message in samples[0].messages):
            raise TrainError(
                f"data.train: '{source.path}' has no answers to learn ({samples.place(0)}): say which column "
                "they are in (data.train.0.columns.answer), or write them with lalm respond"
            )
    if recipe.warm_start is not None and not any(_has_events(samples) for samples in sources):
        shown = ", ".join(f"'{source.path}'" for source in recipe.data.train)
        raise TrainError(
            f"warm_start learns the names of 'events' in the manifests, and {shown} has none: leave it out "
            "with --set warm_start=null (lalm corpus build makes manifests with events)"
        )
    if recipe.every.valid:
        validation_sources(recipe)
    return sources


def _has_events(samples: Samples) -> bool:
    """Whether any sample has events; of a source whose rows hold audio the first is looked at alone."""
    return any(samples[number].events for number in range(1 if samples.heavy else len(samples)))


def validation_sources(recipe: Recipe) -> list[Samples]:
    """The manifests held out."""
    named = [Manifest(path=entry) if isinstance(entry, str) else entry for entry in recipe.data.valid]
    return [open_manifest(entry.path, entry.reading) for entry in named]


def mixtures(
    recipe: Recipe, own: Sequence[Samples], model: AudioLMForConditionalGeneration, console: Console
) -> tuple[Mixture, Mixture | None]:
    """The training mixture of ``own``, filtered, and validation's, if there is one."""

    def length(sample: Sample) -> float:
        heard = sum(model.config.num_audio_tokens(int(audio_seconds(p) * SAMPLE_RATE)) for p in sample.audios)
        return heard + text_tokens(sample)

    optim = recipe.optim
    manifests: Sequence[Sequence[Sample]] = own
    if recipe.data.filters is not None:
        manifests = _filtered(recipe, own, console)
    weights = recipe.data.weights([len(samples) for samples in manifests])
    sources = list(zip(manifests, weights, strict=True))
    batch_size, accumulation = shared_step(optim)
    parts = accumulation * processes()
    mix: Any = Mixture
    if optim.batch_tokens or optim.batch_s:
        mix = partial(PackedMixture, limits=Limits(optim.batch_tokens, optim.batch_s))
    training = partial(PerSourceMixture, group=optim.batch_size) if recipe.data.separate else mix
    train = training(sources, length, batch_size=batch_size, parts=parts, seed=optim.seed)
    if not recipe.data.valid or not recipe.every.valid:
        return train, None
    kept = held_out(validation_sources(recipe), recipe.valid.samples)
    return train, mix([(kept, 1.0)], length, batch_size=min(batch_size, len(kept)))


def processes() -> int:
    """How many processes train together: torchrun's and accelerate's WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def shared_step(optim: Optim) -> tuple[int, int]:
    """Samples of one batch, and batches that one process accumulates, so that all give the recipe's step.

    Eight batches of 4 on two processes are four each; one batch of 8 is split. Raises TrainError when the
    step cannot be shared evenly.
    """
    count, samples = processes(), optim.batch_size * optim.accumulation
    if optim.accumulation % count == 0:
        return optim.batch_size, optim.accumulation // count
    if (
        samples % count == 0
        and samples // count <= optim.batch_size
        and not (optim.batch_tokens or optim.batch_s)
    ):
        return samples // count, 1
    raise TrainError(
        f"optim: {optim.accumulation} batches of {optim.batch_size} cannot be shared evenly by {count} "
        f"processes: make accumulation a multiple of {count}"
    )


def _filtered(
    recipe: Recipe, manifests: Sequence[Sequence[Sample]], console: Console
) -> list[Sequence[Sample]]:
    """The manifests without what the recipe's filters take away, which is told."""
    assert recipe.data.filters is not None
    with underway(console, "Filtering the training samples") as tell:
        filtering = Filtering(
            Path(recipe.out),
            lambda done, total: tell(f"Judging answers: {done}/{total}"),
            **recipe.data.filters.model_dump(),
        )
        kept: list[Sequence[Sample]] = [filtering(own) for own in manifests]
    say(console, filtering.summary())
    for source, samples in zip(recipe.data.train, kept, strict=True):
        if not samples:
            raise TrainError(f"data.filters leave no sample of '{source.path}'")
    return kept
