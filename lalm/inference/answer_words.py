"""The words of ``answer_words.yaml``, by which answers say what they mean."""

from functools import cache
from pathlib import Path

import yaml


@cache
def alternatives(name: str) -> str:
    """The words of one kind as an alternation, to stand inside a group of a regular expression."""
    return "|".join(_words()[name])


def spoken_numbers() -> list[str]:
    """The words of each number from zero up, separated by spaces."""
    return _words()["numbers"]


def source() -> str:
    """The file as it stands, for a card's digest."""
    return Path(__file__).with_name("answer_words.yaml").read_text(encoding="utf-8")


@cache
def _words() -> dict[str, list[str]]:
    found: dict[str, list[str]] = yaml.safe_load(source())
    return found
