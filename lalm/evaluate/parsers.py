"""Parses answers: text -> label, number, time ranges and so on, or None if it cannot be read.

An answer that cannot be read counts as wrong and is also counted separately."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from lalm.data.english import stem, stems, words
from lalm.data.sample import Sample
from lalm.inference import reading

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def text(sample: Sample, answer: str) -> str | None:
    """The answer itself, unless it is empty."""
    return answer.strip() or None


def yes_no(sample: Sample, answer: str) -> str | None:
    """ "yes" or "no" when the answer says just one of them, or begins with one."""
    said = words(answer)
    found = {word for word in said if word in ("yes", "no")}
    if len(found) == 1:
        return found.pop()
    return said[0] if said[:1] in (["yes"], ["no"]) else None


def choice(sample: Sample, answer: str) -> str | None:
    """The option whose letter the answer gives, or the one option that it holds word by word."""
    return reading.read_letter(answer, sample.choices)


def label(sample: Sample, answer: str) -> str | None:
    """The one label that the answer holds; letters mean nothing here."""
    return reading.read_label(answer, sample.choices)


def first_named(sample: Sample, answer: str) -> str | None:
    """The choice whose content words the answer names best; on a tie the one named first."""
    return min(ranks, key=lambda option: ranks[option]) if (ranks := _named(sample, answer)) else None


def nearest_choice(sample: Sample, answer: str) -> str | None:
    """The choice whose content words the answer names best; None on a tie, as when it repeats them all."""
    ranks = _named(sample, answer)
    best = min((share for share, _ in ranks.values()), default=0.0)
    found = [option for option, (share, _) in ranks.items() if share == best]
    return found[0] if len(found) == 1 else None


def _named(sample: Sample, answer: str) -> dict[str, tuple[float, int]]:
    """The choices that the answer names: minus the share of their words, and where the first one stands."""
    said = words(answer)
    positions = {}
    for option in sample.choices:
        own = stems(option)
        hits = [i for i, word in enumerate(said) if stem(word) in own]
        if hits:
            positions[option] = (-len({stem(said[i]) for i in hits}) / len(own), hits[0])
    return positions


def number(sample: Sample, answer: str) -> str | None:
    """The first number in the answer, as digits, word or "once", "twice"."""
    spoken = {word: i for i, word in enumerate(NUMBERS)} | {"once": 1, "twice": 2, "thrice": 3}
    for word in words(answer):
        if word.isdigit():
            return str(int(word))
        if word in spoken:
            return str(spoken[word])
    return None


def ranges(sample: Sample, answer: str) -> str | None:
    """The answer when it holds a time range."""
    return answer.strip() if reading.read_ranges(answer) else None


Parser = Callable[[Sample, str], str | None]

PARSERS: Mapping[str, Parser] = {
    "text": text,
    "yes_no": yes_no,
    "choice": choice,
    "label": label,
    "nearest_choice": nearest_choice,
    "first_named": first_named,
    "number": number,
    "ranges": ranges,
}


def fingerprint(name: str) -> str:
    """sha256 of a parser's code and of what it reads with, for the card."""
    used: list[Any] = [
        PARSERS[name],
        reading.read_letter,
        reading.read_label,
        _named,
        reading.read_ranges,
        words,
        stem,
    ]
    return hashlib.sha256("".join(inspect.getsource(code) for code in used).encode()).hexdigest()[:16]


@cache
def _language_identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(["en", "de", "fr", "es", "it", "nl", "pt"])
    return identifier


def speaks(answer: str, language: str) -> bool:
    """True when the answer is written in the language (ISO code), by py3langid among seven."""
    return len(words(answer)) >= 2 and _language_identifier().classify(answer)[0] == language
