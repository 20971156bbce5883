"""Sentences, words in capitals and languages of answers, as IFEval and MMAU-Pro find them.

By Punkt's English model, NLTK's words and langdetect where these are installed (``lalm[evaluate]`` has them),
else by plain rules.
"""

import re
from functools import cache
from importlib.util import find_spec
from typing import Any

LIBRARIES = ("punkt", "nltk", "langdetect")


@cache
def exact() -> bool:
    """Whether the benchmarks' libraries are here."""
    return all(find_spec(name) is not None for name in LIBRARIES)


def sentences(text: str) -> list[str]:
    """The sentences of an English text."""
    if exact():
        return [str(part) for part in _punkt().tokenize(text)]
    return [part for part in re.split(r"(?<=[.!?])[\"')\]]*\s+", text.strip()) if part.strip()]


def capitals(text: str) -> int:
    """How many words stand in capitals."""
    if exact():
        found = [word for part in sentences(text) for word in _words().tokenize(part)]
    else:
        found = re.findall(r"[\w'-]+|[^\w\s]", text)
    return sum(word.isupper() for word in found)


def is_in(language: str, text: str) -> bool:
    """Whether a text is in a language (ISO code); one without letters is in any."""
    if exact():
        import langdetect

        langdetect.DetectorFactory.seed = 0  # it draws
        try:
            return bool(langdetect.detect(text) == language)
        except langdetect.LangDetectException:
            return True
    from lalm.evaluate.parsers import language_of

    found = language_of(text.capitalize() if text.isupper() else text)
    return not found or found == language.partition("-")[0]


@cache
def _punkt() -> Any:
    """NLTK's sentence tokenizer; its English parameters are in the package punkt, where NLTK fetches them."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
    from punkt.data import english

    learned, tokenizer = PunktParameters(), PunktSentenceTokenizer()
    learned.abbrev_types, learned.sent_starters = set(english.ABBREV_TYPES), set(english.SENT_STARTERS)
    learned.collocations = {tuple(pair) for pair in english.COLLOCATIONS}
    learned.ortho_context.update(english.ORTHO_CONTEXT)
    tokenizer._params = learned
    return tokenizer


@cache
def _words() -> Any:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()
