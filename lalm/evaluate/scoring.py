"""Answer text -> right or wrong, for questions about sounds. Pure functions; an answer that cannot be read
counts as wrong and is reported apart.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from lalm.sample import Sample
from lalm.words import stem, stems, words

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def read_yes_no(answer: str) -> str | None:
    """ "yes" or "no" when the answer says just one of them, else None."""
    found = {w for w in words(answer) if w in ("yes", "no")}
    if len(found) == 1:
        return found.pop()
    first = words(answer)[:1]
    return first[0] if first and first[0] in ("yes", "no") else None


def read_choice(answer: str, choices: tuple[str, ...]) -> str | None:
    """The choice whose content words the answer names best; on a tie the one named first; None if none."""
    text = words(answer)
    positions = {}
    for choice in choices:
        own = stems(choice)
        hits = [i for i, w in enumerate(text) if stem(w) in own]
        if hits:
            share = len({stem(text[i]) for i in hits}) / len(own)
            positions[choice] = (-share, hits[0])
    return min(positions, key=lambda c: positions[c]) if positions else None


def read_number(answer: str) -> int | None:
    """The first number in the answer, as digits, word or "once"/"twice"."""
    spoken = {w: i for i, w in enumerate(NUMBERS)} | {"once": 1, "twice": 2, "thrice": 3}
    for word in words(answer):
        if word.isdigit():
            return int(word)
        if word in spoken:
            return spoken[word]
    return None


@cache
def _language_identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(["en", "de", "fr", "es", "it", "nl", "pt"])
    return identifier


def speaks(answer: str, language: str) -> bool:
    """True when the answer is written in the language (ISO code), by py3langid among seven."""
    return len(words(answer)) >= 2 and _language_identifier().classify(answer)[0] == language


def score_yes_no(sample: Sample, answer: str) -> float | None:
    """1 when the answer says the reference, "yes" or "no"; None when it says neither."""
    said = read_yes_no(answer)
    return None if said is None else float(said == sample.references[0].lower())


def score_choice(sample: Sample, answer: str) -> float | None:
    """1 when the choice that the answer names best is the right one; None when it names none."""
    said = read_choice(answer, sample.choices)
    return None if said is None else float(said == sample.references[0])


def score_open(sample: Sample, answer: str) -> float | None:
    """Right when the answer names any accepted word."""
    named = stems(answer)
    return float(any(stems(reference) <= named for reference in sample.references if stems(reference)))


def score_number(sample: Sample, answer: str) -> float | None:
    """1 when the first number in the answer is right; None without a number."""
    said = read_number(answer)
    return None if said is None else float(str(said) in sample.references)


def score_one_word(sample: Sample, answer: str) -> float | None:
    """1 when the answer is one word."""
    return float(len(words(answer)) == 1)


def score_ten_words(sample: Sample, answer: str) -> float | None:
    """One sentence of nine to eleven words."""
    return float(9 <= len(words(answer)) <= 11)


def score_says_yes_or_no(sample: Sample, answer: str) -> float | None:
    """The answer is "yes" or "no" and nothing else."""
    return float(words(answer) in (["yes"], ["no"]))


# Each task's reader: 1 right, 0 wrong, None unreadable.
SCORERS: Mapping[str, Callable[[Sample, str], float | None]] = {
    "presence": score_yes_no,
    "speech": score_yes_no,
    "what": score_open,
    "what_choice": score_choice,
    "which_of_two": score_choice,
    "order": score_choice,
    "how_many": score_number,
    "one_word": score_one_word,
    "ten_words": score_ten_words,
    "yes_no": score_says_yes_or_no,
    "german": lambda sample, answer: float(speaks(answer, "de")),
    "french": lambda sample, answer: float(speaks(answer, "fr")),
    "spanish": lambda sample, answer: float(speaks(answer, "es")),
}

# What guessing scores on the balanced sets; None where guessing has no fixed score.
CHANCE: Mapping[str, float | None] = {
    "presence": 0.5,
    "speech": 0.5,
    "what_choice": 0.25,
    "which_of_two": 0.5,
    "order": 0.5,
    "how_many": 0.25,
}
