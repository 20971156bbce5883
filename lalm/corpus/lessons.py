"""``lalm corpus lessons``: questions and answers of every kind about a corpus's recordings.

Each line of the manifest is a conversation of one to three questions about one recording, made from its
events. Yes and no, the places of choices and the order in which two sounds are named are drawn evenly, and a
sound is offered wrongly as often as it is right for its frequency, so that the question alone tells nothing;
how often is asked where a sound comes one to four times equally often,
and before any answer that would tell. Half of the wrong choices are sounds of the same group, the others are
surely absent. Some questions have no right choice, ask about what is not there, or cannot be answered from
sound; some recordings are silence or noise. Wordings: ``lessons.yaml``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lalm.corpus.catalogue import classes
from lalm.corpus.empty import empty_recordings
from lalm.corpus.lesson_balance import offers
from lalm.corpus.lesson_kinds import KINDS
from lalm.corpus.lesson_questions import Heard, Offers, Rng, Turn, kind_of, pick, transcript_of
from lalm.data.readers import open_samples
from lalm.data.sample import AudioPart, Message, Sample, write_manifest

EMPTY_FILES = 60
EMPTY_SHARE = 0.05  # of the lines are about them
EMPTY_COUNT = 1.0  # odds of counting what is not there in them
SPOKEN_SHARE = 0.2  # of the lines are about speech whose words are known, where they are asked for
SINGLE_SHARE = 0.4  # of the lines are about one sound; the others about scenes
SCENE_SHARES = {"sequence": 0.45, "repetition": 0.4, "bed": 0.15}
REPEATED_CHOICE = 0.5  # how often a choice is asked of a repetition, beside how often of a single sound
TURNS = ((1, 2, 3), (0.4, 0.3, 0.3))
FIRST = (
    "count",
    "order",
    "neighbours",
    "times",
)  # before an answer that would tell them, such as a description


def write_lessons(manifest: Path, out: Path, count: int, seed: int = 0, *, said: bool = False) -> int:
    """Write ``count`` conversations about a corpus manifest with events; returns their number.

    With ``said``, recordings of speech have their transcript beside the audio, for a model with
    ``transcript: given`` or ``whisper``, and questions about what is said are among the others.
    Beside ``out`` a folder ``NAME.empty`` gets recordings of silence and noise. Raises ValueError for a
    manifest without events whose labels the catalogue knows.
    """
    rows = [s for s in open_samples(manifest) if s.events and all(e["label"] in classes() for e in s.events)]
    single = [s for s in rows if kind_of(s) in ("single", "take")]
    scenes = {kind: found for kind in SCENE_SHARES if (found := [s for s in rows if kind_of(s) == kind])}
    if not single or not scenes:
        raise ValueError(
            f"'{manifest}' has no recordings with events of the corpus; make it by 'lalm corpus build'"
        )
    empty = list(empty_recordings(out.with_suffix(".empty"), EMPTY_FILES, np.random.default_rng([seed, 1])))
    spoken = [s for s in rows if transcript_of(s)] if said else []
    rng = np.random.default_rng([seed, 0])
    rarity = _rarity(single)
    offered = _offers(single, rarity, scenes)
    return write_manifest(
        out, (_lesson(number, single, scenes, empty, spoken, offered, rarity, rng) for number in range(count))
    )


def _lesson(
    number: int,
    single: Sequence[Sample],
    scenes: Mapping[str, Sequence[Sample]],
    empty: Sequence[Sample],
    spoken: Sequence[Sample],
    offered: Offers,
    rarity: np.ndarray,
    rng: Rng,
) -> Sample:
    draw = rng.random()
    if draw < EMPTY_SHARE:
        row = pick(rng, *empty)
    elif spoken and draw < EMPTY_SHARE + SPOKEN_SHARE:
        row = pick(rng, *spoken)
    elif rng.random() < SINGLE_SHARE:
        row = single[int(rng.choice(len(single), p=rarity))]
    else:
        shares = np.array([SCENE_SHARES[kind] for kind in scenes])
        kind = str(rng.choice(list(scenes), p=shares / shares.sum()))
        row = scenes[kind][int(rng.integers(len(scenes[kind])))]
    heard = Heard(row, offered, rng, said=bool(spoken))
    kinds = [(kind, odds) for kind, (odds, _) in KINDS.items() if heard.can(kind)]
    if not heard.sounds:
        kinds = [(kind, EMPTY_COUNT if kind == "count" else odds) for kind, odds in kinds]
    odds = np.array([o for _, o in kinds])
    size = min(int(rng.choice(TURNS[0], p=TURNS[1])), len(kinds))
    chosen = [kinds[i][0] for i in rng.choice(len(kinds), size, replace=False, p=odds / odds.sum())]
    chosen.sort(key=lambda kind: kind not in FIRST)
    turns = [KINDS[kind][1](heard) for kind in chosen]
    part: AudioPart = {"type": "audio", "audio": row.audios[0]["audio"]}
    if spoken and (words := transcript_of(row)):
        part["transcript"] = words
    return conversation(row, number, chosen, turns, part)


def conversation(
    row: Sample, number: int, kinds: Sequence[str], turns: Sequence[Turn], part: AudioPart
) -> Sample:
    """A line of the lessons: the questions of these kinds about a recording, with their answers."""
    messages: list[Message] = [{"role": "user", "content": [part, {"type": "text", "text": turns[0][0]}]}]
    messages.append({"role": "assistant", "content": turns[0][1]})
    for question, answer in turns[1:]:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Sample(
        tuple(messages),
        id=f"lesson-{number:06d}",
        task="+".join(kinds),
        events=row.events,
        origin={**row.origin, "kind": kind_of(row)},
    )


def _offers(single: Sequence[Sample], rarity: np.ndarray, scenes: Mapping[str, Sequence[Sample]]) -> Offers:
    """Odds of wrong answers, from how often each label is heard in a lesson, and how often alone in one."""
    heard: dict[str, float] = {}
    alone: dict[str, float] = {}
    drawn = [(SINGLE_SHARE, 1.0, list(zip(single, rarity, strict=True)))]
    for kind, rows in scenes.items():
        share = (1 - SINGLE_SHARE) * SCENE_SHARES[kind]
        asked = REPEATED_CHOICE if kind == "repetition" else 0.0
        drawn.append((share, asked, [(row, 1 / len(rows)) for row in rows]))
    for share, asked, rows_of in drawn:
        for row, odds in rows_of:
            labels = {event["label"] for event in row.events}
            for label in labels:
                heard[label] = heard.get(label, 0.0) + share * float(odds) / len(labels)
                alone[label] = alone.get(label, 1e-9) + asked * share * float(odds)
    return Offers(offers(heard), offers(alone))


def _rarity(single: Sequence[Sample]) -> np.ndarray:
    """Odds of each recording: of a rare class more than its share."""
    labels = [sample.events[0]["label"] for sample in single]
    odds = np.array([labels.count(label) ** -0.6 for label in labels])
    return odds / odds.sum()
