"""Writes captions of scenes from the captions ("a dog barks") and names ("a dog barking") of their sounds."""

import re
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from lalm.data.english import words

Rng = np.random.Generator
STARTS = (  # before a clause; none of them claims anything
    "here",
    "listen:",
    "in this recording,",
    "in this clip,",
    "in the recording,",
    "in these few seconds,",
    "as one can hear,",
    "in short,",
    "it seems that",
    "what happens is this:",
    "one can hear that",
    "you can hear that",
    "one notices how",
    "it sounds as if",
)
HEARD = (  # before names
    "I hear",
    "one hears",
    "we hear",
    "you can hear",
    "one notices",
    "we notice",
    "the recording has",
    "the clip holds",
    "what one hears is",
    "there is the sound of",
    "this is a recording of",
    "this short recording is of",
)
PLACES = (
    "",
    "here",
    "right here",
    "in this clip",
    "in the recording",
    "in this short recording",
    "in these few seconds",
    "in this recording of some seconds",
)
ENDS = (
    "",
    ", it seems",
    "and nothing else",
    ", and that is all",
    "and that is everything",
    ", as one can hear",
    ", and no other sound",
    ", and I hear nothing else",
    ", which is all one hears",
    ", as far as I can tell",
    "and nothing else can be heard",
    ", as far as one can hear",
)
ONCE = (
    r"recording|clip|seconds",
    r"\bhears?\b|heard|sounds?",
    r"\bhere\b",
    r"seem|as if",
)  # not twice in a sentence
ITSELF = 0.6  # of the counted sentences begin with the sound itself
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
    bodies = [(clause, STARTS), (" and ".join(captions), STARTS), (together, HEARD)]
    bodies.append((f"{together} can be heard", ()))
    made: dict[int, dict[str, list[str]]] = {}
    for body, starts in bodies:
        for start, rest, length in _frames(starts, heard="heard" in body):
            texts = made.setdefault(len(words(body)) + length, {}).setdefault(start, [])
            texts.append(f"{start} {body}{rest}".strip())
    return {size: sentence(_opened(rng, made[size])) for size in num_words if size in made}


@cache
def _frames(starts: Sequence[str], *, heard: bool) -> list[tuple[str, str, int]]:
    """What may stand before and after a body, with its number of words; no word stands in it twice."""
    found = []
    for start in ("", *starts):
        for place in PLACES:
            for end in ENDS:
                rest = " ".join(filter(None, ("", place, end))).replace(" ,", ",")
                rest = rest if rest.startswith((" ", ",")) or not rest else f" {rest}"
                text = f"{start}{rest}" + heard * " heard"
                if all(len(re.findall(word, text)) < 2 for word in ONCE):
                    found.append((start, rest, len(words(f"{start}{rest}"))))
    return found


def _opened(rng: Rng, by_start: Mapping[str, Sequence[str]]) -> str:
    """One of the texts: mostly one that begins with the sound, else any opening as often as another."""
    starts = [start for start in by_start if start]
    itself = "" in by_start and (rng.random() < ITSELF or not starts)
    return _one(rng, *by_start["" if itself else _one(rng, *starts)])


def _listed(parts: Sequence[str]) -> str:
    return " and then ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _one(rng: Rng, *options: str) -> str:
    return options[int(rng.integers(len(options)))]
