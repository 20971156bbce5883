"""Questions that need two recordings, answered from their events (APT, section 3.4).

The paper's NLAR questions were written by ChatGPT and never released. Ours are made of rules, so that no
answer is wrong: where a sound is, in which recording it comes more often or sooner, whether both have it.
Every question is asked in both orders of the clips, since the order is what it asks for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from lalm.data.sample import Sample, ask
from lalm.tasks.events import Recorded, Recordings, joined
from lalm.tasks.sources import Source, SourceError

SOONER_S = 0.5  # between two onsets that are told apart
LONGER_S = 1.0  # between two lengths that are told apart
SHARED_FRACTION = 0.5  # of pairs that are drawn to have a sound in common

FIRST, SECOND, BOTH, NEITHER = "first", "second", "both", "neither"
SWAPPED = {FIRST: SECOND, SECOND: FIRST}


def comparisons(recordings: Recordings, source: Source) -> Iterator[Sample]:
    """A pair for every recording, with one question, in both orders."""
    rng = np.random.default_rng(source.seed)
    known = list(recordings(source))
    names = sorted({name for recorded in known for name in recorded.names})
    for number, (one, two) in enumerate(pairs(known, source, rng)):
        options = questions(one, two, names, rng)
        question, answer = options[int(rng.integers(len(options)))]
        yield compared(one, two, question, answer, f"{number}-a")
        yield compared(two, one, question, SWAPPED.get(answer, answer), f"{number}-b")


def pairs(
    known: Sequence[Recorded], source: Source, rng: np.random.Generator
) -> Iterator[tuple[Recorded, Recorded]]:
    """Every recording with another one, half of them with one that has a sound in common with it.

    Raises SourceError for fewer than two recordings.
    """
    if len(known) < 2:
        raise SourceError(f"'{source.path}' has {len(known)} recordings, and a comparison needs two")
    having: dict[str, list[int]] = {}
    for number, recorded in enumerate(known):
        for name in recorded.names:
            having.setdefault(name, []).append(number)
    for number, recorded in enumerate(known):
        alike = [i for name in recorded.names for i in having[name] if i != number]
        if alike and rng.random() < SHARED_FRACTION:
            other = alike[int(rng.integers(len(alike)))]
        else:
            other = int((number + 1 + rng.integers(len(known) - 1)) % len(known))
        yield recorded, known[other]


def questions(
    one: Recorded, two: Recorded, names: Sequence[str], rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Questions about the pair in this order, each with its answer; one of each kind that the pair allows.

    ``names`` are all sounds there are: one of them is asked about that may be in neither.
    """
    between = [*dict.fromkeys([*one.names, *two.names])]
    asked = between[int(rng.integers(len(between)))]
    some = names[int(rng.integers(len(names)))] if rng.random() < 0.25 else asked
    found = [
        (
            f"In which recording do you hear {some}: the first, the second, both or neither?",
            where(one, two, some),
        ),
        (f"Do both recordings have {asked}?", in_both(one, two, asked)),
    ]
    for kind, question in WORDED.items():
        answers = [(name, KINDS[kind](one, two, name)) for name in between]
        told = next(((name, answer) for name, answer in answers if answer), None)
        if told:
            found.append((question.format(name=told[0]), str(told[1])))
    if len(one.names) != len(two.names):
        answer = FIRST if len(one.names) > len(two.names) else SECOND
        found.append(("Which recording has more different sounds?", answer))
    return found


def where(one: Recorded, two: Recorded, name: str) -> str:
    """Which of the recordings have the sound."""
    there = name in one.names, name in two.names
    return {(True, True): BOTH, (True, False): FIRST, (False, True): SECOND, (False, False): NEITHER}[there]


def in_both(one: Recorded, two: Recorded, name: str) -> str:
    """Whether both recordings have the sound."""
    return "yes" if where(one, two, name) == BOTH else "no"


def more_often(one: Recorded, two: Recorded, name: str) -> str | None:
    """Which recording has the sound more often; None unless both have it."""
    times = [sum(event.name == name for event in recorded.events) for recorded in (one, two)]
    return _greater(times[0], times[1], 1) if min(times) else None


def sooner(one: Recorded, two: Recorded, name: str) -> str | None:
    """Where the sound begins sooner after the start; None unless both have it, clearly apart."""
    onsets = [[e.onset_s for e in recorded.events if e.name == name] for recorded in (one, two)]
    return _greater(min(onsets[1]), min(onsets[0]), SOONER_S) if all(onsets) else None


def longer(one: Recorded, two: Recorded, name: str) -> str | None:
    """Where the sound is heard longer in all; None unless both have it, clearly apart."""
    spans = [joined([(e.onset_s, e.offset_s) for e in r.events if e.name == name]) for r in (one, two)]
    sums = [sum(offset_s - onset_s for onset_s, offset_s in found) for found in spans]
    return _greater(sums[0], sums[1], LONGER_S) if all(spans) else None


Kind = Callable[[Recorded, Recorded, str], str | None]
KINDS: Mapping[str, Kind] = {
    **{"where": where, "both": in_both},
    **{"more often": more_often, "sooner": sooner, "longer": longer},
}
WORDED = {
    "more often": "In which recording do you hear {name} more often?",
    "sooner": "In which recording does {name} come sooner after the start?",
    "longer": "In which recording does {name} last longer in all?",
}


def _greater(first: float, second: float, least: float) -> str | None:
    if abs(first - second) < least:
        return None
    return FIRST if first > second else SECOND


def compared(one: Recorded, two: Recorded, question: str, answer: str, name: str) -> Sample:
    """A question about two recordings in this order, with its answer. Both orders are about one recording,
    where recordings are counted or another one is to stand in."""
    asked = ask([one.audio, two.audio], question).with_target(f"{answer.capitalize()}.")
    return Sample(
        asked.messages,
        id=f"compare-{name}",
        task="compare",
        references=(answer,),
        origin={"recording": " + ".join(sorted((one.id, two.id))), "first": one.id, "second": two.id},
    )
