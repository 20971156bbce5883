"""VoiceBench's reading of spoken choices and of refusals."""

import json
from functools import cache
from pathlib import Path

CHOICES = "abcd"
RULES = Path(__file__).parent / "voicebench.json"


@cache
def _rules() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Patterns with [CHOICE] in the letter's place, in the order in which they are tried; and refusals."""
    rules = json.loads(RULES.read_text(encoding="utf-8"))
    return tuple(rules["choices"]), tuple(rules["refusals"])


def choice_of(said: str) -> str | None:
    """A to D by VoiceBench's multiple-choice rule; None where it finds none, and draws one at random."""
    text = said.lower()
    if text.startswith(("<1>", "<2>", "<3>")):
        text = text[3:].strip()
    for pattern in _rules()[0]:
        for letter in CHOICES:
            if pattern.replace("[CHOICE]", letter) in text:
                return letter.upper()
    for letter in CHOICES:
        if text == letter or text.startswith(tuple(letter + mark for mark in ".,:)")):
            return letter.upper()
    beyond = ("would be a.", 'would be "a.', "the best option from the given choices would be a scorpion (a)")
    return "A" if any(phrase in text for phrase in beyond) else None


def choice_score(said: str, reference: str) -> float:
    """1 or 0; a quarter, what its draw gives on average, where VoiceBench reads no choice."""
    found = choice_of(said)
    return 0.25 if found is None else float(found == reference.strip().upper())


def refuses(said: str) -> bool:
    """Whether VoiceBench takes an answer for a refusal; saying nothing is one."""
    text = said.lower()
    return not said.strip() or any(phrase in text for phrase in _rules()[1])
