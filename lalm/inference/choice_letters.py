"""Letters and numbers that stand for options: "(B)", "B.", "option b", "#2", "the second one"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lalm.inference.answer_words import alternatives

ORDINALS = (
    ("first", "1st", "erste", "premi\u00e8re", "primera", "prima"),
    ("second", "2nd", "zweite", "deuxi\u00e8me", "segunda", "seconda"),
    ("third", "3rd", "dritte", "troisi\u00e8me", "tercera", "terza"),
    ("fourth", "4th", "vierte", "quatri\u00e8me", "cuarta", "quarta"),
    ("fifth", "5th", "f\u00fcnfte", "cinqui\u00e8me", "quinta"),
)
_OPTION = alternatives("option")
_LATIN = r"[A-Za-z0-9'\u00c0-\u024f]"
_HOMOGLYPHS = str.maketrans("\u0410\u0412\u0421\u0415\u0430\u0432\u0441\u0435", "ABCEabce")
QUOTING = 60  # in an answer longer than so many signs, "a" in quotes is a word and no letter
_NUMBERED = re.compile(r"\W*(?:#|(?:no\.?|nr\.?|number|n[\u00b0\u00ba])\s*)(\d{1,2})\W*", re.I)


@dataclass(frozen=True)
class Mention:
    """Where an option is named, by its ``index``; ``lettered`` by letter or number, not by its words."""

    start: int
    end: int
    index: int
    lettered: bool


def letter_alone(said: str, count: int) -> int | None:
    """The option whose letter, or number with a sign, is all that is said."""
    found = re.fullmatch(
        rf"[\s(\[{{<\"'*_#]*(?:(?:{_OPTION})\s*:?\s*)?[(\[]?([A-Za-z\u0410\u0412\u0421\u0415])[\s)\]}}>.:,;!\"'*_]*",
        said,
        re.I,
    )
    index = ord(found[1].translate(_HOMOGLYPHS).upper()) - ord("A") if found else -1
    if numbered := re.fullmatch(
        r"\W*(?:#|(?:no\.?|nr\.?|number|n[\u00b0\u00ba])\s*)(\d{1,2})\W*", said, re.I
    ):
        index = int(numbered[1]) - 1
    return index if 0 <= index < count else None


def called_letter(said: str, start: int) -> bool:
    """Whether what starts there is said to be an option's letter: "option C"."""
    return (
        re.search(r"\b(?:option|choice|letter)\s*:?\s*[(\[\"']?$", said[max(0, start - 12) : start], re.I)
        is not None
    )


def lettered(said: str, options: Sequence[str]) -> list[Mention]:
    """Letters and numbers that stand for options: "(B)", "B.", "option b", "B is right", "the second one"."""
    last = chr(ord("A") + min(len(options), 26) - 1)
    upper, lower = f"[A-{last}]", f"[A-{last}a-{last.lower()}]"
    if last >= "C":
        upper, lower = f"[A-{last}\u0410\u0412\u0421]", f"[A-{last}a-{last.lower()}\u0410\u0412\u0421]"
    patterns = [
        rf"(?<!{_LATIN})[(\[{{<]({lower})[)\]}}>](?!{_LATIN})",
        rf"(?<!{_LATIN})[\"']({lower if len(said) < QUOTING else upper})[\"'](?!{_LATIN})",
        rf"(?<!{_LATIN})({lower})[)\]](?!{_LATIN})",
        rf"(?:(?<!{_LATIN})({upper})|(?:^|\n)\W*({lower})):(?!{_LATIN})",
        rf"(?<!{_LATIN})(?<!\.)({upper})\.(?=\s|$|[A-Z])",
        rf"(?<!\w)(?i:{_OPTION})\s*[:#]?\s*[(\[\"']?({lower})(?!{_LATIN})(?!\s+[a-z]{{3,}}\b(?<!is)(?<!was))",
        rf"(?<!\w)(?i:{_OPTION})(?:\s+(?:is|would be)|'s|\s*=)\s*:?\s*[(\[\"']?({lower})"
        r"(?=[\s)\]\"']*(?:$|[.,;!\n]))",
        rf"(?<!{_LATIN})((?![AI](?!{_LATIN})){upper})(?!{_LATIN}|[#\u266f\u266d])",
        rf"(?<!{_LATIN})(A)(?=\s*(?:$|[,;!?\u3002\uff0c\u3001/\n]|(?:or|and|oder|und|ou|o)\s+\W?[A-H]\b|is\b|because|since|as\b|seems|would|fits|matches|ist\b|est\b|es\b))",
        rf"(?:\u662f|\u9009|\u9078|\u62e9|\u4e3a|\u70ba|\u306f|\uc740|\ub294)\s*:?\s*({lower})(?![A-Za-z0-9])",
    ]
    found = []
    for pattern in patterns:
        for hit in re.finditer(pattern, said):
            place = hit.lastindex or 1
            index = ord(hit[place].translate(_HOMOGLYPHS).upper()) - ord("A")
            found.append(Mention(*hit.span(place), index, True))
    for index in range(min(len(options), len(ORDINALS))):
        names = "|".join(ORDINALS[index])
        forms = (
            rf"\b(?:{names}) (?:option|choice|one|answer|antwort|m\u00f6glichkeit|opci\u00f3n|r\u00e9ponse)\b"
        )
        forms += rf"|\bof the (?:\w+ )?\w+,? the (?:{names})\b"
        numbered = rf"\b(?:{_OPTION})\s*(?:number|no\.?|#)?\s*{index + 1}\b(?!\s*[.,:]\d)"
        for hit in re.finditer(f"{forms}|{numbered}", said, re.I):
            found.append(Mention(*hit.span(), index, True))
    return found
