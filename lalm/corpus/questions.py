"""Questions about recordings of known content, for the held-out sets.

Every closed task is balanced: recordings are paired, and both are asked the same question with different
answers."""

from collections.abc import Iterator, Sequence

import numpy as np

from lalm.corpus.scenes import Recording
from lalm.data.english import words
from lalm.data.sample import Sample, ask

Rng = np.random.Generator
NUMBERS = ("zero", "one", "two", "three", "four")
# Groups whose sounds can be heard as one another's, or come together: never each other's negatives.
CLOSE = {
    "ambience": "animal human speech vehicle water weather nature machine tool footsteps music object fire",
    "music": "instrument human speech",
    "instrument": "object impact alarm",
    "human": "speech animal",
    "weather": "water nature fire",
    "water": "nature fire human",
    "fire": "nature explosion electric electronic",
    "machine": "vehicle tool electric alarm door weather electronic",
    "vehicle": "alarm explosion nature music",
    "tool": "impact object nature weapon footsteps",
    "impact": "object door sport footsteps weapon explosion nature fire",
    "object": "door sport electronic alarm footsteps weapon nature machine",
    "weapon": "explosion sport door",
    "alarm": "electronic",
    "electric": "electronic nature",
    "footsteps": "nature sport",
    "door": "footsteps ambience",
}
PRESENCE = ("Can you hear {} in the audio?", "Is there the sound of {} in the audio?")
PER_TASK = 300


def questions(recordings: Sequence[Recording], rng: Rng) -> list[Sample]:
    """All question tasks about the recordings of a test split."""
    order = [recordings[i] for i in rng.permutation(len(recordings))]
    mixed = [r for r in order if r.kind != "repetition"]
    alone = sorted((r for r in order if r.kind in ("single", "repetition")), key=lambda r: r.kind != "single")
    return [
        *presence(mixed, rng),
        *_which_of_two(mixed),
        *_what(_once_each(alone)),
        *_what_choice(_once_each(alone)),
        *_speech(order),
        *_how_many([r for r in order if r.kind == "repetition"]),
        *_order([r for r in order if r.kind == "sequence"]),
    ]


def far(label: str, recording: Recording) -> bool:
    """Whether ``label`` is surely not in the recording: no group of it is close to the label's."""
    group = label.split("/")[0]
    return all(not close(group, other.split("/")[0]) for other in recording.labels)


def close(a: str, b: str) -> bool:
    """Whether sounds of these two groups can be taken for one another, or come together."""
    return a == b or b in CLOSE.get(a, "").split() or a in CLOSE.get(b, "").split()


def pairs(recordings: Sequence[Recording]) -> Iterator[tuple[Recording, int, Recording, int]]:
    """Recordings two by two, each with the index of a clip whose class is far from the other recording."""
    waiting: list[tuple[Recording, int]] = []
    for number, recording in enumerate(recordings):
        which = number % len(recording.clips)
        label = recording.clips[which].row.label
        for other, index in waiting:
            if far(label, other) and far(other.clips[index].row.label, recording):
                waiting.remove((other, index))
                yield other, index, recording, which
                break
        else:
            waiting.append((recording, which))


def presence(recordings: Sequence[Recording], rng: Rng, *, suffix: str = "") -> list[Sample]:
    """Is a sound there? Of each pair both are asked about both sounds: yes, no, no, yes."""
    items = []
    for a, i, b, j in pairs(recordings):
        form = PRESENCE[int(rng.integers(len(PRESENCE)))]
        for asked, has, lacks in ((a.clips[i], a, b), (b.clips[j], b, a)):
            text = form.format(asked.sound.name) + suffix
            items += [item(has, "presence", text, ["yes"]), item(lacks, "presence", text, ["no"])]
        if len(items) >= PER_TASK:
            break
    return items


def _which_of_two(recordings: Sequence[Recording]) -> list[Sample]:
    items = []
    for a, i, b, j in pairs(recordings):
        names = (a.clips[i].sound.name, b.clips[j].sound.name)
        text = f"Which do you hear: {names[0]} or {names[1]}?"
        items += [item(r, "which_of_two", text, [n], names) for r, n in zip((a, b), names, strict=True)]
        if len(items) >= PER_TASK:
            break
    return items


def _what(recordings: Sequence[Recording]) -> list[Sample]:
    return [item(r, "what", "What makes the sound?", r.clips[0].sound.words) for r in recordings[:PER_TASK]]


def _what_choice(recordings: Sequence[Recording]) -> list[Sample]:
    """Four recordings of groups far from each other are all asked the same question, whose right answer is
    another one for each: whoever answers from the choices alone is right once in four."""
    items: list[Sample] = []
    for four in _fours(recordings):
        names = [recording.clips[0].sound.name for recording in four]
        text = f"What do you hear: {', '.join(names[:-1])} or {names[-1]}?"
        items += [item(r, "what_choice", text, [n], names) for r, n in zip(four, names, strict=True)]
        if len(items) >= PER_TASK:
            break
    return items


def _fours(recordings: Sequence[Recording]) -> Iterator[list[Recording]]:
    """Recordings four by four, each of a single sound that is far from those of the other three."""
    waiting: list[list[Recording]] = []
    for recording in recordings:
        group = recording.clips[0].sound.group
        for four in waiting:
            if all(not close(group, other.clips[0].sound.group) for other in four):
                four.append(recording)
                if len(four) == 4:
                    waiting.remove(four)
                    yield four
                break
        else:
            waiting.append([recording])


def _speech(recordings: Sequence[Recording]) -> list[Sample]:
    """Does anyone speak? Voices that are no speech and crowds are neither, so they are left out."""
    unclear = {"human", "ambience", "music"}
    yes = [r for r in recordings if any(label.startswith("speech/") for label in r.labels)]
    no = [r for r in recordings if r not in yes and not unclear & {c.sound.group for c in r.clips}]
    # As many of each kind with speech as without, so that scenes as such say nothing.
    items: list[Sample] = []
    for kind in ("single", "sequence", "bed"):
        sides = [[r for r in side if r.kind == kind] for side in (yes, no)]
        for pair in zip(*sides, strict=False):
            items += [
                item(r, "speech", "Does anyone speak in the audio?", [answer])
                for r, answer in zip(pair, ("yes", "no"), strict=True)
            ]
    return items[:PER_TASK]


def _how_many(recordings: Sequence[Recording]) -> list[Sample]:
    return [
        item(
            r,
            "how_many",
            f"How many times do you hear {r.clips[0].sound.name}?",
            [str(len(r.clips)), NUMBERS[len(r.clips)]],
        )
        for r in recordings[:PER_TASK]
    ]


def _order(recordings: Sequence[Recording]) -> list[Sample]:
    """Which of two neighbours comes first; every second time the later one is named first."""
    items = []
    for number, r in enumerate(recordings[:PER_TASK]):
        at = number // 2 % (len(r.clips) - 1)
        first, later = r.clips[at].sound.name, r.clips[at + 1].sound.name
        names = (later, first) if number % 2 else (first, later)
        items.append(item(r, "order", f"Which comes first: {names[0]} or {names[1]}?", [first], names))
    return items


def _once_each(recordings: Sequence[Recording]) -> list[Recording]:
    """Without a second recording of the same clip."""
    return list({r.clips[0].id: r for r in reversed(recordings)}.values())[::-1]


def item(
    recording: Recording, task: str, text: str, references: Sequence[str], choices: Sequence[str] = ()
) -> Sample:
    """One question about a recording; its id tells the task, the recording and the question apart."""
    return Sample(
        messages=ask([recording.path], text).messages,
        id=f"{task}-{recording.id}-{'-'.join(words(text))[-60:]}",
        task=task,
        references=tuple(references),
        choices=tuple(choices),
        events=recording.events,
        origin={"recording": recording.id, "caption": recording.caption, "kind": recording.kind},
    )
