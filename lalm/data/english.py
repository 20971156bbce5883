"""English words: tokenizing, stemming and stop words, to compare answers and captions."""

import re

STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "to",
        "and",
        "or",
        "is",
        "are",
        "with",
        "some",
        "someone",
        "something",
        "sound",
        "sounds",
        "noise",
    ]
)


def words(text: str) -> list[str]:
    """Lower-case words of a text, without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())


def stem(word: str) -> str:
    """A crude English stem, enough to let "barking", "barks" and "bark" meet."""
    for suffix in ("ing", "ies", "ied", "es", "ed", "s"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word.rstrip("e") if len(word) > 3 else word


def stems(text: str) -> set[str]:
    """Stems of the content words."""
    return {stem(w) for w in words(text) if w not in STOP_WORDS}
