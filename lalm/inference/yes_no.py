"""Whether an answer says yes or no, in a dozen languages."""

import re

from lalm.inference.answer_words import alternatives
from lalm.inference.final_answer import final_answer, plain

_SAID = re.compile(
    rf"(?P<no>(?<![\w'-])(?:{alternatives('denies')})(?![\w'-])|(?<=[a-z])n't\b|{alternatives('denies_signs')})|"
    rf"(?P<yes>(?<![\w'-])(?:{alternatives('affirms')})(?![\w'-])|{alternatives('affirms_signs')})",
    re.I,
)
_PLAIN = ("yes", "no")  # these count wherever they stand; other words only where an answer begins
_CUE = re.compile(
    rf"(?:{alternatives('asked')})\s*"
    r"(?:is|would be|should be|ist|lautet|est|es|\u00e8|\u00e9|\u662f|\u306f|\uc740)?"
    r"\s*[:=-]?\s*[\"'(\[]?\s*(?:[A-Z][)\].:]\s*)?[\"']?",
    re.I,
)
_IDIOMS = re.compile(
    r"\b(?:no|without (?:a |any )?)\s*doubt\b|\bno (?:problem|wonder)\b|\bnot only\b|\byes ?/ ?no\b|"
    r"\byes[ -/]+(?:or|and) no\b|\bnot sure\b|\bright (?:now|after|before|away)\b",
    re.I,
)
_AT_END = re.compile(r"[.!?:\n]\W*(?:[A-Z]\W+)?(yes|no)\W*\Z", re.I)  # a last sentence of one word
_SHORT = re.compile(  # "It is.", "There isn't": said without the word
    r"(?:it|there|they|he|she|i|this|that)\s+(?:is|are|does|do|was|were|can|has|have|will)(?P<no>\s*n't|\s+not)?"
    r"(?:\s+(?:one|some|any|so|hear it|the case))?\W*",
    re.I,
)


def read_yes_no(answer: str) -> str | None:
    """ "yes" or "no", or None when neither is said, or both without saying which in the end."""
    said = _IDIOMS.sub(" ", plain(final_answer(answer))).strip()[-20_000:]
    if not said:
        return None
    for cue in reversed(list(_CUE.finditer(said))):
        if found := _SAID.match(said, cue.end()):
            return _side(found)
    start = re.match(r"[\W_]*(?:[A-Z][)\].:]\s*)?[\"']?", said)
    if first := _SAID.match(said, start.end() if start else 0):
        return _side(first)
    if short := _SHORT.fullmatch(said):
        return "no" if short["no"] else "yes"
    if end := _AT_END.search(said):
        return end[1].lower()
    sides = {_side(found) for found in _SAID.finditer(said) if _tells(found)}
    if len(sides) == 1:
        return sides.pop()
    last = [found for found in _SAID.finditer(said) if found[0].lower() in _PLAIN]
    if last and re.search(r"(?:so|therefore|thus|hence|finally)\W+$", said[: last[-1].start()], re.I):
        return _side(last[-1])
    return None


def _side(found: re.Match[str]) -> str:
    return "no" if found["no"] else "yes"


def _tells(found: re.Match[str]) -> bool:
    """Whether the word answers wherever it stands: "I hear no dog", but not "on the right"."""
    return found[0].lower() in (*_PLAIN, "not", "n't", "never", "none") or not found[0].isascii()
