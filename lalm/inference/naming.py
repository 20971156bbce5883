"""Whether an answer names a thing: neither denied, nor one of many guesses."""

import re
from collections.abc import Sequence

from lalm.data.english import stem, stems, words
from lalm.inference.final_answer import final_answer, negated, plain

SHORT_ITEM = 4  # words of an entry of a bare list
GUESSES = 3  # so many entries of which one is right are guesses, not an answer
_QUESTION = re.compile(
    r"(?:(?<=[.!?\n])|\A)\s*(?:is|are|was|were|could|does|do|did|can|might)\b[^.!?\n]*\?", re.I
)
_MIGHT = re.compile(r"\b(?:might|could|may)(?: also| well)? be\b", re.I)
_LIST = re.compile(r"\s*(?:,|;|\n|/|\||\u3001|\bor\b|\band\b)\s*", re.I)
_OR = re.compile(r"\bor\b|\beither\b|(?<=\w)/(?=\w)|\boder\b|\u6216", re.I)


def names_it(answer: str, references: Sequence[str]) -> bool:
    """Whether the answer names all content words of any reference: not to deny it ("there is no dog"), and
    not as one of several guesses ("a dog or a cat", "dog, cat, bird, car")."""
    said = _QUESTION.sub(" ", plain(final_answer(answer)))
    kept = " ".join(_undenied(said))
    named = stems(kept)
    accepted = [own for own in map(stems, references) if own]
    if not any(own <= named for own in accepted):
        return False
    entries = [entry for entry in _LIST.split(said) if words(entry)]
    bare = len(entries) >= GUESSES and not any(_clause(entry) for entry in entries)
    every = set().union(*accepted)
    if len(weighed := _MIGHT.split(said)[1:]) > 1:  # "it might be a dog; it might be a fox"
        return all(stems(part) & every for part in weighed)
    if not bare and not _OR.search(said):
        return True
    if bare:
        return all(stems(entry) & every for entry in entries if stems(entry))
    sentence = next(s for s in re.split(r"[.!?\n]+", said) if _OR.search(s))
    offered = [stems(part) for part in re.split(r",|\bor\b|\beither\b|/|\boder\b", sentence, flags=re.I)]
    return all(part & every for part in offered if part)


def _clause(entry: str) -> bool:
    """Whether an entry says something, "a dog barks", rather than just "dog barking"."""
    said = words(entry)
    return len(said) > SHORT_ITEM or (len(said) > 2 and said[0] in ("a", "an", "the", "some"))


def _undenied(said: str) -> list[str]:
    """The words that are not in the reach of a "no" or "not"."""
    return [
        hit[0]
        for hit in re.finditer(r"[^\W_]+(?:'[^\W_]+)?", said)
        if not negated(said, hit.start(), hit.end())
    ]


def held_words(text: str) -> list[str]:
    """Stems of the answer's words that are not denied, in order."""
    return [stem(word) for part in _undenied(plain(final_answer(text))) for word in words(part)]
