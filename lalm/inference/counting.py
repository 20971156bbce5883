"""The number that an answer gives, in digits or in the words of a dozen languages."""

import re

from lalm.inference.answer_words import spoken_numbers
from lalm.inference.final_answer import final_answer, negated, plain

_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.\u00c0-\u024f])(\d{1,3}(?:,\d{3})+|\d{1,9})(?:\.0+)?(?![\w]*\d|(?:st|nd|rd|th)\b)|[a-z\u00c0-\u024f]+|[\u0400-\u04ff]+|[\uac00-\ud7a3]+|[\u96f6\u3007\u4e00\u4e8c\u4e24\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341]+",
    re.I,
)
_UNITS = re.compile(
    r"\s*-?\s*(?:s|secs?|seconds?|ms|minutes?|mins?|hours?|hz|khz|db|bpm|%|percent|:\d|\.\d)(?![a-z])", re.I
)
_CUE = re.compile(
    r"(?:answer|total|count|result|number of times|altogether|in all|\u2192|=>|\u21d2)\s*"
    r"(?:number|count|is|are|of|would be|:|=|-)*\s*(?:is|are|:|=)?\s*",
    re.I,
)
_NOT_COUNTED = re.compile(  # the numbers of a list's lines; "one" that counts nothing
    r"^[ \t]*(?:\d+[.)])(?=[ \t]+\S[^\n]*\n)|\b(?:at least|no|any|each|every|this|that|which) one\b",
    re.I | re.M,
)
LONG = 200  # signs of an answer that reasons before it counts
_CONCLUSION = re.compile(
    r"(?:there (?:are|were|is|was)|(?:it|that) (?:makes|is)|we (?:have|get|count)|"
    r"i (?:\w+ )?(?:hear|heard|count|counted|identify|identified)|"
    r"(?:appears|occurs|heard|repeated)(?: a total of)?)\b",
    re.I,
)
_SPOKEN = {word: value for value, row in enumerate(spoken_numbers()) for word in row.split()}
_ENGLISH = {row.split()[0]: value for value, row in enumerate(spoken_numbers()) if value}
_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_ARTICLES = ("un", "une", "uno", "una", "um", "uma", "ein", "eine", "een", "bir")  # these count alone only
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TENS_ONES = re.compile(rf"\b({'|'.join(_TENS)})(?:[- ]({'|'.join(_ONES)}))?\b", re.I)
_ALOUD = re.compile(  # counting aloud: "1, 2, 3", "one... two... three"
    rf"(?<![\w.])(?:1\W{{1,5}}2(?:\W{{1,5}}[3-9])*|one\W{{1,5}}two(?:\W{{1,5}}(?:{'|'.join(_ONES[2:])}))*)(?=\W*\w)"
    r"(?!\W{0,5}(?:times|or|seconds?|\d))",
    re.I,
)
_NOT_A_NUMBER = re.compile(
    r"\u7b2c\u4e00|\u4e00(?=[\u5171\u4e9b\u76f4\u6837\u8d77\u822c\u5b9a\u5207\u65e6])|\bevery single\b|"
    r"\b(?:um|one)[,.]{2,}",
    re.I,
)
_SUM = re.compile(r"(?<!\d)\d{1,9}(?:\s*[+\u00d7x*-]\s*\d{1,9})+\s*=")
_TOTAL = re.compile(r"\W*(?:times\W+)?(?:in total|altogether|in all|overall)\b", re.I)
_UNKNOWN = r"way|information|indication|telling|doubt|audio|clear|definite"
_NOTHING = re.compile(  # said of things counted: there are none
    r"\W*(?:none|nothing|no \w+|zero)(?: at all| of them| (?:is|are|can be|was|were) \w+)?\W*|"
    rf".*\bthere (?:are|is|were|was|'s) no (?!{_UNKNOWN})\w+.*|"
    r".*\b(?:not (?:even )?once|never)\b.*|"
    rf".*\b(?:i|we) (?:can )?(?:hear|heard|detect|count|counted|find|found) no (?!{_UNKNOWN})\w+.*|"
    r"\W*(?:keine?r?|nichts|ninguna?|ning\u00fan|aucune?|nessun[ao]?|nenhuma?|geen|ingen|brak|hi\u00e7|"
    r"\u6ca1\u6709|\u6c92\u6709|\u306a\u3044|\u3042\u308a\u307e\u305b\u3093|\uc5c6\uc2b5\ub2c8\ub2e4|"
    r"\u043d\u0438 \u0440\u0430\u0437\u0443|\u043d\u0435\u0442)\W*|"
    r".*\b(?:i|we) (?:do|did|can|could)(?:n't| not|not) (?:hear|detect|find|identify) any\b.*",
    re.I | re.S,
)


def counting(text: str) -> str:
    """The text without numbers that count nothing: a list's own, and the "one" of "at least one"."""
    return _NOT_COUNTED.sub(_blank, _NOT_A_NUMBER.sub(_blank, text))


def without_counting_aloud(text: str) -> str:
    """The text without a run as "1, 2, 3" before what was counted."""
    return _ALOUD.sub(_blank, text)


def in_digits(text: str) -> str:
    """The text with English numbers from one to ninety-nine in digits."""
    said = _TENS_ONES.sub(_tens, text)
    return re.sub(r"[A-Za-z]+", lambda hit: str(_ENGLISH.get(hit[0].lower(), hit[0])), said)


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def _tens(found: re.Match[str]) -> str:
    return str(
        10 * _TENS.index(found[1].lower()) + 20 + (_ONES.index(found[2].lower()) + 1 if found[2] else 0)
    )


def read_number(answer: str) -> str | None:
    """The number that an answer gives, as digits: after "the answer is" or "total", else the first that is no
    time or share; None without any. Up to twenty numbers may be words, "once" and "twice" too."""
    said = counting(plain(final_answer(answer))[-20_000:])
    said = _TENS_ONES.sub(_tens, _SUM.sub(_blank, without_counting_aloud(said)))
    found = [(hit, value) for hit in _NUMBER.finditer(said) if (value := _value(said, hit)) is not None]
    standing = [(hit, value) for hit, value in found if not negated(said, *hit.span())]
    if not standing and len(said) < LONG and _NOTHING.fullmatch(said):
        return "0"
    if totals := [value for hit, value in standing if _TOTAL.match(said, hit.end())]:
        return str(totals[-1])
    numbers = [(hit.start(), value) for hit, value in standing or found]
    ends = [
        cue.end() for p in (_CUE, *([_CONCLUSION] if len(said) > LONG else [])) for cue in p.finditer(said)
    ]
    for end in sorted(ends, reverse=True):
        after = [value for start, value in numbers if end <= start <= end + 20]
        if after:
            return str(after[0])
    return str(numbers[0][1]) if numbers else None


def _value(said: str, hit: re.Match[str]) -> int | None:
    if hit[1]:
        value = int(hit[1].replace(",", ""))
    elif "\u5341" in hit[0] and len(hit[0]) <= 3:  # tens and ones: 十九, 二十, 二十三
        tens, _, ones = hit[0].partition("\u5341")
        if not {tens, ones} <= {"", *_SPOKEN}:
            return None
        value = 10 * _SPOKEN.get(tens, 1) + _SPOKEN.get(ones, 0)
    else:
        word = hit[0].lower()
        if word not in _SPOKEN or (word in _ARTICLES and said.strip(" .!").lower() != word):
            return None
        value = _SPOKEN[word]
    return None if _UNITS.match(said, hit.end()) else value
