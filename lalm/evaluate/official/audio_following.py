"""MMAU-Pro's checks of instructions about form (its "instruction following" category)."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from lalm.evaluate.official.text_parts import sentences

Given = Mapping[str, Any]  # a row's kwargs: N, N1, N2, keywords, ...


def follows(task: str, given: Given, said: str, question: str = "") -> bool:
    """Whether an answer does what ``task_identifier`` asks, by MMAU-Pro's rules; an unknown task is not
    followed. Sentences are Punkt's, as there, where that is installed."""
    if task == "Repeat Prompt":
        return said.strip().lower().startswith(question.strip().lower())
    for name, count in COUNTS.items():
        if task == name or task.startswith(f"{name} ("):
            return _as_many(task, count(given, said), given)
    check = CHECKS.get(task)
    return bool(check and check(given, said))


def _as_many(task: str, count: int, given: Given) -> bool:
    """ "at least", "at most", "range"; without one of them the number itself, or at least it for two."""
    kind = task.partition("(")[2].rstrip(")")
    if kind == "range":
        return int(given.get("N1") or 0) <= count <= int(given.get("N2") or 999)
    number = int(given.get("N") or 0)
    if kind == "at most":
        return count <= number
    at_least = kind == "at least" or task in ("Number Placeholder", "Minimum Number Highlighted Section")
    return count >= number if at_least else count == number


def _keyword(given: Given, said: str) -> int:
    return len(re.findall(rf"\b{re.escape(str(given.get('keyword') or '').lower())}\b", said.lower()))


def _letters(text: str, kept: str = "") -> str:
    return re.sub(rf"[^a-zA-Z{kept}]", "", text).lower()


def _listed(given: Given, name: str) -> list[str]:
    return str(given.get(name) or "").lower().split(", ")


def _sections(given: Given, said: str) -> bool:
    parts = re.split(rf"\s*{re.escape(str(given.get('section_splitter') or ''))}\s*", said.strip())
    return len([part for part in parts if part.strip()]) == int(given.get("N") or 0)


def _two(given: Given, said: str) -> bool:
    parts = [part.lower().strip() for part in said.split("******")]
    return len(parts) == 2 and parts[0] != parts[1]


COUNTS: Mapping[str, Callable[[Given, str], int]] = {
    "Keyword Frequency": _keyword,
    "Number Paragraphs": lambda _, said: len([part for part in said.split("***") if part.strip()]),
    "Number Words": lambda _, said: len(said.split()),
    "Number Sentences": lambda _, said: len(sentences(said)),
    "Number Placeholder": lambda _, said: len(re.findall(r"\[[^\]]+\]", said)),
    "Number Bullets": lambda _, said: len(re.findall(r"(?:^|\n)\s*\*\s+", said)),
    "Minimum Number Highlighted Section": lambda _, said: len(re.findall(r"\*([^*]+)\*", said)),
    "All-capital Words": lambda _, said: sum(word.isupper() for word in said.split()),
}

CHECKS: Mapping[str, Callable[[Given, str], bool]] = {
    "Include Keywords": lambda given, said: all(w in said.lower() for w in _listed(given, "keywords")),
    "Forbidden Words": lambda given, said: (
        not any(w in said.lower() for w in _listed(given, "forbidden_words"))
    ),
    "Postscript": lambda given, said: _letters(str(given.get("postscript_marker") or "")) in _letters(said),
    "Title": lambda _, said: bool(re.search(r"<<[^>]+>>", said)),
    "Multiple Sections": _sections,
    "Two Responses": _two,
    "All Uppercase": lambda _, said: said.isupper(),
    "All Lowercase": lambda _, said: said.islower(),
    "Start Checker": lambda given, said: _letters(said, " ").startswith(
        _letters(str(given.get("start_phrase") or ""), " ")
    ),
    "End Checker": lambda given, said: _letters(said, " ").endswith(
        _letters(str(given.get("end_phrase") or ""), " ")
    ),
    "Quotation": lambda _, said: said.strip().startswith('"') and said.strip().endswith('"'),
    "No Commas": lambda _, said: "," not in said,
}
