"""Labels and times read out of an answer's text."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from lalm.data.english import stem, words

Span: TypeAlias = tuple[str, float, float]  # label, onset, offset in seconds
_RANGE = re.compile(
    r"(\d+(?:\.\d+)?)\s*(?:s|sec|seconds?)?\s*(?:-|\u2013|to|and|until)\s*(\d+(?:\.\d+)?)\s*s?", re.I
)


def read_letter(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer to lettered options takes: its letter, else the one choice it names whole.

    A letter counts alone, in brackets, before a bracket, full stop or colon, or after "answer is" or
    "option"; so "A dog barks" is not the letter A. None when nothing, or more than one thing, is chosen.
    """
    said = answer.strip().strip("*_`\"' ")
    last = chr(ord("A") + len(choices) - 1)
    found = re.fullmatch(rf"\(?([A-{last}a-{last.lower()}])[).:]?", said)
    found = found or re.match(rf"\(?([A-{last}])(?:[).:](?:\s|$)|\n)", said)
    found = found or re.search(rf"(?:answer is|answer:|option)\s*:?\s*\(?([A-{last}])\b(?!\s+[a-z])", said)
    if found:
        return choices[ord(found[1].upper()) - ord("A")]
    return read_label(said, choices)


def read_label(answer: str, choices: Sequence[str]) -> str | None:
    """The one choice whose words the answer holds in order; None when none or several are held.

    A choice inside another that is held too ("wind" in "wind chime") does not count.
    """
    text = [stem(word) for word in words(answer)]
    held = [choice for choice in choices if _within([stem(w) for w in words(choice)], text)]
    own = {choice: [stem(w) for w in words(choice)] for choice in held}
    held = [c for c in held if not any(d != c and own[d] != own[c] and _within(own[c], own[d]) for d in held)]
    return held[0] if len(held) == 1 else None


def read_class(
    answer: str, classes: Sequence[str], encoder: Callable[[Sequence[str]], Any] | None = None
) -> str | None:
    """The class that an answer names: the very class, else the one it holds, else the nearest in meaning.

    ``encoder``: texts -> unit vectors (texts, width), such as ``embeddings.SentenceEncoder``; without one, an
    answer that holds no class, or several, is None.
    """
    said = words(answer)
    same = [name for name in classes if words(name) == said]
    if same or not said:
        return same[0] if same else None
    held = read_label(answer, classes)
    if held is not None or encoder is None:
        return held
    likeness = encoder(list(classes)) @ encoder([answer])[0]
    return classes[int(likeness.argmax())]


def _within(inner: Sequence[str], outer: Sequence[str]) -> bool:
    n = len(inner)
    return n > 0 and any(list(outer[i : i + n]) == list(inner) for i in range(len(outer) - n + 1))


def read_ranges(answer: str, label: str = "") -> list[Span]:
    """Every "1.0s-2.5s", "from 1 to 2.5 seconds" of an answer as (label, onset, offset), in order."""
    ranges = [(float(a), float(b)) for a, b in _RANGE.findall(answer)]
    return [(label, onset, offset) for onset, offset in ranges if offset > onset]
