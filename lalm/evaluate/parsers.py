"""Parses answers: text -> label, number, time ranges and so on, or None if it cannot be read.

An answer that cannot be read counts as wrong and is also counted separately."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any

from lalm.data import english
from lalm.data.english import stems, words
from lalm.data.sample import Sample
from lalm.inference import (
    answer_words,
    choice_letters,
    choice_verdicts,
    choice_words,
    choices,
    counting,
    final_answer,
    naming,
    times,
)
from lalm.inference import yes_no as yes_and_no


def text(sample: Sample, answer: str) -> str | None:
    """The answer itself without its reasoning, unless that is empty."""
    return final_answer.without_reasoning(answer) or None


def yes_no(sample: Sample, answer: str) -> str | None:
    """ "yes" or "no", whichever the answer says in the end."""
    return yes_and_no.read_yes_no(answer)


def choice(sample: Sample, answer: str) -> str | None:
    """The option that the answer states last, by its letter or its words."""
    return choices.read_choice(answer, sample.choices)


def label(sample: Sample, answer: str) -> str | None:
    """The label that the answer states last; letters mean nothing here."""
    return choices.read_choice(answer, sample.choices, letters=False)


def first_named(sample: Sample, answer: str) -> str | None:
    """The choice whose content words the answer names best; on a tie the one named first."""
    return min(ranks, key=lambda option: ranks[option]) if (ranks := _named(sample, answer)) else None


def nearest_choice(sample: Sample, answer: str) -> str | None:
    """The choice whose content words the answer names best; on a tie the one it states last, None when it
    states none, as when it repeats them all."""
    ranks = _named(sample, answer)
    best = min((share for share, _ in ranks.values()), default=0.0)
    found = [option for option, (share, _) in ranks.items() if share == best]
    return found[0] if len(found) == 1 else choices.read_choice(answer, found, letters=False)


def _named(sample: Sample, answer: str) -> dict[str, tuple[float, int]]:
    """The choices that the answer names: minus the share of their words, and where the first one stands."""
    said = naming.held_words(answer)
    positions = {}
    for option in sample.choices:
        own = stems(option)
        hits = [i for i, word in enumerate(said) if word in own]
        if hits:
            positions[option] = (-len({said[i] for i in hits}) / len(own), hits[0])
    return positions


def number(sample: Sample, answer: str) -> str | None:
    """The number that the answer gives, as digits."""
    return counting.read_number(answer)


def ranges(sample: Sample, answer: str) -> str | None:
    """The answer when it holds a time range, or says that nothing is to be heard."""
    said = final_answer.without_reasoning(answer)
    return said if times.read_ranges(answer) or yes_and_no.read_yes_no(answer) == "no" else None


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
    """sha256 of a parser's code, of the modules it reads with and of their words, for the card."""
    of_choices: list[ModuleType] = [choices, choice_letters, choice_verdicts, choice_words]
    modules = [*of_choices, counting, english, final_answer, naming, times, yes_and_no]
    used: list[Any] = [PARSERS[name], _named, *modules]
    code = "".join(inspect.getsource(one) for one in used) + answer_words.source()
    return hashlib.sha256(code.encode()).hexdigest()[:16]


@cache
def _language_identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(["en", "de", "fr", "es", "it", "nl", "pt"])
    return identifier


def speaks(answer: str, language: str) -> bool:
    """True when the answer is written in the language (ISO code), by py3langid among seven."""
    return len(words(answer)) >= 2 and _language_identifier().classify(answer)[0] == language


@cache
def _any_language() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_of(text: str) -> str:
    """The ISO code of a text's language, by py3langid; empty where there are no letters."""
    return str(_any_language().classify(text)[0]) if any(c.isalpha() for c in text) else ""
