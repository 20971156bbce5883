"""METEOR's tokenizer: what ``-norm`` makes of a caption before words are matched.

Beside the caption tokens of ``evaluate.metrics.captions``: hyphenated words apart ("hi-hat" is two words),
the apostrophe with what follows it ("n 't"), alone before a clitic that stands apart (" 's" is "'" and "s"),
every other sign alone, "p.m." as "pm", and the dot of "mr." apart unless a word in lower case follows.
"""

import re
from collections.abc import Collection, Sequence

_LATIN = "A-Za-z\u0160\u0161\u017d\u017e\u0178\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017e"
_LETTER = _LATIN + "\u0400-\u0527\ua640-\ua66e\ua67e-\ua697\u1d00-\u1d7f"
_SIGN = re.compile(rf"([^0-9{_LETTER}\s.'`,\-\u2018\u2019])")
_QUOTE = re.compile("[`\u2018\u2019]")
# The tool replaces what it has not passed yet, so that of "a-b-c" only the first hyphen goes: no lookaround.
_HYPHEN = re.compile(rf"([0-9{_LETTER}.])-([0-9{_LETTER}])")
_APOSTROPHES = (
    (re.compile(rf"([^{_LETTER}])'([^{_LETTER}])"), r"\1 ' \2"),
    (re.compile(rf"([^{_LETTER}\d])'([{_LETTER}])"), r"\1 ' \2"),
    (re.compile(rf"([{_LETTER}])'([^{_LETTER}])"), r"\1 ' \2"),
    (re.compile(rf"([{_LETTER}])'([{_LETTER}])"), r"\1 '\2"),
    (re.compile(r"(\d)'(s)"), r"\1 '\2"),
)


def meteor_tokens(tokens: Sequence[str], abbreviations: Collection[str] = ()) -> list[str]:
    """METEOR's words of a caption's tokens; ``abbreviations`` keep their dot wherever they stand."""
    text = _QUOTE.sub("'", _SIGN.sub(r" \1 ", f" {' '.join(tokens)} "))
    text = _HYPHEN.sub(r"\1 \2", text.replace("\u2013", "-").replace("--", "-"))
    for pattern, instead in _APOSTROPHES:
        text = pattern.sub(instead, text)
    words = text.split()
    made = []
    for word, following in zip(words, [*words[1:], ""][: len(words)], strict=True):
        stem = word[:-1]
        if not stem or not word.endswith("."):
            made.append(word)
        elif "." in stem and re.search(f"[{_LETTER}]", stem):
            made.append(word.replace(".", ""))
        elif stem in abbreviations or re.match("[a-z]", following):
            made.append(word)
        else:
            made += [stem, "."]
    return made
