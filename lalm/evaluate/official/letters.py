"""The letter rule of MMSU and of AIR-Bench's foundation half: the first letter, or the last but one."""

LETTERS = "ABCD"


def letter_of(said: str) -> str | None:
    """A to D by ``mmsu_evaluation.py`` and ``score_foundation.py``: the first character, else the last but
    one ("The answer is A."); None where neither is one of the four, and for an empty answer."""
    text = said.strip().replace("\n", "")
    if not text or text == "None":
        return None
    if text[0] in LETTERS:
        return text[0]
    return text[-2] if len(text) > 1 and text[-2] in LETTERS else None


def chosen(said: str, choices: tuple[str, ...]) -> str | None:
    """The option of that letter; None where no letter is read or there is no such option."""
    letter = letter_of(said)
    place = LETTERS.index(letter) if letter else len(choices)
    return choices[place] if place < len(choices) else None


def counted(said: str) -> bool:
    """Whether the scripts count the item at all: an answer without a readable letter is left out of their
    total, except that MMSU's counts an empty one, and "None", as wrong."""
    return letter_of(said) is not None
