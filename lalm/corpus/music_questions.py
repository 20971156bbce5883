"""Held-out questions about rendered music. As elsewhere the question alone tells nothing: clips are asked the
same question in pairs, threes or fours, with another answer each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lalm.corpus.catalogue import classes
from lalm.corpus.questions import NUMBERS, PER_TASK, PRESENCE
from lalm.data.english import words
from lalm.data.sample import Sample, ask

Rng = np.random.Generator
MODE = "Is this music in a {} key or in a {} key?"
TEMPO = "How fast is the music: slow, moderate or fast?"
FASTER = "The tune is heard twice. Is it {} the second time than the first?"
NUMBER = "How many instruments play this music?"
CHOICE = "Which instrument plays this music: {}, {}, {} or {}?"
FIRST = "Which comes first: {} or {}?"
WHAT = "What is this music played on?"
DRUMS = "a drum kit"


def music_questions(rows: Sequence[Sample], rng: Rng) -> list[Sample]:
    """All question tasks about the clips of a test split, which are lines of its caption manifest."""
    order = [rows[i] for i in rng.permutation(len(rows))]
    kinds = {kind: [r for r in order if r.origin["kind"] == kind] for kind in ("single", "together")}
    both = [row for row in order if row.origin["kind"] in kinds]
    found = [
        *_choice(kinds["single"]),
        *_presence(both, rng),
        *_first([row for row in order if row.origin["kind"] == "sequence"]),
        *_mode(both),
        *_each(
            both, "music_tempo", ("slow", "moderate", "fast"), lambda row: row.origin.get("tempo", ""), TEMPO
        ),
        *_faster([row for row in order if row.origin["kind"] == "twice"]),
        *_number(both),
    ]
    open_ended = (
        _item(row, "instrument", WHAT, instrument_words(names_of(row)[0])) for row in kinds["single"]
    )
    return [*found, *open_ended]


def names_of(row: Sample) -> list[str]:
    """The instruments of a clip, in the order in which they begin."""
    return [classes()[event["label"]].name for event in row.events]


def instrument_words(name: str) -> list[str]:
    """The words that name this instrument and no other: "violin", "fiddle"."""
    return [name.split()[-1], *{"a violin": ["fiddle"], "a saxophone": ["sax"]}.get(name, [])]


def _choice(rows: Sequence[Sample]) -> list[Sample]:
    """Four clips of four instruments are asked the same, whose right answer is another one for each."""
    found = []
    for four in _groups(rows, 4):
        names = [names_of(row)[0] for row in four]
        text = CHOICE.format(*names)
        found += [_item(r, "instrument_choice", text, [n], names) for r, n in zip(four, names, strict=True)]
    return found[:PER_TASK]


def _groups(rows: Sequence[Sample], size: int) -> Iterator[list[Sample]]:
    """Clips in groups whose instruments differ."""
    waiting: list[list[Sample]] = []
    for row in rows:
        for group in waiting:
            if all(names_of(row)[0] != names_of(other)[0] for other in group):
                group.append(row)
                if len(group) == size:
                    waiting.remove(group)
                    yield group
                break
        else:
            waiting.append([row])


def _presence(rows: Sequence[Sample], rng: Rng) -> list[Sample]:
    """Is it there? Two clips are asked about an instrument of each: yes, no, no, yes."""
    found: list[Sample] = []
    waiting = list(rows)
    while len(waiting) > 1 and len(found) < PER_TASK:
        a = waiting.pop(0)
        for b in waiting:
            x, y = (_lacking(one, other) for one, other in ((a, b), (b, a)))
            if x and y:
                waiting.remove(b)
                form = PRESENCE[int(rng.integers(len(PRESENCE)))]
                for row, name, answer in ((a, x, "yes"), (b, x, "no"), (a, y, "no"), (b, y, "yes")):
                    found.append(_item(row, "instrument_presence", form.format(name), [answer]))
                break
    return found


def _lacking(one: Sample, other: Sample) -> str:
    """An instrument of ``one`` that ``other`` has not; empty where it has them all."""
    return next((n for n in names_of(one) if n not in names_of(other) and n != DRUMS), "")


def _first(rows: Sequence[Sample]) -> list[Sample]:
    found = []
    for number, row in enumerate(rows[:PER_TASK]):
        first, later = names_of(row)
        names = (later, first) if number % 2 else (first, later)
        found.append(_item(row, "instrument_first", FIRST.format(*names), [first], names))
    return found


def _mode(rows: Sequence[Sample]) -> list[Sample]:
    modes = ("major", "minor")
    found = _each(rows, "music_mode", modes, lambda row: row.origin["mode"], "")
    texts = [MODE.format(*modes), MODE.format(*modes[::-1])]
    return [
        _item(row, "music_mode", texts[at // 2 % 2], row.references, modes) for at, row in enumerate(found)
    ]


def _faster(rows: Sequence[Sample]) -> list[Sample]:
    asked = []
    for word in ("faster", "slower"):
        own = rows[::2] if word == "faster" else rows[1::2]
        said = {"faster": "no", "slower": "no", word: "yes"}
        told = _each(own, "music_faster", ("yes", "no"), partial(_second, said), FASTER)
        asked += [_item(row, "music_faster", FASTER.format(word), row.references) for row in told]
    return asked


def _second(said: Mapping[str, str], row: Sample) -> str:
    return said[row.origin["second"]]


def _number(rows: Sequence[Sample]) -> list[Sample]:
    """One, two or three instruments; clips with drums are not asked about."""
    plain = [row for row in rows if DRUMS not in names_of(row)]
    found = _each(plain, "how_many_instruments", ("1", "2", "3"), lambda row: str(len(row.events)), NUMBER)
    return [
        replace(row, references=(*row.references, NUMBERS[int(row.references[0])]), choices=())
        for row in found
    ]


def _each(
    rows: Sequence[Sample], task: str, answers: Sequence[str], answer: Callable[[Sample], str], text: str
) -> list[Sample]:
    """As many clips of every answer, in turn."""
    by_answer = [[row for row in rows if answer(row) == name] for name in answers]
    choices = () if answers == ("yes", "no") else answers
    found = [
        _item(row, task, text, [name], choices)
        for group in zip(*by_answer, strict=False)
        for row, name in zip(group, answers, strict=True)
    ]
    return found[:PER_TASK]


def _item(
    row: Sample, task: str, text: str, references: Sequence[str], choices: Sequence[str] = ()
) -> Sample:
    """One question about a clip; its id tells the task, the clip and the question apart."""
    source: Any = row.audios[0]["audio"]
    return replace(
        row,
        messages=ask([source], text).messages,
        id=f"{task}-{row.origin['recording']}-{'-'.join(words(text))[-60:]}",
        task=task,
        references=tuple(references),
        choices=tuple(choices),
    )
