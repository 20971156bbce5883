"""Controls: the same items asked again with one thing changed, to show what scores depend on.

``silent``: as long, all zeros. ``noise``: as long, white, of the same level. ``shuffled``: another item's
audio. ``text_only``: no audio and no slot for it. ``first_half``, ``second_half``: half of each recording.
``cascade``: the true transcript or caption as text in the audio's place, to the same LLM. ``reordered``,
``reordered_2`` and so on: the options moved on by one, two and more places, until each has stood in every
place. ``paraphrased``: another wording of the prompt. ``recognised``: as ``cascade``, with what Whisper
writes down of each recording. ``unseen``: without the images and videos that stand beside the recordings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np

from lalm.audio.load import SAMPLE_RATE
from lalm.data.messages import part_recording
from lalm.data.sample import AudioPart, Sample
from lalm.errors import LalmError
from lalm.evaluate.items import Asked, brings_instruction, put
from lalm.evaluate.task import Task
from lalm.inference.speech.clip_transcripts import ClipTranscripts, kept_on_disk
from lalm.inference.speech.recogniser import shared

AUDIO = "audio"  # no control: the run itself
REORDERED = "reordered"
RECOGNISED = "recognised"  # not among these: it takes Whisper
UNSEEN = "unseen"  # nor this one: it takes pictures
DEAF = ("silent", "noise", "text_only")  # nothing of any recording is heard
WORDED = (REORDERED, "paraphrased")  # nothing is taken away: an answer should stay
CONTROLS = ("silent", "noise", "shuffled", "text_only", "first_half", "second_half", "cascade", *WORDED)
RELIANCE = tuple(name for name in CONTROLS if name != "paraphrased")  # what a run asks unless told otherwise
NOBODY = "(nobody speaks)"  # what stands in the place of a recording without speech
MOST_PLACES = 8  # options beyond so many are not moved through all places

Prepare: TypeAlias = Callable[[Sample], Sample]


class Impossible(LalmError, ValueError):
    """A control that these items do not allow; the text says why."""


@dataclass(frozen=True)
class Put:
    """Items under a control: the ``samples`` as they are, the ``items`` as they are asked, and what has yet
    to be done to an item when its turn comes, because it takes the recording."""

    samples: tuple[Sample, ...]
    items: tuple[Sample, ...]
    prepare: Prepare | None = None


def expanded(controls: Sequence[str], opened: Asked) -> list[str]:
    """The controls with one "reordered" for every place that the options of these items can move on to."""
    most = min(max((len(sample.choices) for sample in opened.samples), default=0), MOST_PLACES)
    further = [f"{REORDERED}_{places}" for places in range(2, most)]
    return [name for control in controls for name in (control, *(further if control == REORDERED else ()))]


def put_under(task: Task, samples: Sequence[Sample], control: str = AUDIO, seed: int = 0) -> Put:
    """The items under a control. Raises Impossible when there is no such thing."""
    own, prepare = list(samples), None
    if control.partition("_")[0] == REORDERED:
        own = _moved_on(task, samples, int(control.partition("_")[2] or 1))
    if control == "paraphrased":
        asked_so = any(brings_instruction(task, sample.prompt()) for sample in samples)
        if asked_so or len(task.prompts) < 2:
            raise Impossible("there is one wording only")
        return Put(tuple(samples), tuple(put(task, sample, 1) for sample in samples))
    items = [put(task, sample) for sample in own]
    if control == "shuffled":
        donors = _donors(items, seed)
        items = [_replaced(s, donors[i].audios) for i, s in enumerate(items)]
    if control == "cascade":
        items = [_replaced(s, [{"type": "caption", "text": _words(s)}]) for s in items]
    if control == RECOGNISED:
        if not all(s.audios for s in items):
            raise Impossible("an item has no audio to take")
        prepare = _recognised
    if control == "text_only":
        items = [_without_audio(s) for s in items]
    if control == UNSEEN:
        items = [_without_pictures(s) for s in items]
    if control in ("silent", "noise", "first_half", "second_half"):
        if not all(s.audios for s in items):
            raise Impossible("an item has no audio to take")
        prepare = partial(_prepared, control=control, seed=seed)
    return Put(tuple(own), tuple(items), prepare)


def asked(task: Task, samples: Sequence[Sample], control: str = AUDIO, seed: int = 0) -> list[Sample]:
    """The items as they are asked under a control, their recordings read where that takes it. Raises
    Impossible when there is no such thing."""
    found = put_under(task, samples, control, seed)
    return [found.prepare(item) if found.prepare else item for item in found.items]


def _moved_on(task: Task, samples: Sequence[Sample], places: int) -> list[Sample]:
    if any(brings_instruction(task, sample.prompt()) or len(sample.choices) < 2 for sample in samples):
        raise Impossible("the order of options is not ours to change")
    if "{options}" not in task.prompts[0] and "{choices}" not in task.prompts[0]:
        raise Impossible("the prompt shows no options")
    moved = []
    for sample in samples:
        by = places % len(sample.choices)
        moved.append(replace(sample, choices=(*sample.choices[by:], *sample.choices[:by])))
    return moved


def _donors(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """For each item another one about a different recording."""
    names = [recording_of(sample) for sample in samples]
    if len(set(names)) < 2:
        raise Impossible("there is one recording only")
    generator = np.random.default_rng(seed)
    donors = []
    for mine in names:
        while names[at := int(generator.integers(len(samples)))] == mine:
            pass
        donors.append(samples[at])
    return donors


def recording_of(sample: Sample) -> str:
    """What intervals and shuffling count as one recording."""
    return sample.origin.get("recording") or sample.id


def _prepared(sample: Sample, *, control: str, seed: int) -> Sample:
    """The sample with its recordings spoiled. Raises AudioError for one that cannot be read."""
    return _replaced(sample, [_spoiled(part, control, seed) for part in sample.audios])


def _recognised(sample: Sample) -> Sample:
    """The sample with Whisper's transcripts in its recordings' places. Raises AudioError for one that cannot
    be read, SpeechError where Whisper cannot be opened."""
    said = [_transcripts().of(part_recording(part).audio) for part in sample.audios]
    return _replaced(sample, [{"type": "caption", "text": text or NOBODY} for text in said])


@cache
def _transcripts() -> ClipTranscripts:
    return ClipTranscripts(shared, kept_on_disk())


def _spoiled(part: AudioPart, control: str, seed: int) -> dict[str, Any]:
    audio = part_recording(part).audio
    if control == "silent":
        changed, name = np.broadcast_to(np.float32(0), audio.shape), "silence"
    elif control == "noise":
        level = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0
        drawn = np.random.default_rng([seed, len(audio)]).standard_normal(len(audio))
        changed, name = np.clip(drawn * level, -1, 1).astype(np.float32), "noise"
    else:
        middle = max(1, len(audio) // 2)
        half = audio[:middle] if control == "first_half" or len(audio) < 2 else audio[middle:]
        changed, name = half, control.replace("_", " ")
    return {"type": "audio", "audio": changed, "rate": SAMPLE_RATE, "name": name}


def _words(sample: Sample) -> str:
    text = sample.origin.get("transcript") or sample.origin.get("caption")
    if not text:
        raise Impossible("items have neither a transcript nor a caption")
    if len(sample.audios) != 1:
        raise Impossible("items have several recordings and one text")
    return text


def _without_audio(sample: Sample) -> Sample:
    """The sample's text alone: no recording, and no slot in its place."""
    if not sample.audios:
        raise Impossible("an item has no audio to take")
    messages: list[Any] = []
    for message in sample.messages:
        content: Any = message["content"]
        if not isinstance(content, str):
            content = [part for part in content if part["type"] != "audio"]
            if message["role"] == "user" and not content:
                raise Impossible("items ask nothing in writing")
        messages.append({**message, "content": content})
    return replace(sample, messages=tuple(messages))


def _without_pictures(sample: Sample) -> Sample:
    """The sample without images and videos: its recordings and its text."""
    messages, seen = list[Any](), False
    for message in sample.messages:
        content: Any = message["content"]
        if not isinstance(content, str):
            kept = [part for part in content if part["type"] not in ("image", "video")]
            content, seen = kept, seen or len(kept) < len(content)
        messages.append({**message, "content": content})
    if not seen:
        raise Impossible("an item has no picture to take")
    return replace(sample, messages=tuple(messages))


def _replaced(sample: Sample, others: Sequence[Any]) -> Sample:
    """The sample with its audio parts exchanged for ``others``, in turn."""
    if not others and sample.audios:
        raise Impossible("an item has no audio to take")
    at = 0
    messages: list[Any] = []
    for message in sample.messages:
        content: Any = message["content"]
        if not isinstance(content, str):
            parts = []
            for part in content:
                if part["type"] == "audio":
                    part, at = others[at % len(others)], at + 1
                parts.append(part)
            content = parts
        messages.append({**message, "content": content})
    return replace(sample, messages=tuple(messages))
