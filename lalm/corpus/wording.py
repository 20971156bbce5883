"""Writes captions of scenes from the captions ("a dog barks") and names ("a dog barking") of their sounds."""

from collections.abc import Sequence

import numpy as np

Rng = np.random.Generator
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


def _listed(parts: Sequence[str]) -> str:
    return " and then ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _one(rng: Rng, *options: str) -> str:
    return options[int(rng.integers(len(options)))]
