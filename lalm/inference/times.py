"""Time ranges in answers: "1.0s-2.5s", "from 1 to 2.5 seconds", "[0.5, 1.2]", "0:01 - 0:03", "1.0~2.5s"."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import TypeAlias

from lalm.inference.answer_words import alternatives
from lalm.inference.final_answer import without_reasoning

Span: TypeAlias = tuple[str, float, float]  # label, onset, offset in seconds

LONGEST = 50_000  # signs of an answer that are looked at
_CLOCK = r"\d{1,3}(?::[0-5]?\d){1,2}(?:[.,]\d{1,6})?"
_NUMBER = rf"(?:{_CLOCK}|\d{{1,7}}(?:[.,]\d{{1,9}})?)(?![\d])"
_WORDS = "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_UNIT = (
    r"(?:milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|sekunden?|sek|secondes?|segundos?|secondi|seg|"
    r"\u043c\u0441|\u0441\u0435\u043a(?:\u0443\u043d\u0434\w*)?|\u79d2|\ucd08)(?![a-z])"
)
_ONE, _OTHER = (
    rf"(?P<{name}>{_NUMBER}|\b(?:{_WORDS})\b)(?:st|nd|rd|th)?\s*-?(?P<{name}_unit>{_UNIT})?\.?"
    for name in ("a", "b")
)
_GAP = rf"(?:{alternatives('until')})"
_BEFORE = (
    r"(?:(?:the|at|second|about|around|approximately|roughly|la|el|il|al|die|os|as|les|los|las|den|de|alle|sekunde|seconde|segundo|secondo)"
    r"\s+|\u7b2c){0,2}(?:t\s*=\s*)?"
)
_BEGINS = r"(?:mark\s*|in,?\s*|\u5f00\u59cb[,\uff0c]?)?"
_RANGE = re.compile(rf"(?<![\d.:,-]){_ONE}\s*{_BEGINS}{_GAP}\s*{_BEFORE}{_OTHER}", re.I)
_PAIR = re.compile(
    rf"[\[(<{{|]+\s*({_NUMBER})\s*({_UNIT})?\s*[,;|>]+\s*<?\|?\s*({_NUMBER})\s*({_UNIT})?\s*[\])>}}|]", re.I
)
_NAMED = re.compile(
    rf"(?:start|onset|begin|from)\w*[\"']?\s*(?:_?(?:time|s|sec)\w*[\"']?)?\s*[:=]?\s*[\"']?({_NUMBER})\s*({_UNIT})?[\"']?"
    rf"[^\d\n]{{0,24}}?(?:end|offset|stop|to)\w*[\"']?\s*(?:_?(?:time|s|sec)\w*[\"']?)?\s*[:=]\s*[\"']?({_NUMBER})\s*({_UNIT})?",
    re.I,
)
_BOTH = re.compile(rf"<\|\s*({_NUMBER})\s*\|>.{{0,200}}?<\|\s*({_NUMBER})\s*\|>", re.S)
_LABELS = re.compile(rf"^[ ]*({_NUMBER})[ ]*\t[ ]*({_NUMBER})[ ]*(?:\t|$)", re.M)  # Audacity's
_FIRST = re.compile(rf"\b(?:the|its) first ({_NUMBER}|{_WORDS})\s*-?({_UNIT})", re.I)
_MINUTES = re.compile(  # "1m02s", "1 minute 2 seconds": as a clock has it
    r"(?<![\d.:])(\d{1,3})\s*m(?:in(?:ute)?s?)?\.?,?\s*(?:and\s*)?(\d{1,2}(?:\.\d{1,6})?)\s*s(?:ec(?:ond)?s?)?(?![a-z])",
    re.I,
)
_DATE = re.compile(r"\b\d{4}-\d{1,2}(?:-\d{1,2})?\b")


def read_ranges(answer: str, label: str = "") -> list[Span]:
    """Every time range of an answer as (label, onset, offset) in seconds, in order of its place; the model's
    thinking is left aside, and so is a range that ends before it begins."""
    text = without_reasoning(answer) if "|" not in answer or "<|" not in answer else answer
    text = re.sub(r"\*+|`|</\w+>", "", text)
    text = re.sub(r"(?i)<(start|onset|begin|end|offset|stop)\w*>", r"\1: ", text)
    text = _MINUTES.sub(_clock, _DATE.sub(" ", text[:LONGEST]))
    found: list[tuple[int, float, float]] = []
    taken: list[tuple[int, int]] = []
    for start, end, onset, offset in _read(text):
        if offset > onset and not any(start < b and a < end for a, b in taken[-3:]):
            found.append((start, onset, offset))
            taken.append((start, end))
    if not found and (first := _FIRST.search(text)):
        return [(label, 0.0, _seconds(first[1], first[2]))]
    return [(label, onset, offset) for _, onset, offset in sorted(found)]


def _clock(found: re.Match[str]) -> str:
    minutes, seconds = found.groups()
    return f"{minutes}:0{seconds}" if len(seconds.partition(".")[0]) < 2 else f"{minutes}:{seconds}"


def _read(text: str) -> Iterator[tuple[int, int, float, float]]:
    """(start, end, onset, offset): bracketed pairs, named ones, then ranges where those left room."""
    kinds = [_pairs(text), _named(text), _ranges(text)]
    covered: list[tuple[int, int]] = []
    for kind in kinds:
        own = [hit for hit in kind if not _overlaps(hit, covered)]
        yield from own
        covered = sorted([*covered, *((a, b) for a, b, _, _ in own)])


def _overlaps(hit: tuple[int, int, float, float], covered: list[tuple[int, int]]) -> bool:
    at = bisect_left(covered, (hit[0], hit[0]))
    near = covered[max(0, at - 1) : at + 1]
    return any(hit[0] < end and start < hit[1] for start, end in near)


def _pairs(text: str) -> Iterator[tuple[int, int, float, float]]:
    for found in _LABELS.finditer(text):
        yield *found.span(), *_both(found[1], None, found[2], None)
    for found in _PAIR.finditer(text):
        yield *found.span(), *_both(found[1], found[2], found[3], found[4])
    for found in _BOTH.finditer(text):
        yield *found.span(), *_both(found[1], None, found[2], None)


def _named(text: str) -> Iterator[tuple[int, int, float, float]]:
    for found in _NAMED.finditer(text):
        yield *found.span(), *_both(found[1], found[2], found[3], found[4])


def _ranges(text: str) -> Iterator[tuple[int, int, float, float]]:
    for found in _RANGE.finditer(text):
        yield *found.span(), *_both(found["a"], found["a_unit"], found["b"], found["b_unit"])


def _both(a: str, a_unit: str | None, b: str, b_unit: str | None) -> tuple[float, float]:
    """Both ends in seconds; a unit that only one has is the other's too."""
    return _seconds(a, a_unit or b_unit), _seconds(b, b_unit or a_unit)


def _seconds(number: str, unit: str | None) -> float:
    words = _WORDS.split("|")
    if number.lower() in words:
        return float(words.index(number.lower()))
    value = 0.0
    for part in number.replace(",", ".").split(":"):
        value = 60 * value + float(part)
    short = (unit or "").lower()
    if ":" in number:
        return value
    if short.startswith(("ms", "millis", "\u043c\u0441")):
        return value / 1000
    return 60 * value if short.startswith("min") else value
