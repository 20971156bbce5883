"""Estimates with intervals over seeds and items, and the verdicts that follow from them

An estimate's variance is that of its items (recordings are drawn, each with all that is asked about it) plus
that of its seeds; the interval is Student's t with Satterthwaite's degrees of freedom, so that three seeds
that differ make a wide one. With one seed it is over items alone, which says nothing of another training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from lalm.evaluate.metrics.intervals import UNBOUNDED
from lalm.training.sweep import t_point

CONFIRMED, NOT_CONFIRMED, CANNOT_TELL, NOT_RUN = "confirmed", "not confirmed", "cannot tell", "not run"
Item = tuple[str, str]  # a task and an item's id
Array: TypeAlias = np.ndarray[Any, Any]
TAIL = 0.025


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks of means over items, with its 95 % interval over ``seeds`` and items."""

    mean: float
    low: float
    high: float
    num_items: int
    num_recordings: int
    seeds: tuple[float, ...]  # each seed's own mean


@dataclass(frozen=True)
class Scores:
    """Each item's score, the recording it is about, and what a score can be at least and at most."""

    points: Mapping[Item, float]
    recordings: Mapping[Item, str]
    bounds: tuple[float, float] = UNBOUNDED


def estimate(runs: Sequence[Scores], minus: Sequence[Scores] = ()) -> Estimate | None:
    """The mean over tasks, or of ``runs`` minus ``minus`` item by item, one of each for a seed. None where
    they share no item. No limit lies beyond what there can be."""
    pairs = list(zip(runs, minus, strict=True)) if minus else [(one, None) for one in runs]
    if not pairs:
        return None
    shared = set.intersection(*({*a.points} & {*(b or a).points} for a, b in pairs))
    items = sorted(shared)
    if not items:
        return None
    table = np.array([[a.points[i] - (b.points[i] if b else 0.0) for i in items] for a, b in pairs])
    tasks, counts = np.unique([task for task, _ in items], return_counts=True)
    share = dict(zip(tasks, 1 / (len(tasks) * counts), strict=True))
    weights = np.array([share[task] for task, _ in items])
    own = table @ weights  # (seeds,)
    recordings = [pairs[0][0].recordings[i] for i in items]
    _, which = np.unique(recordings, return_inverse=True)
    groups = int(which.max()) + 1
    of_items = _of_items(table.mean(0), weights, np.array([task for task, _ in items]), which)
    of_seeds = float(own.var(ddof=1)) / len(own) if len(own) > 1 else 0.0
    middle = float(own.mean())
    least, most = _bounds([one for pair in pairs for one in pair if one], difference=bool(minus))
    if of_items + of_seeds < 1e-12:
        low, high = _of_alike(middle, groups, least, most)
    else:
        half = _half_width(of_items, groups - len(tasks), of_seeds, len(own) - 1)
        low, high = max(middle - half, least), min(middle + half, most)
    return Estimate(middle, low, high, len(items), groups, tuple(float(value) for value in own))


def _of_items(means: Array, weights: Array, tasks: Array, which: Array) -> float:
    """The variance of a weighted mean over items whose recordings are drawn, all about one of them together;
    unknown (infinite) where a task has one recording alone.

    means, weights, tasks, which: (items,), the last the number of each item's recording.
    """
    pulls = np.zeros(len(means))
    for task in np.unique(tasks):
        own = tasks == task
        num_recordings = len(np.unique(which[own]))
        if num_recordings < 2:
            return math.inf
        spread = math.sqrt(num_recordings / (num_recordings - 1))
        pulls[own] = weights[own] * (means[own] - means[own].mean()) * spread
    return float((np.bincount(which, pulls) ** 2).sum())


def _bounds(runs: Sequence[Scores], *, difference: bool) -> tuple[float, float]:
    """What an estimate of these can be at least and at most."""
    least, most = min(one.bounds[0] for one in runs), max(one.bounds[1] for one in runs)
    return (least - most, most - least) if difference else (least, most)


def _of_alike(middle: float, groups: int, least: float, most: float) -> tuple[float, float]:
    """Limits where no item differs from another and no seed either: of that many recordings without an
    exception, so many may be exceptions (Clopper and Pearson), each as far away as can be."""
    unlike = 1 - TAIL ** (1 / groups)
    return middle - unlike * (middle - least), middle + unlike * (most - middle)


def _half_width(of_items: float, free_items: int, of_seeds: float, free_seeds: int) -> float:
    """Half of the 95 % interval from two variances and their degrees of freedom."""
    whole = of_items + of_seeds
    if not math.isfinite(whole):
        return whole
    below = of_items**2 / max(free_items, 1) + (of_seeds**2 / free_seeds if free_seeds > 0 else 0)
    return t_point(int(min(whole**2 / below, 1e6))) * math.sqrt(whole)


def verdict(found: Estimate | None, worth: float, *, two_trainings: bool = False) -> str:
    """By the rule of ``experiment.Contrast``: below what would matter comes first, so that a difference which
    is surely there and surely too small is not confirmed. ``two_trainings``: the sides are models that were
    trained apart, of which one seed cannot tell how much another would differ."""
    if found is None:
        return NOT_RUN
    if two_trainings and len(found.seeds) < 2:
        return CANNOT_TELL
    if found.high < worth or found.high < 0:
        return NOT_CONFIRMED
    return CONFIRMED if found.low > 0 else CANNOT_TELL


def whole_verdict(verdicts: Sequence[str]) -> str:
    """Of a claim from those that decide: confirmed when all are, not when any is not."""
    if not verdicts or NOT_RUN in verdicts:
        return NOT_RUN
    if NOT_CONFIRMED in verdicts:
        return NOT_CONFIRMED
    return CONFIRMED if set(verdicts) == {CONFIRMED} else CANNOT_TELL
