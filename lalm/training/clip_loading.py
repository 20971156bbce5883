"""Loads the clips of training batches: decoded each time, or as frames from the frame cache."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console

from lalm.data import frame_cache as cache
from lalm.data.audio_inputs import CachedFrames, Clip
from lalm.data.messages import part_recording
from lalm.data.mixture import DataError, Mixture, audio_seconds
from lalm.data.sample import AudioPart, Message, Part, Sample
from lalm.inference.speech.clip_transcripts import ClipTranscripts, kept_on_disk
from lalm.inference.speech.recogniser import WhenSpoken
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.training.recipe import Recipe
from lalm.training.report import say
from lalm.training.trainer import Read
from lalm.training.underway import underway


def reader(
    recipe: Recipe,
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    mixed: Sequence[Mixture | None],
    console: Console,
) -> Read:
    """What gives a sample's audio, with its transcripts where the model's config has ``transcript: whisper``.

    Those are made before the first step, once: they stay on disk for every later run.
    """
    read = _audio_reader(recipe, model, processor, mixed, console)
    if model.config.transcript != "whisper":
        return read
    transcripts = ClipTranscripts(WhenSpoken, kept_on_disk())
    rank, processes = _place()
    with underway(console, "Transcribing clips") as tell:
        for count, part in enumerate(islice(_parts(mixed, _whole), rank, None, processes), 1):
            with suppress(ValueError, OSError):  # the collator names what cannot be read
                _said(transcripts, part)
            tell(f"Transcribing clips: {count} looked at")
    if processes > 1:
        torch.distributed.barrier()

    def transcribed(sample: Sample) -> list[Clip | CachedFrames]:
        pairs = zip(sample.audios, read(sample), strict=True)
        return [replace(clip, transcript=_said(transcripts, part)) for part, clip in pairs]

    return transcribed


def _said(transcripts: ClipTranscripts, part: AudioPart) -> str:
    """What is said in an audio part: its own transcript, else Whisper's."""
    given = part.get("transcript")
    return (
        transcripts.of(lambda: part_recording(part).audio, cache.clip_key(part)) if given is None else given
    )


def _place() -> tuple[int, int]:
    """Number of this process, and how many train together."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _audio_reader(
    recipe: Recipe,
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    mixed: Sequence[Mixture | None],
    console: Console,
) -> Read:
    """What gives a sample's audio: ``processor.clips``, or frames from the recipe's cache.

    The cache is off, and that is said, where frames would not be the same every time. Each of several
    processes encodes its share. Clips that cannot be read are left out, so that the collator names them.
    Alignment (``align``) hears the first segment of a longer clip, and that is said.
    """
    shorten: Callable[[Sample], Sample] = _whole
    if recipe.align:
        limit_s = float(model.config.segment_s)
        say(console, f"Alignment hears one segment: of a longer clip the first {limit_s:g} s.")
        shorten = partial(first_seconds, limit_s=limit_s)
    if recipe.cache is None:
        return lambda sample: processor.clips(shorten(sample))
    tower = model.model.audio_tower
    if recipe.augment is not None:
        say(console, "The frame cache is off: augmentation changes the waveform.", "yellow")
        return processor.clips
    if any(p.requires_grad for p in tower.parameters()):
        say(console, "The frame cache is off: the encoder trains.", "yellow")
        return processor.clips
    limit = int(recipe.cache_gb * 1e9) if recipe.cache_gb else None
    frames = cache.FrameCache(recipe.cache, tower, limit_bytes=limit)
    if limit is not None:
        cache.prune(recipe.cache, limit, spare=frames.folder)
    unread: dict[str, str] = {}
    rank, processes = _place()
    with underway(console, "Encoding clips into the frame cache") as tell:
        count = frames.fill(
            islice(_parts(mixed, shorten), rank, None, processes),
            progress=lambda done, seen: tell(
                f"Encoding clips into the frame cache: {done} encoded, {seen} looked at"
            ),
            failed=lambda part, error: unread.update({str(part["audio"]): str(error)}),
        )
    if processes > 1:
        torch.distributed.barrier()
        frames.refresh()
    say(console, f"Frame cache: {count} clips encoded now, {len(frames)} there.")

    def read(sample: Sample) -> list[CachedFrames]:
        parts = shorten(sample).audios
        for part in parts:
            if part not in frames:
                name = str(part["audio"])
                raise DataError(unread.get(name, f"{Path(name).name} could not be encoded"))
        return [CachedFrames(frames[part], part.get("transcript")) for part in parts]

    return read


def first_seconds(sample: Sample, limit_s: float) -> Sample:
    """The sample with the first ``limit_s`` seconds of each recording that is longer, in its user turns."""
    messages: list[Message] = []
    for message in sample.messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [_first_seconds(part, limit_s) for part in content]
        messages.append({"role": message["role"], "content": content})
    return replace(sample, messages=tuple(messages))


def _first_seconds(part: Part, limit_s: float) -> Part:
    if part["type"] == "audio" and audio_seconds(part) > limit_s:
        return {**part, "duration_s": limit_s}
    return part


def _whole(sample: Sample) -> Sample:
    return sample


def _parts(mixed: Sequence[Mixture | None], shorten: Callable[[Sample], Sample]) -> Iterator[AudioPart]:
    """The audio of every sample of the mixtures; rows that are no samples are for the collator to name."""
    for source in (source for m in mixed if m is not None for source in m.sources):
        for number in range(len(source)):
            try:
                parts = shorten(source[number]).audios
            except ValueError:
                continue
            yield from parts
