"""IFEval's checks of instructions about form (Zhou et al., arXiv 2311.07911), as VoiceBench scores them.

Sentences and words in capitals are counted, and languages told, by NLTK's means and langdetect where they are
installed (``text_parts``), else by rules of ours: ``APPROXIMATE`` names the instructions whose verdict may
then differ.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lalm.evaluate.official.text_parts import capitals, is_in, sentences

Given = Mapping[str, Any]
APPROXIMATE = (
    "length_constraints:number_sentences",
    "language:response_language",
    "change_case:capital_word_frequency",
    "change_case:english_capital",
    "change_case:english_lowercase",
)
FIXED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")  # what "constrained_response" allows


def follows(instructions: Sequence[str], givens: Sequence[Given], said: str, *, loose: bool) -> list[bool]:
    """Whether each instruction is followed. ``loose``: also where it is without the first or the last line,
    or without stars. Raises ValueError for an instruction that IFEval does not know."""
    found = []
    for name, given in zip(instructions, givens, strict=True):
        if name not in CHECKS:
            raise ValueError(f"IFEval has no instruction '{name}'")
        own = {key: value for key, value in given.items() if value}
        versions = _versions(said) if loose else [said]
        found.append(any(text.strip() and CHECKS[name](own, text) for text in versions))
    return found


def final_score(rows: Sequence[tuple[Sequence[bool], Sequence[bool]]]) -> float:
    """VoiceBench's number of rows of (strict, loose) verdicts: the mean of four shares, of answers that
    follow all their instructions and of instructions followed, each strictly and loosely."""
    shares = []
    for kind in (0, 1):
        verdicts = [row[kind] for row in rows]
        shares.append(sum(all(own) for own in verdicts) / len(verdicts))
        total = sum(map(len, verdicts))
        shares.append(sum(map(sum, verdicts)) / total if total else 0.0)
    return sum(shares) / len(shares)


def _versions(said: str) -> list[str]:
    lines = said.split("\n")
    cut = [said, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(text.replace("*", "") for text in cut)]


def _relation(given: Given, count: int, number: str, relation: str = "relation") -> bool:
    wanted = int(given.get(number) or 0)
    return count < wanted if given.get(relation) == "less than" else count >= wanted


def _paragraphs(given: Given, said: str) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", said)
    if any(not part.strip() for part in parts[1:-1]):
        return False
    ends = [parts[0]] if len(parts) == 1 else [parts[0], parts[-1]]
    return len(parts) - sum(not part.strip() for part in ends) == int(given.get("num_paragraphs") or 0)


def _postscript(given: Given, said: str) -> bool:
    marker = str(given.get("postscript_marker") or "")
    patterns = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    return bool(re.search(patterns.get(marker, rf"\s*{marker.lower()}.*$"), said.lower(), re.M))


def _first_word(given: Given, said: str) -> bool:
    parts, place = re.split(r"\n\n", said), int(given.get("nth_paragraph") or 0)
    full = sum(bool(part.strip()) for part in parts)
    if not 0 < place <= full or not (own := parts[place - 1].strip()):
        return False
    word = re.split(r"[.,?!'\"]", own.split()[0].lstrip("'").lstrip('"'))[0].lower()
    return (
        full == int(given.get("num_paragraphs") or 0) and word == str(given.get("first_word") or "").lower()
    )


def _two(given: Given, said: str) -> bool:
    parts = said.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    full = [part.strip() for part in parts if part.strip()]
    return len(full) == 2 and full[0] != full[1]


def unfenced(said: str) -> str:
    """A text without the fence of code around it (```json ... ```)."""
    text = said.strip()
    for mark in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(mark)
    return text.removesuffix("```").strip()


def _json(given: Given, said: str) -> bool:
    try:
        json.loads(unfenced(said))
    except (ValueError, RecursionError):
        return False
    return True


def _bullets(said: str) -> int:
    return sum(len(re.findall(mark, said, re.M)) for mark in (r"^\s*\*[^\*].*$", r"^\s*-.*$"))


def _highlights(said: str) -> int:
    once = [found for found in re.findall(r"\*[^\n\*]*\*", said) if found.strip("*").strip()]
    twice = [found for found in re.findall(r"\*\*[^\n\*]*\*\*", said) if found[2:-2].strip()]
    return len(once) + len(twice)


def _sections(given: Given, said: str) -> bool:
    mark = str(given.get("section_spliter") or "")
    return len(re.split(rf"\s?{mark}\s?\d+\s?", said)) - 1 >= int(given.get("num_sections") or 0)


def _letter(given: Given, said: str) -> bool:
    count = said.lower().count(str(given.get("letter") or "").lower() or "\0")
    return _relation(given, count, "let_frequency", "let_relation")


def _titled(said: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", said))


def _found(pattern: Any, said: str) -> list[str]:
    return re.findall(str(pattern or ""), said, re.I)


def _quoted(said: str) -> bool:
    text = said.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: Mapping[str, Callable[[Given, str], bool]] = {
    "keywords:existence": lambda g, said: all(_found(word, said) for word in g.get("keywords") or ()),
    "keywords:frequency": lambda g, said: _relation(g, len(_found(g.get("keyword"), said)), "frequency"),
    "keywords:forbidden_words": lambda g, said: (
        not any(_found(rf"\b{word}\b", said) for word in g.get("forbidden_words") or ())
    ),
    "keywords:letter_frequency": _letter,
    "language:response_language": lambda g, said: is_in(str(g.get("language") or ""), said),
    "length_constraints:number_sentences": lambda g, said: _relation(
        g, len(sentences(said)), "num_sentences"
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda g, said: _relation(
        g, len(re.findall(r"\w+", said)), "num_words"
    ),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda g, said: (
        len(re.findall(r"\[.*?\]", said)) >= int(g.get("num_placeholders") or 0)
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda g, said: _bullets(said) == int(g.get("num_bullets") or 0),
    "detectable_format:constrained_response": lambda _, said: any(own in said.strip() for own in FIXED),
    "detectable_format:number_highlighted_sections": lambda g, said: (
        _highlights(said) >= int(g.get("num_highlights") or 0)
    ),
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": lambda _, said: _titled(said),
    "combination:two_responses": _two,
    "combination:repeat_prompt": lambda g, said: (
        said.strip().lower().startswith(str(g.get("prompt_to_repeat") or "").strip().lower())
    ),
    "startend:end_checker": lambda g, said: (
        said.strip().strip('"').lower().endswith(str(g.get("end_phrase") or "").strip().lower())
    ),
    "startend:quotation": lambda _, said: _quoted(said),
    "change_case:capital_word_frequency": lambda g, said: _relation(
        g, capitals(said), "capital_frequency", "capital_relation"
    ),
    "change_case:english_capital": lambda _, said: said.isupper() and is_in("en", said),
    "change_case:english_lowercase": lambda _, said: said.islower() and is_in("en", said),
    "punctuation:no_comma": lambda _, said: "," not in said,
}
