"""The class that an answer names, by its words or by nearness in meaning."""

from collections.abc import Callable, Sequence
from typing import Any

from lalm.data.english import words
from lalm.inference.choices import read_choice


def read_class(
    answer: str, classes: Sequence[str], encoder: Callable[[Sequence[str]], Any] | None = None
) -> str | None:
    """The class that an answer names: the very class, else the one it states, else the nearest in meaning.

    ``encoder``: texts -> unit vectors (texts, width), such as ``embeddings.SentenceEncoder``; without one, an
    answer that states no class, or several, is None.
    """
    said = words(answer)
    same = [name for name in classes if words(name) == said]
    if same or not said:
        return same[0] if same else None
    held = read_choice(answer, classes, letters=False)
    if held is not None or encoder is None:
        return held
    likeness = encoder(list(classes)) @ encoder([answer])[0]
    return classes[int(likeness.argmax())]
