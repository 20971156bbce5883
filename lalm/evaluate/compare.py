"""Compares two runs: the paired difference of every metric on the items they share, or why there is none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lalm.errors import LalmError
from lalm.evaluate.card import MUST_MATCH, differing
from lalm.evaluate.items import question_of
from lalm.evaluate.metrics import Answer, Resources
from lalm.evaluate.metrics.intervals import Difference
from lalm.evaluate.run import Kept, read_answers, read_card
from lalm.evaluate.scores import gap, score
from lalm.evaluate.task import Task

# What differs where the items do: such runs are compared on those that they share.
OF_ITEMS = ("data", "prompt", "prompts", "normaliser")


class CompareError(LalmError, ValueError):
    """Runs that cannot be compared; the text says why."""


@dataclass(frozen=True)
class Row:
    """One metric of one task: both runs' values and A minus B, on ``shared`` items of ``items_a`` and
    ``items_b``."""

    task: str
    metric: str
    a: float
    b: float
    difference: Difference
    shared: int
    items_a: int
    items_b: int


def compare(a: Path, b: Path, resources: Resources | None = None) -> list[Row]:
    """Every metric that both runs have. Raises CompareError when they asked, read or judged differently."""
    resources = resources or Resources()
    cards = [read_card(folder) for folder in (a, b)]
    for folder, card in zip((a, b), cards, strict=True):
        if not card.get("finished"):
            raise CompareError(f"the run in '{folder}' is not finished: start it again")
    both = [name for name in cards[0]["tasks"] if name in cards[1]["tasks"]]
    if not both:
        raise CompareError(f"'{a}' and '{b}' have no task in common")
    answers = [read_answers(folder) for folder in (a, b)]
    rows: list[Row] = []
    for name in both:
        mine, other = (card["tasks"][name] for card in cards)
        _check(name, mine, other, [key for key in MUST_MATCH if key not in OF_ITEMS])
        first, second = (own.get(name, []) for own in answers)
        pairs = _pairs(first, second, same=not differing(mine, other, OF_ITEMS))
        if not pairs:
            _check(name, mine, other, OF_ITEMS)
            raise CompareError(f"{name} cannot be compared: the runs have no answered item in common")
        metrics = [m for m in mine["metrics"] if m in other["metrics"]]
        if not metrics:
            raise CompareError(f"{name} cannot be compared: the runs have no metric in common")
        task = Task(name=name, about=mine["about"], parser=mine["parser"], metrics=tuple(metrics))
        one, two = (
            score(task, own, resources, judged="judge" in metrics) for own in zip(*pairs, strict=True)
        )
        for metric, measured in one.measured.items():
            if metric in metrics and metric in two.measured:
                values = measured.value, two.measured[metric].value
                counts = len(pairs), len(first), len(second)
                rows.append(Row(name, metric, *values, gap(one, two, metric), *counts))
    return rows


def _check(name: str, mine: dict[str, Any], other: dict[str, Any], keys: Any) -> None:
    if odd := differing(mine, other, keys):
        key = odd[0]
        what = f"{mine.get(key)!r} and {other.get(key)!r}"
        raise CompareError(f"{name} cannot be compared: the runs differ in {key} ({what})")


def _pairs(first: list[Kept], second: list[Kept], *, same: bool) -> list[tuple[Answer, Answer]]:
    """Both runs' answers to the same items: same recording, question and references. ``same``: the runs'
    cards agree on their items, so that ids suffice."""
    theirs = {kept.answer.sample.id: kept for kept in second}
    pairs = []
    for kept in first:
        other = theirs.get(kept.answer.sample.id)
        if other is None:
            continue
        known = bool(kept.item) and kept.item == other.item
        alike = question_of(kept.answer.sample) == question_of(other.answer.sample)
        if same or (known and alike):
            pairs.append((kept.answer, other.answer))
    return pairs
