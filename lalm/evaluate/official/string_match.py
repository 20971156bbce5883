"""MMAU's and MMAR's string match: all words of the answer are said, and none of other options only."""

import re
from collections.abc import Sequence


def matches(answer: str, said: str, choices: Sequence[str]) -> bool:
    """Whether ``said`` is right by the rule of both benchmarks' ``evaluation.py``. A letter alone is wrong
    where options are words, and so is an answer that mentions a word of another option."""
    spoken, wanted = _words(said), _words(answer)
    if not spoken:
        return False
    others = {word for choice in choices if (own := _words(choice)) != wanted for word in own - wanted}
    return wanted <= spoken and not spoken & others


def _words(text: str) -> set[str]:
    return set(re.findall(r"\b\w+\b", text.lower()))
