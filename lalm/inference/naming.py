"""Whether an answer names a thing, and the number that it gives: neither denied, nor one of many guesses."""

import re
from collections.abc import Sequence

from lalm.data.english import stem, stems, words
from lalm.inference.answer_words import spoken_numbers
from lalm.inference.final_answer import final_answer, negated, plain

SHORT_ITEM = 4  # words of an entry of a bare list
GUESSES = 3  # so many entries of which one is right are guesses, not an answer
_LIST = re.compile(r"\s*(?:,|;|\n|/|\||\u3001|\bor\b|\band\b)\s*", re.I)
_OR = re.compile(r"\bor\b|\beither\b|(?<=\w)/(?=\w)|\boder\b|\u6216", re.I)
_NUMBER = re.compile(
    r"(?<![\w.])(\d{1,3}(?:,\d{3})+|\d{1,9})(?:\.0+)?(?![\w]*\d)|[a-z\u00c0-\u024f]+|[\u96f6\u3007\u4e00\u4e8c\u4e24\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341]+",
    re.I,
)
_UNITS = re.compile(
    r"\s*-?\s*(?:s|secs?|seconds?|ms|minutes?|mins?|hours?|hz|khz|db|bpm|%|percent|:\d|\.\d)(?![a-z])", re.I
)
_CUE = re.compile(
    r"(?:answer|total|count|result|number of times|altogether|in all)\s*"
    r"(?:number|count|is|are|of|would be|:|=|-)*\s*(?:is|are|:|=)?\s*",
    re.I,
)
_NOT_COUNTED = re.compile(  # the numbers of a list's lines; "one" that counts nothing
    r"^[ \t]*(?:\d+[.)])(?=[ \t]+\S[^\n]*\n)|\b(?:at least|no|any|each|every|this|that|which) one\b",
    re.I | re.M,
)
LONG = 200  # signs of an answer that reasons before it counts
_CONCLUSION = re.compile(
    r"(?:there (?:are|were|is|was)|(?:it|that) (?:makes|is)|we (?:have|get|count)|"
    r"i (?:\w+ )?(?:hear|heard|count|counted|identify|identified)|"
    r"(?:appears|occurs|heard|repeated)(?: a total of)?)\b",
    re.I,
)
_SPOKEN = {word: value for value, row in enumerate(spoken_numbers()) for word in row.split()}
_ARTICLES = ("un", "une", "uno", "una")  # these count alone only


def names_it(answer: str, references: Sequence[str]) -> bool:
    """Whether the answer names all content words of any reference: not to deny it ("there is no dog"), and
    not as one of several guesses ("a dog or a cat", "dog, cat, bird, car")."""
    said = plain(final_answer(answer))
    kept = " ".join(_undenied(said))
    named = stems(kept)
    accepted = [own for own in map(stems, references) if own]
    if not any(own <= named for own in accepted):
        return False
    entries = [entry for entry in _LIST.split(said) if words(entry)]
    bare = len(entries) >= GUESSES and not any(_clause(entry) for entry in entries)
    if not bare and not _OR.search(said):
        return True
    every = set().union(*accepted)
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


def counting(text: str) -> str:
    """The text without numbers that count nothing: a list's own, and the "one" of "at least one"."""
    return _NOT_COUNTED.sub(lambda found: " " * len(found[0]), text)


def read_number(answer: str) -> str | None:
    """The number that an answer gives, as digits: after "the answer is" or "total", else the first that is no
    time or share; None without any. Up to twenty numbers may be words, "once" and "twice" too."""
    said = counting(plain(final_answer(answer))[-20_000:])
    numbers = [
        (hit.start(), value) for hit in _NUMBER.finditer(said) if (value := _value(said, hit)) is not None
    ]
    ends = [
        cue.end() for p in (_CUE, *([_CONCLUSION] if len(said) > LONG else [])) for cue in p.finditer(said)
    ]
    for end in sorted(ends, reverse=True):
        after = [value for start, value in numbers if end <= start <= end + 20]
        if after:
            return str(after[0])
    return str(numbers[0][1]) if numbers else None


def _value(said: str, hit: re.Match[str]) -> int | None:
    if hit[1]:
        value = int(hit[1].replace(",", ""))
    elif "\u5341" in hit[0] and len(hit[0]) <= 3:  # tens and ones: 十九, 二十, 二十三
        tens, _, ones = hit[0].partition("\u5341")
        if not {tens, ones} <= {"", *_SPOKEN}:
            return None
        value = 10 * _SPOKEN.get(tens, 1) + _SPOKEN.get(ones, 0)
    else:
        word = hit[0].lower()
        if word not in _SPOKEN or (word in _ARTICLES and said.strip(" .!").lower() != word):
            return None
        value = _SPOKEN[word]
    return None if _UNITS.match(said, hit.end()) else value


def held_words(text: str) -> list[str]:
    """Stems of the answer's words that are not denied, in order."""
    return [stem(word) for part in _undenied(plain(final_answer(text))) for word in words(part)]
