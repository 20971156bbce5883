"""Which option an answer means where it repeats none word for word: by its content words, or by its number.

"By the baggage claims" for "At the front desk or by the baggage claims", "The first speaker shows joy and the
second fear" for "first speaker shows joy, second fear", "3" for "Three times". Only what the answer states in
the end is compared, and only where one option alone fits.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from lalm.data.english import stem
from lalm.inference.answer_words import alternatives
from lalm.inference.counting import counting, in_digits, read_number
from lalm.inference.final_answer import denies, negated

LONGEST = 40  # words of a statement that are compared
SHORTEST_FIT = 12  # words of a statement that may be a part of an option
ALIKE = 5  # first letters of two words of one stem at least
NEAR = 400  # signs from the end within which "the answer is" tells what an answer states
_CUE = re.compile(alternatives("says"), re.I)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+|(?<=[\u3002\uff01\uff1f])")
_TOKEN = re.compile(r"\d+(?:[.:]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)*")
_FILLERS = frozenset(
    [
        *("a", "an", "the", "and", "while", "is", "are", "was", "were", "be", "been", "to", "of", "in"),
        *("on", "at", "it", "its", "it's", "there", "that's", "this", "that", "their", "his", "her"),
        *("i", "he", "she", "they", "you", "so", "as", "by", "from", "for", "with", "s", "answer", "option"),
        *("choice", "correct", "likely", "most", "pair", "assistant"),
    ]
)
_TURNS = frozenset(("first", "then", "next", "second", "follow", "final"))
_TIMES = frozenset(("time", "times", "once", "twice", "thrice"))


def by_words(said: str, options: Sequence[str], *, offered: bool = False) -> int | None:
    """The number of the only option that an answer's statement fits, endings and denied words aside; None
    where none fits, or several do. ``offered``: several options are named in it, so that only one which is
    these very words counts ("a dog and a cat")."""
    statement, sure = _statement(said)
    own = [tuple(word for word, _ in _words(option)) for option in options]
    told = _words(statement)
    every = tuple(word for word, place in told if not negated(statement, *place))
    if not every or len(told) > LONGEST or (not sure and denies(statement)):
        return None

    def only(words: tuple[str, ...]) -> bool:  # all of an option's words, and none that others have alone
        others = {word for other in own if other != words for word in other}
        return set(words) <= set(every) and not (set(every) - set(words)) & others

    def mostly(words: tuple[str, ...]) -> bool:  # half of its words, one of which no other option has
        others = {word for other in own if other != words for word in other}
        hits = set(words) & set(every)
        return 2 * len(hits) >= len(set(words)) and bool(hits - others) and not (set(every) - hits) & others

    rules: list[Callable[[tuple[str, ...]], bool]] = [lambda words: words == every]
    if offered:
        rules.append(lambda words: set(words) == set(every))
    else:
        rules += [lambda words: _within(words, every), lambda words: _in_turn(words, every), only]
        if sure and len(told) <= SHORTEST_FIT:
            rules += [lambda words: set(every) <= set(words), mostly, lambda words: _akin(words, every)]
    for fits in rules:
        found = [place for place, words in enumerate(own) if words and fits(words)]
        longest = [p for p in found if not any(set(own[p]) < set(own[q]) for q in found)]
        if found and len({own[place] for place in longest}) == 1:
            return longest[0]
        if len(found) > 1:
            return None
    return _by_number(statement, options) if sure and not offered else None


def _statement(said: str) -> tuple[str, bool]:
    """What is said after the last "the answer is", in its sentence, where that is near the end; else a short
    answer as a whole; else, less surely, the last sentence."""
    said = counting(re.sub(r"</?\w+>", " ", said)).strip()
    for cue in reversed(list(_CUE.finditer(said, max(0, len(said) - NEAR)))):
        rest = re.split(r"[.!?](?=\s|$)|\n", said[cue.end() :].lstrip(" :*\"'\n"))[0].strip()
        if _TOKEN.search(rest):
            return rest, True
    if len(_TOKEN.findall(said)) <= LONGEST:
        return said, True
    return next((part for part in reversed(_SENTENCE.split(said)) if _TOKEN.search(part)), ""), False


def _words(text: str) -> list[tuple[str, tuple[int, int]]]:
    """Stems of the content words with their places; of a text of nothing but fillers, all its words."""
    found = [(hit[0].casefold(), hit.span()) for hit in _TOKEN.finditer(folded(text))]
    content = [(word, place) for word, place in found if word not in _FILLERS] or found
    return [(stem(word) if word.isascii() and word.isalpha() else word, place) for word, place in content]


def folded(text: str) -> str:
    """Latin letters without their accents, sign for sign."""
    return "".join(_unaccented(sign) for sign in text) if not text.isascii() else text


@cache
def _unaccented(sign: str) -> str:
    if not "\u00c0" <= sign <= "\u024f" and not "\u1e00" <= sign <= "\u1eff":
        return sign
    base = unicodedata.normalize("NFKD", sign)
    return base[0] if base[0].isascii() else sign


def _within(inner: Sequence[str], outer: Sequence[str]) -> bool:
    n = len(inner)
    return n > 0 and any(tuple(outer[i : i + n]) == tuple(inner) for i in range(len(outer) - n + 1))


def _akin(words: Sequence[str], every: Sequence[str]) -> bool:
    """Whether an option of one word and a word that is said begin alike: "sarcastic" and "sarcasm"."""
    if len(words) != 1 or len(words[0]) < ALIKE:
        return False
    least = max(ALIKE, math.ceil(0.6 * len(words[0])))
    return any(said[:least] == words[0][:least] for said in every)


def _in_turn(words: Sequence[str], every: Sequence[str]) -> bool:
    """Whether an option about what comes after what has its words in the order in which they are said."""
    if not {"first", "then"} & set(words) or {"after", "before", "last"} & set(every):
        return False
    rest = iter(word for word in every if word not in _TURNS)
    return all(word in rest for word in words if word not in _TURNS)


def _by_number(statement: str, options: Sequence[str]) -> int | None:
    """Where all options are numbers, as digits or as words: that of the statement's number, or of the only
    number that is said with a point."""
    values = [read_number(option) if bare_number(option) else None for option in options]
    if all(value is not None for value in values):
        said = read_number(statement)
        return values.index(said) if said in values else None
    numbers = [_decimals(option) for option in options]
    if any(len(own) != 1 for own in numbers):
        return None
    hits = {own[0] for own in numbers} & set(_decimals(statement))
    return next(i for i, own in enumerate(numbers) if own[0] in hits) if len(hits) == 1 else None


def bare_number(option: str) -> bool:
    """Whether an option is one word, "times" aside, as a number is."""
    words: Iterable[str] = (word for word in re.findall(r"\w+", option.casefold()))
    return sum(word not in _TIMES or word in ("once", "twice", "thrice") for word in words) == 1


def _decimals(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", in_digits(text))
