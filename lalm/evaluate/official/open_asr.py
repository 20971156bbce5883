"""English text as the Open ASR leaderboard compares it: Whisper's normaliser with more fillers, fewer "'s",
names and compounds of one spelling, and acronyms joined (arXiv 2510.06961; its folder ``normalizer``). Errors
are counted by kaldialign, for which words written together and apart are the same.

Its lists of spellings, names and compounds are not copied: they are read from the user's copy of
``normalizer/english_abbreviations.py`` (Apache-2.0), of which nothing is run.
"""

import ast
import re
from collections.abc import Callable, Mapping
from functools import cache
from itertools import groupby
from pathlib import Path

from lalm.evaluate.lacking import Lacking

FILE = "english_abbreviations.py"
LISTS = ("english_spelling_normalizer", "english_name_normalizer", "english_compound_normalizer")
FILLERS = r"\b(hmm|mm|mhm|mmm|uh|um|ah|aha|ahh|ahm|eh|ehehe|em|hm|huh|hum|mhum|uhm|umm|uhuh)\b"
IS = r"\b(it|he|she|what|that|who|here|there|how|when|where|why|this)'s\b"  # after others it is a genitive


@cache
def normaliser(folder: Path) -> Callable[[str], str]:
    """The normaliser with the lists of ``folder``. Raises Lacking where they are not there."""
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    lists = _lists(folder / FILE)
    spellings, names, compounds = (lists[name] for name in LISTS)
    whisper = EnglishTextNormalizer(dict(spellings))
    whisper.ignore_patterns = FILLERS
    whisper.replacers = {
        IS if pattern == r"'s\b" else pattern: r"\1 is" if pattern == r"'s\b" else text
        for pattern, text in whisper.replacers.items()
    }
    numbers, spelling = whisper.standardize_numbers, whisper.standardize_spellings

    def compounds_and_numbers(text: str) -> str:  # each where it stands in theirs: before numbers,
        for pattern, joined in compounds.items():
            text = re.sub(pattern, joined, text)
        return str(numbers(text))

    def spellings_and_names(text: str) -> str:  # and after spellings
        words = [names.get(word, word) for word in str(spelling(text)).split()]
        return acronyms_joined(" ".join(words))

    whisper.standardize_numbers, whisper.standardize_spellings = compounds_and_numbers, spellings_and_names
    return lambda text: str(whisper(text))


def word_edits(said: str, wanted: str) -> tuple[int, int]:
    """(word edits, words of the reference) of two normalised texts, as ``normalizer/eval_utils.py`` counts
    them. Where nothing is to be said the leaderboard leaves the recording out: (0, 0). Raises Lacking without
    kaldialign."""
    try:
        from kaldialign import edit_distance
    except ImportError:
        raise Lacking("it counts errors by kaldialign: pip install 'lalm[evaluate]'") from None
    words = wanted.split()
    if not words:
        return 0, 0
    return int(edit_distance(words, said.split(), merge_compounds=True)["total"]), len(words)


def acronyms_joined(text: str) -> str:
    """Single letters and digits in a row as one word: "b b c" is "bbc". With "a" or "i" it takes three."""
    found: list[str] = []
    for single, run in groupby(text.split(), key=lambda word: len(word) == 1 and word.isalnum()):
        words = list(run)
        fewest = 3 if {"a", "i"} & set(words) else 2
        found += ["".join(words)] if single and len(words) >= fewest else words
    return " ".join(found)


def _lists(path: Path) -> Mapping[str, dict[str, str]]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise Lacking(f"'{path}' cannot be read: {error}") from None
    found: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in LISTS:
                found[name] = ast.literal_eval(node.value)
    if absent := [name for name in LISTS if name not in found]:
        raise Lacking(f"'{path}' has no {absent[0]}: it is not the Open ASR leaderboard's")
    return found
