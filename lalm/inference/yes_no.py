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
_ANYWHERE = (  # so do these
    *("not", "n't", "never", "none", "absent", "aucun", "aucune", "ninguna", "nessun", "nessuna", "geen"),
    *("ingen", "nein", "oui", "evet", "tidak"),
)
_CUE = re.compile(
    rf"(?:{alternatives('asked')})\s*"
    r"(?:is|would be|should be|ist|lautet|est|es|\u00e8|\u00e9|\u662f|\u306f|\uc740)?"
    r"\s*[:=-]?\s*[\"'(\[]?\s*(?:[A-Z][)\].:]\s*)?[\"']?",
    re.I,
)
_IDIOMS = re.compile(
    r"\b(?:no|without (?:a |any )?)\s*(?:doubt|question)(?: about it)?\b|\bno (?:problem|wonder)\b|"
    r"\bnot only\b|\byes ?/ ?no\b|"
    r"\byes[ -/]+(?:or|and) no\b|\bnot sure\b|\bright (?:now|after|before|away)\b",
    re.I,
)
_UNKNOWN = re.compile(  # said of what is not known
    r"\b(?:no (?:idea|clue)|(?:do|does|did)(?: not|n't) know|may or may not|wei\u00df (?:es |ich )?nicht|"
    r"(?:ne|n') ?sais pas|no (?:lo )?s\u00e9|non (?:lo )?so|n\u00e3o sei|niet zeker|weet (?:het )?niet)\b|"
    r"\u4e0d\u786e\u5b9a|\u4e0d\u78ba\u5b9a|\u4e0d\u77e5\u9053|"
    r"\u043d\u0435 \u0437\u043d\u0430\u044e|\ubaa8\ub974",
    re.I,
)
_SENTENCE = re.compile(r"[^.!?\n\u3002]+[.!?\n\u3002]*")
_INITIAL = re.compile(r"\W*([yn])\W*", re.I)
_DEAF = re.compile(  # of the model, not of the recording
    r"\b(?:can(?:'t|not| not)|(?:un|not )able to|(?:don't|do not) have the ability to) (?:\w+ ){0,2}?"
    r"(?:listen|process|access|analy[sz]e|open|play|hear)(?: to| back)? (?:(?:the|any|this|that|your) )?"
    r"(?:audio|recordings?|files?|clips?)\b",
    re.I,
)
_AT_END = re.compile(r"[.!?:\n]\W*(?:[A-Z]\W+)?(yes|no)\W*\Z", re.I)  # a last sentence of one word
_SHORT = re.compile(  # "It is.", "There isn't": said without the word
    r"(?:it|there|they|he|she|i|this|that)\s+(?:sure |certainly |definitely |really )?"
    r"(?:is|are|does|do|was|were|can|has|have|will)(?P<no>\s*n't|\s+not)?"
    r"(?:\s+(?:one|some|any|so|hear it|the case))?\W*",
    re.I,
)


def read_yes_no(answer: str) -> str | None:
    """ "yes" or "no", or None when neither is said, or both without saying which in the end."""
    said = _DEAF.sub(" ", _IDIOMS.sub(" ", plain(final_answer(answer)))).strip()[-20_000:]
    said = _SENTENCE.sub(lambda found: " " if _UNKNOWN.search(found[0]) else found[0], said).strip()
    if initial := _INITIAL.fullmatch(said):
        return "yes" if initial[1] in "yY" else "no"
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
    said = found[0].lower()
    return said in (*_PLAIN, *_ANYWHERE) or said.startswith("kein") or not said.isascii()
