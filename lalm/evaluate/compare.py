"""Compares two runs on the same items: the paired difference of every metric, or why there is none."""

from dataclasses import dataclass
from pathlib import Path

from lalm.errors import LalmError
from lalm.evaluate.card import differing
from lalm.evaluate.metrics import Resources
from lalm.evaluate.metrics.intervals import Difference
from lalm.evaluate.run import read_answers, read_card
from lalm.evaluate.scores import gap, score
from lalm.evaluate.task import Task


class CompareError(LalmError, ValueError):
    """Runs that cannot be compared; the text says why."""


@dataclass(frozen=True)
class Row:
    """One metric of one task: both runs' values and A minus B."""

    task: str
    metric: str
    a: float
    b: float
    difference: Difference


def compare(a: Path, b: Path, resources: Resources | None = None) -> list[Row]:
    """Every metric that both runs have. Raises CompareError when they asked, read or judged differently."""
    resources = resources or Resources()
    cards = [read_card(folder) for folder in (a, b)]
    for folder, card in zip((a, b), cards, strict=True):
        if not card.get("finished"):
            raise CompareError(f"the run in '{folder}' is not finished: start it again")
    shared = [name for name in cards[0]["tasks"] if name in cards[1]["tasks"]]
    if not shared:
        raise CompareError(f"'{a}' and '{b}' have no task in common")
    answers = [read_answers(folder) for folder in (a, b)]
    rows: list[Row] = []
    for name in shared:
        mine, other = (card["tasks"][name] for card in cards)
        if odd := differing(mine, other):
            key = odd[0]
            what = f"{mine.get(key)!r} and {other.get(key)!r}"
            raise CompareError(f"{name} cannot be compared: the runs differ in {key} ({what})")
        metrics = [m for m in mine["metrics"] if m in other["metrics"]]
        if not metrics:
            raise CompareError(f"{name} cannot be compared: the runs have no metric in common")
        task = Task(name=name, about=mine["about"], parser=mine["parser"], metrics=tuple(metrics))
        first, second = (score(task, own[name], resources, judged="judge" in metrics) for own in answers)
        for metric, measured in first.measured.items():
            if metric in metrics and metric in second.measured:
                values = measured.value, second.measured[metric].value
                rows.append(Row(name, metric, *values, gap(first, second, metric)))
    return rows
