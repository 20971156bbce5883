"""Text normalisation as in Qwen2-Audio's released evaluation, including its errors.

English goes through two normalisers, Cantonese is first written as Mandarin, Mandarin has its numbers read
out, all is lower-cased, and words of punctuation alone are dropped. Of Mandarin and Cantonese the characters
are counted. The released script's Mandarin normaliser is SpeechIO's; ``read_numbers`` is our own and knows
years, percentages, fractions, decimals, long strings of digits and whole numbers, but no telephone numbers.
"""

import re
import unicodedata

from lalm.evaluate.metrics.normalise import basic, english, language_code

PUNCTUATION = "!,.?;:"  # what a space before is removed of
DIGITS = "零一二三四五六七八九"
UNITS = ("", "十", "百", "千")
GROUPS = ("", "万", "亿", "万亿")
STRING_OF_DIGITS = 4  # from this length on digits are read one by one


def normalised(text: str, language: str) -> str:
    """What is compared, words (or characters) apart. ``language`` is a name or code; empty is English."""
    code = language_code(language or "en")
    text = re.sub(r"<\|.*?\|>", " ", text)
    text = re.sub(rf" ?([{PUNCTUATION}])", r"\1", re.sub(r"\s+", " ", text)).lstrip(" ")
    if code == "zh":
        text = _without_punctuation(read_numbers(re.sub(r"\s+", "", text)))
    elif code == "yue":
        import zhconv

        text = str(basic()(zhconv.convert(text, "zh-cn")))
    elif code == "en":
        text = str(basic()(str(english()(text))))
    else:
        text = str(basic()(text))
    kept = [word for word in text.lower().split() if not all(_is_punctuation(c) for c in word)]
    return " ".join("".join(kept)) if code in ("zh", "yue") else " ".join(kept)


def read_numbers(text: str) -> str:
    """A Mandarin text with its Arabic numbers in characters: "78.5%" becomes 百分之七十八点五."""
    text = re.sub(r"(\d{4}|\d{2})(?=年)", lambda m: _by_digits(m[1]), text)
    text = re.sub(r"(\d+(?:\.\d+)?)%", lambda m: f"百分之{_number(m[1])}", text)
    text = re.sub(r"(\d+)/(\d+)", lambda m: f"{m[2]}分之{m[1]}", text)
    text = re.sub(rf"(?<![\d.])\d{{{STRING_OF_DIGITS},}}(?![\d.])", lambda m: _by_digits(m[0]), text)
    return re.sub(r"\d+(?:\.\d+)?", lambda m: _number(m[0]), text)


def _number(written: str) -> str:
    """A number with or without decimals."""
    whole, _, decimals = written.partition(".")
    return _whole(whole) + (f"点{_by_digits(decimals)}" if decimals else "")


def _by_digits(digits: str) -> str:
    return "".join(DIGITS[int(digit)] for digit in digits)


def _whole(digits: str) -> str:
    """Read with 十, 百, 千 and 万; digit by digit beyond what these name."""
    digits = digits.lstrip("0") or "0"
    if digits == "0":
        return DIGITS[0]
    if len(digits) > 4 * len(GROUPS):
        return _by_digits(digits)
    said, gap = "", False
    for place, digit in enumerate(digits):
        group, unit = divmod(len(digits) - 1 - place, 4)
        if digit != "0":
            said += ("零" if gap and said else "") + DIGITS[int(digit)] + UNITS[unit]
            gap = False
        else:
            gap = True
        if unit == 0 and any(d != "0" for d in digits[max(0, place - 3) : place + 1]):
            said += GROUPS[group]
    return said.removeprefix("一") if said.startswith("一十") else said


def _without_punctuation(text: str) -> str:
    return "".join(" " if _is_punctuation(c) else c for c in text)


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")
