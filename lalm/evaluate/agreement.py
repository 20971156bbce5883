"""Agreement of two judges: Cohen's and quadratic-weighted kappa, Spearman's correlation, with intervals.

A judge here is a run's ``predictions.jsonl`` or any JSONL whose rows have "id", "judged" (0 to 1) and, where
there are several tasks, "task": so people's labels are compared in the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lalm.evaluate.metrics.intervals import Array, Interval, Measured, additive, interval
from lalm.evaluate.said import rows_of


@dataclass(frozen=True)
class Agreement:
    """Over the items that both judged; ``only_one`` were judged by one of the two. None: undefined, as where
    a judge gives all answers the same score."""

    kappa: Interval | None
    weighted_kappa: Interval | None
    spearman: Interval | None
    only_one: int


def read_judgments(path: Path) -> dict[tuple[str, str], float]:
    """(task, id) -> score from 0 to 1. Raises ValueError for a file without any."""
    if not path.is_file():
        raise ValueError(f"there is no file '{path}'")
    found = {}
    for place, row in rows_of(path):
        if "judged" not in row or row.get("control", "audio") != "audio":
            continue
        score = row["judged"]
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"{place}: 'judged' must be a number from 0 to 1, not {score!r}")
        found[str(row.get("task", "")), str(row.get("id", ""))] = float(score)
    if not found:
        raise ValueError(f"{path} holds no judgments: rows need an id and 'judged'")
    return found


def agreement(mine: Mapping[tuple[str, str], float], other: Mapping[tuple[str, str], float]) -> Agreement:
    """Between two judges of the same answers. Raises ValueError when they share fewer than two."""
    if {task for task, _ in other} == {""} or {task for task, _ in mine} == {""}:  # labels without tasks
        mine, other = ({("", name): v for (_, name), v in own.items()} for own in (mine, other))
    shared = sorted(set(mine) & set(other))
    if len(shared) < 2:
        raise ValueError(f"the two judged {len(shared)} answers in common; agreement needs two")
    a, b = (np.array([own[key] for key in shared]) for own in (mine, other))
    names = [f"{task} {name}" for task, name in shared]
    found = (kappa(a, b), kappa(a, b, weighted=True), spearman(a, b))
    plain, weighted, ranks = (interval(own, names) if np.isfinite(own.value) else None for own in found)
    return Agreement(plain, weighted, ranks, len(set(mine) ^ set(other)))


def kappa(a: Array, b: Array, *, weighted: bool = False) -> Measured:
    """Cohen's kappa of two lists of scores, (items,) each; ``weighted``: by squared distance. Undefined
    where both give all items one score."""
    levels = np.unique(np.concatenate([a, b]))
    cost = (levels[:, None] - levels[None, :]) ** 2 if weighted else 1.0 - np.eye(len(levels))
    i, j = np.searchsorted(levels, a), np.searchsorted(levels, b)
    table = np.zeros((len(a), len(levels), len(levels)))
    table[np.arange(len(a)), i, j] = 1

    def finish(sums: Array) -> Array:
        counts = sums.reshape(*sums.shape[:-1], len(levels), len(levels))
        total = counts.sum((-2, -1))
        seen = (counts * cost).sum((-2, -1)) / total
        expected = counts.sum(-1)[..., :, None] * counts.sum(-2)[..., None, :] / total[..., None, None] ** 2
        chance = (expected * cost).sum((-2, -1))
        return 1 - np.divide(seen, chance, out=np.full(np.shape(seen), np.nan), where=chance > 0)

    return additive(table.reshape(len(a), -1), finish)


def spearman(a: Array, b: Array) -> Measured:
    """Correlation of ranks, equal scores sharing theirs; undefined where one of the two never varies."""

    def ranks(values: Array) -> Array:
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        middle: Array = (ends - (counts - 1) / 2)[place]
        return middle

    def of_counts(counts: Array) -> Array:
        found = np.full(len(counts), np.nan)
        for row, times in enumerate(counts.astype(int)):
            x, y = ranks(np.repeat(a, times)), ranks(np.repeat(b, times))
            if len(x) > 1 and x.std() > 0 and y.std() > 0:
                found[row] = np.corrcoef(x, y)[0, 1]
        return found

    return Measured(len(a), of_counts)
