"""Text normalisation as in Qwen2-Audio's released evaluation, including its errors.

English goes through two normalisers, Cantonese is first written as Mandarin, Mandarin has its numbers read
out, all is lower-cased, and words of punctuation alone are dropped. Of Mandarin and Cantonese the characters
are counted.
"""

import re
import unicodedata

from lalm.evaluate.metrics.mandarin_numbers import read_numbers
from lalm.evaluate.metrics.normalise import basic, english_words, language_code

PUNCTUATION = "!,.?;:"  # what a space before is removed of
# What the released Mandarin normaliser takes for punctuation: signs such as $ and ~, but not all that Unicode
# calls so.
MANDARIN_PUNCTUATION = re.compile(
    "[!-/:-@\\[-`{-~\u00b7\u2013\u2014\u2018\u2019\u201b-\u201f\u2026\u2027\u3001-\u3003\u3008-\u3011\u3014-\u301f"
    "\u3030\u303e\u303f\ufe4f\uff01-\uff0d\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64]"
)


def normalised(text: str, language: str) -> str:
    """What is compared, words (or characters) apart. ``language`` is a name or code; empty is English."""
    code = language_code(language or "en")
    text = re.sub(r"<\|.*?\|>", " ", text)
    text = re.sub(rf" ?([{PUNCTUATION}])", r"\1", re.sub(r"\s+", " ", text)).lstrip(" ")
    if code == "zh":
        text = MANDARIN_PUNCTUATION.sub(" ", read_numbers(re.sub(r"\s+", "", text)))
    elif code == "yue":
        import zhconv

        text = str(basic()(zhconv.convert(text, "zh-cn")))
    elif code == "en":
        text = str(basic()(english_words(text)))
    else:
        text = str(basic()(text))
    kept = [word for word in text.lower().split() if not all(_is_punctuation(c) for c in word)]
    return " ".join("".join(kept)) if code in ("zh", "yue") else " ".join(kept)


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")
