"""AudioBench's text before word errors are counted (its ``preprocess_text_asr``), for English."""

import re
from functools import cache
from typing import Any

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SPOKEN = {
    **{str(number): word for number, word in enumerate(NUMBERS)},
    **{str(10 * tens): word for tens, word in enumerate(TENS, 2)},
}


def spoken_words(text: str) -> str:
    """Whisper's English normaliser, then round numbers as words, brackets, punctuation and fillers away; a
    text of which nothing is left is the word "empty"."""
    from lalm.evaluate.metrics.normalise import english_words

    plain = english_words(text.lower())
    plain = re.sub(r"\b\d+\b", lambda found: SPOKEN.get(found[0], found[0]), plain)
    plain = re.sub(r"[\[({<][^()\\n\[\]]*[\])}>]", "", plain)
    plain = str(_jiwer()(plain))
    return re.sub(r"\b(uh|umm|um|er|ah)\b", "", plain).strip() or "empty"


@cache
def _jiwer() -> Any:
    import jiwer

    return jiwer.Compose(
        [
            jiwer.RemoveMultipleSpaces(),
            jiwer.ExpandCommonEnglishContractions(),
            jiwer.RemoveKaldiNonWords(),
            jiwer.RemovePunctuation(),
        ]
    )
