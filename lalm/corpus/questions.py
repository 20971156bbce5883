"""Questions and instructions about clips and scenes whose content is known, for the held-out sets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lalm.corpus.compose import Clip

from lalm.sample import Event, Sample, ask
from lalm.words import words

SPEECH_WORDS = ("speaking", "speech", "talking", "voice", "person", "woman", "man", "speaks", "talks")
INSTRUCTIONS = {
    "one_word": "Describe the sound in one word.",
    "ten_words": "Describe the audio in one ten-word sentence.",
    "german": "Describe the audio in one German sentence.",
    "french": "Describe the audio in one French sentence.",
    "spanish": "Describe the audio in one Spanish sentence.",
}


@dataclass(frozen=True)
class Recording:
    """A test recording: a clip or a scene, and the clips it was made of in order of onset."""

    id: str
    path: str
    caption: str
    kind: str  # "single", "sequence", "repetition" or "bed"
    clips: tuple[Clip, ...]
    events: tuple[Event, ...]

    @property
    def groups(self) -> set[str]:
        return {clip.group for clip in self.clips}

    @property
    def labels(self) -> set[str]:
        return {clip.label for clip in self.clips}


def question(
    recording: Recording,
    task: str,
    text: str,
    references: Sequence[str],
    choices: Sequence[str] = (),
) -> Sample:
    """One item about ``recording``."""
    sample = ask([recording.path], text)
    return Sample(
        messages=sample.messages,
        id=f"{task}-{recording.id}-{'-'.join(words(text))[-60:]}",
        task=task,
        references=tuple(references),
        choices=tuple(choices),
        events=recording.events,
        origin={"recording": recording.id, "caption": recording.caption},
    )


def questions(recordings: Sequence[Recording], names: dict[str, str], rng: np.random.Generator) -> list[Sample]:
    """Presence, what, speech, which of two, how many and order, each balanced. ``names``: label -> name."""
    items = [*_presence(recordings, names, rng), *_speech(recordings, rng)]
    labels = sorted(names)
    for recording in recordings:
        first = recording.clips[0]
        others = [x for x in labels if x.split("/")[0] not in recording.groups and names[x] != first.name]
        if recording.kind == "single":
            items.append(question(recording, "what", "What makes the sound?", accepted(first)))
            wrong = [names[x] for x in _draw(others, 3, rng)]
            options = list(rng.permutation([first.name, *wrong]))
            text = f"What do you hear: {', '.join(options[:-1])} or {options[-1]}?"
            items.append(question(recording, "what_choice", text, [first.name], options))
        if recording.kind in ("single", "bed"):
            pair = list(rng.permutation([first.name, names[_draw(others, 1, rng)[0]]]))
            text = f"Which do you hear: {pair[0]} or {pair[1]}?"
            items.append(question(recording, "which_of_two", text, [first.name], pair))
        if recording.kind == "repetition":
            text = f"How many times do you hear {first.name}?"
            items.append(question(recording, "how_many", text, [str(len(recording.clips))]))
        if recording.kind == "sequence" and first.name != recording.clips[1].name:
            pair = list(rng.permutation([first.name, recording.clips[1].name]))
            text = f"Which comes first: {pair[0]} or {pair[1]}?"
            items.append(question(recording, "order", text, [first.name], pair))
    return items


def instructions(recordings: Sequence[Recording], names: dict[str, str], rng: np.random.Generator) -> list[Sample]:
    """The same recordings under instructions whose being followed can be checked in the answer's form."""
    items = [
        question(recording, task, text, [])
        for task, text in INSTRUCTIONS.items()
        for recording in recordings
        if recording.kind in ("single", "sequence")
    ]
    for sample in _presence(recordings, names, rng):
        part = sample.messages[0]["content"][1]
        recording = next(r for r in recordings if r.id == sample.origin["recording"])
        text = f"{part['text']} Answer only yes or no."  # type: ignore[index]
        items.append(question(recording, "yes_no", text, sample.references))
    return items


def accepted(clip: Clip) -> list[str]:
    """Words that count as naming the clip's sound."""
    if clip.group == "speech":
        return list(SPEECH_WORDS)
    skip = {"a", "an", "the", "on", "in", "at", "of", "being", "is", "are", "with", "to", "from", "busy", "small"}
    own = [w for w in words(clip.name) if w not in skip]
    return list(dict.fromkeys([*own, *words(clip.label.split("/")[1])]))


def _draw(pool: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    return [pool[i] for i in rng.choice(len(pool), count, replace=False)]


def _presence(recordings: Sequence[Recording], names: dict[str, str], rng: np.random.Generator) -> Iterable[Sample]:
    """A yes item each, and for each of those a no item: the same sound asked about another recording."""
    usable = [r for r in recordings if r.clips[0].group != "speech"]
    asked = [r.clips[int(rng.integers(len(r.clips)))] for r in usable]
    items = [
        question(r, "presence", f"Can you hear {clip.name}?", ["yes"]) for r, clip in zip(usable, asked, strict=True)
    ]
    order = list(rng.permutation(len(usable)))
    for clip in asked:
        for place, i in enumerate(order):
            if clip.group not in usable[i].groups:
                items.append(question(usable[i], "presence", f"Can you hear {clip.name}?", ["no"]))
                order.pop(place)
                break
    return _balanced(items, rng)


def _speech(recordings: Sequence[Recording], rng: np.random.Generator) -> list[Sample]:
    """Does anyone speak? Human sounds that are no speech are left out: they are neither."""
    items = []
    for recording in recordings:
        if "human" in recording.groups or "ambience" in recording.groups:
            continue
        answer = "yes" if "speech" in recording.groups else "no"
        items.append(question(recording, "speech", "Does anyone speak in the audio?", [answer]))
    return _balanced(items, rng)


def _balanced(items: Sequence[Sample], rng: np.random.Generator) -> list[Sample]:
    """As many yes as no."""
    yes = [s for s in items if s.references[0] == "yes"]
    no = [s for s in items if s.references[0] == "no"]
    size = min(len(yes), len(no))
    return [pool[i] for pool in (yes, no) for i in sorted(rng.choice(len(pool), size, replace=False))]
