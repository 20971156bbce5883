"""Writes captions of scenes from the captions ("a dog barks") and names ("a dog barking") of their sounds."""

import re
from collections.abc import Sequence

import numpy as np

from lalm.data.english import words

Rng = np.random.Generator
STARTS = (
    "",
    "here",
    "I hear how",
    "in this recording",
    "one can hear that",
    "in this short recording one hears that",
)
HEARD = ("", "I hear", "one hears", "there is the sound of", "what I hear is", "this is a recording of")
ENDS = (
    "",
    "and nothing else",
    ", and that is all",
    "here",
    "in this recording",
    "and nothing else can be heard",
)
TIMES = {2: "twice", 3: "three times", 4: "four times"}


def in_order(captions: Sequence[str], names: Sequence[str], rng: Rng) -> str:
    """Sounds one after the other."""
    a = captions[0]
    if len(captions) == 1:
        return a
    if len(captions) == 2:
        b, name = captions[1], names[1]
        return _one(
            rng,
            f"{a}, then {b}",
            f"{a} and then {b}",
            f"first {a}, then {b}",
            f"{a} before {b}",
            f"after {a}, {b}",
            f"{a}, followed by {name}",
            f"{a}; after that {b}",
        )
    *first, last = captions
    return _one(
        rng,
        f"{', then '.join(first)}, and finally {last}",
        f"first {', then '.join(captions)}",
        f"{', '.join(first)}, and then {last}",
        f"{a}, followed by {_listed(names[1:])}",
    )


def repeated(caption: str, times: int, rng: Rng) -> str:
    """One sound ``times`` times."""
    if times == 1:
        return _one(rng, caption, f"{caption} once")
    return _one(rng, f"{caption} {TIMES[times]}", f"{caption} {TIMES[times]} in a row")


def over(bed: str, bed_name: str, front: str, rng: Rng) -> str:
    """Sounds, already put in words, over a bed."""
    return _one(
        rng,
        f"{front} while {bed}",
        f"{front} as {bed}",
        f"{bed} in the background while {front}",
        f"{bed}, and {front}",
        f"{front}, with {bed_name} in the background",
    )


def sentence(caption: str) -> str:
    """A caption as a sentence: capital letter, full stop."""
    return f"{caption[0].upper()}{caption[1:]}."


def does(caption: str) -> str:
    """ "does the dog bark" of "a dog barks"; "" where the caption is no such plain sentence."""
    found = re.fullmatch(r"an? ((?:[a-z]+ )*[a-z]*(?:[a-rt-z]|ss)) ([a-z]*[a-rt-z]s)", caption)
    if not found or {"and", "as", "on", "over", "along"} & set(caption.split()):
        return ""
    verb = re.sub(r"(?<=ch|sh|ss|zz)es$|(?<=[xo])es$|s$", "", re.sub("ies$", "ys", found[2]))
    return f"does the {found[1]} {verb}"


def exactly(
    captions: Sequence[str], names: Sequence[str], clause: str, num_words: range, rng: Rng
) -> dict[int, str]:
    """A sentence about the sounds for each number of words that one can be made of.

    ``clause`` tells all of them ("a dog barks twice"); the names alone make shorter ones.
    """
    together = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    bodies = [(clause, STARTS), (together, HEARD), (" and ".join(captions), STARTS)]
    made: dict[int, list[str]] = {}
    for body, starts in bodies:
        for start in starts:
            for end in ENDS[:3] if "recording" in start else ENDS:
                text = " ".join(filter(None, (start, body, end))).replace(" ,", ",")
                made.setdefault(len(words(text)), []).append(sentence(text))
    return {size: _one(rng, *made[size]) for size in num_words if size in made}


def _listed(parts: Sequence[str]) -> str:
    return " and then ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _one(rng: Rng, *options: str) -> str:
    return options[int(rng.integers(len(options)))]
