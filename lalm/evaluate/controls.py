"""Controls: the same items asked again with one thing spoiled, to show that scores depend on the audio.

``silent``: as long, all zeros. ``shuffled``: another item's audio. ``cascade``: the true transcript or
caption as text in the audio's place, to the same LLM. ``reordered``: options in another order.
``paraphrased``: another wording of the prompt.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lalm.audio.load import SAMPLE_RATE
from lalm.data.messages import part_recording
from lalm.data.sample import AudioPart, Sample
from lalm.errors import LalmError
from lalm.evaluate.task import Task, brings_instruction, put

AUDIO = "audio"  # no control: the run itself
WORDED = ("reordered", "paraphrased")  # nothing is taken away: an answer should stay
CONTROLS = ("silent", "shuffled", "cascade", *WORDED)


class Impossible(LalmError, ValueError):
    """A control that these items do not allow; the text says why."""


def asked(task: Task, samples: Sequence[Sample], control: str = AUDIO, seed: int = 0) -> list[Sample]:
    """The items as they are asked under a control. Raises Impossible when there is no such thing."""
    if control == "reordered":
        if any(brings_instruction(task, sample.prompt()) or len(sample.choices) < 2 for sample in samples):
            raise Impossible("the order of options is not ours to change")
        if "{options}" not in task.prompts[0] and "{choices}" not in task.prompts[0]:
            raise Impossible("the prompt shows no options")
        samples = [replace(s, choices=(*s.choices[1:], s.choices[0])) for s in samples]
    if control == "paraphrased":
        own = any(brings_instruction(task, sample.prompt()) for sample in samples)
        if own or len(task.prompts) < 2:
            raise Impossible("there is one wording only")
        return [put(task, sample, 1) for sample in samples]
    put_samples = [put(task, sample) for sample in samples]
    if control == "shuffled":
        donors = _donors(put_samples, seed)
        return [_replaced(s, donors[i].audios) for i, s in enumerate(put_samples)]
    if control == "silent":
        return [_replaced(s, [_silence(part) for part in s.audios]) for s in put_samples]
    if control == "cascade":
        return [_replaced(s, [{"type": "caption", "text": _words(s)}]) for s in put_samples]
    return put_samples


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


def _silence(part: AudioPart) -> dict[str, Any]:
    audio = part_recording(part).audio
    return {
        "type": "audio",
        "audio": np.broadcast_to(np.float32(0), audio.shape),
        "rate": SAMPLE_RATE,
        "name": "silence",
    }


def _words(sample: Sample) -> str:
    text = sample.origin.get("transcript") or sample.origin.get("caption")
    if not text:
        raise Impossible("items have neither a transcript nor a caption")
    if len(sample.audios) != 1:
        raise Impossible("items have several recordings and one text")
    return text


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
