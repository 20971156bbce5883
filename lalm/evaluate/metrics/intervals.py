"""95 % intervals and paired differences of any metric; items about one recording are taken together.

A metric is ``Measured`` on the items of a run: something that can be computed again when each item counts
0, 1, 2 ... times. Where the metric is a function of sums over items (means, error rates, corpus BLEU),
``additive`` makes it from each item's share of the sums. Shares of items get exact limits
(``lalm.evaluate.metrics.exact_limits``), everything else is resampled (``lalm.evaluate.metrics.resampling``).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from lalm.evaluate.metrics.exact_limits import paired_limits, share_limits
from lalm.evaluate.metrics.resampling import counts_of, resampled_limits, significance

Array: TypeAlias = np.ndarray[Any, Any]

BLOCK = 256  # items scored one by one at a time
ALPHA = 0.05
UNBOUNDED = (-math.inf, math.inf)
SHARE = (0.0, 1.0)
FEWEST = 6  # recordings that allow a p-value: of five, not even all on one side make one below 0.05


@dataclass(frozen=True)
class Interval:
    """A metric with its 95 % interval and what it rests on; infinite limits: nothing is known of them."""

    mean: float
    low: float
    high: float
    num_items: int
    num_recordings: int

    def __str__(self) -> str:
        low, high = (f"{end:.3f}" if math.isfinite(end) else "?" for end in (self.low, self.high))
        return f"{self.mean:.3f} [{low}, {high}] (n={self.num_items})"


@dataclass(frozen=True)
class Difference(Interval):
    """A metric of one run minus that of another on the same items. ``p_value`` is two-sided and agrees with
    the interval; None where there are too few recordings for one, or no draw changes anything."""

    p_value: float | None


@dataclass(frozen=True)
class Measured:
    """A metric on ``num_items`` items. ``of_counts``: item counts (draws, items) -> (draws,).

    ``of_items`` gives an item's own score, (items,), where the metric of one item says nothing. ``shares``,
    (items, 2), are what a mean or rate divides: scores and ones, errors and words. ``proportion``: it is the
    share of items that have something, so that each item's score is 0 or 1. ``bounds``: the lowest and the
    highest value that there can be; no limit lies beyond."""

    num_items: int
    of_counts: Callable[[Array], Array]
    of_items: Callable[[], Array] | None = None
    shares: Array | None = None
    proportion: bool = False
    bounds: tuple[float, float] = UNBOUNDED

    @property
    def value(self) -> float:
        """The metric itself: each item counts once."""
        return float(self.of_counts(np.ones((1, self.num_items)))[0])


def additive(shares: Sequence[Sequence[float]] | Array, finish: Callable[[Array], Array]) -> Measured:
    """``finish`` turns sums (..., k) into the metric (...); ``shares``, (items, k), are what is summed."""
    table = np.asarray(shares, dtype=float).reshape(len(shares), -1)
    return Measured(len(table), lambda counts: finish(counts @ table))


def rate(shares: Sequence[Sequence[float]] | Array) -> Measured:
    """The sum of ``shares``' first column over that of the second, such as errors a word."""
    table = np.asarray(shares, dtype=float).reshape(-1, 2)
    least = 0.0 if (table >= 0).all() else -math.inf
    return replace(additive(table, ratio), shares=table, bounds=(least, math.inf))


def mean_of(values: Sequence[float] | Array, *, proportion: bool | None = None) -> Measured:
    """The mean of one number an item; where all are 0 or 1 it is taken as a share of items, unless
    ``proportion`` says that these are scores which happen to be so."""
    found = rate([(v, 1.0) for v in values])
    if proportion is None:
        proportion = all(v in (0, 1) for v in values)
    return replace(found, proportion=proportion)


def proportion(values: Sequence[float] | Array) -> Measured:
    """The share of items whose value is 1; the others' is 0."""
    return mean_of(values, proportion=True)


def bounded(measured: Measured, bounds: tuple[float, float]) -> Measured:
    """The same metric, of which it is known what it can be at least and at most."""
    least, most = measured.bounds
    return replace(measured, bounds=(max(least, bounds[0]), min(most, bounds[1])))


def ratio(sums: Array) -> Array:
    """sums: (..., 2) -> the first over the second, 0 where the second is 0."""
    below = sums[..., 1]
    return np.divide(sums[..., 0], below, out=np.zeros(below.shape), where=below != 0)


def interval(measured: Measured, recordings: Sequence[str], *, seed: int = 0) -> Interval:
    """The metric with its interval; ``recordings`` names each item's recording.

    One recording alone has no limits, and no more has a metric that is not a share of items where all
    recordings are alike.
    """
    which, groups = _numbered(measured, recordings)
    low, high = -math.inf, math.inf
    if groups > 1 and measured.proportion:
        low, high = share_limits(_by_recording(measured, which))
    elif groups > 1:
        tables = () if measured.shares is None else (_by_recording(measured, which),)
        limits = resampled_limits(measured.of_counts, which, tables, seed=seed)
        if limits:
            low, high = limits(ALPHA)
        elif tables and not tables[0][:, 0].any() and not (tables[0][:, 1] == np.bincount(which)).all():
            low, high = 0.0, 1 - (ALPHA / 2) ** (1 / groups)  # no error: others may be wrong throughout
    low, high = _within(low, high, measured.bounds)
    return Interval(measured.value, low, high, measured.num_items, groups)


def difference(mine: Measured, other: Measured, recordings: Sequence[str], *, seed: int = 0) -> Difference:
    """``mine`` minus ``other`` on the same items in the same order, paired: both see the same draws."""
    if mine.num_items != other.num_items:
        raise ValueError(f"a paired difference needs the same items: {mine.num_items} and {other.num_items}")
    which, groups = _numbered(mine, recordings)
    low, high = -math.inf, math.inf
    p_value: float | None = None
    if groups > 1 and mine.proportion and other.proportion:
        low, high, p_value = paired_limits(_by_recording(mine, which), _by_recording(other, which))
    elif groups > 1:
        both = mine.shares is not None and other.shares is not None
        tables = tuple(_by_recording(one, which) for one in (mine, other)) if both else ()
        limits = resampled_limits(lambda c: mine.of_counts(c) - other.of_counts(c), which, tables, seed=seed)
        if limits:
            (low, high), p_value = limits(ALPHA), significance(limits)
    (least, most), (lowest, highest) = mine.bounds, other.bounds
    low, high = _within(low, high, (least - highest, most - lowest))
    p_value = p_value if groups >= FEWEST else None
    return Difference(mine.value - other.value, low, high, mine.num_items, groups, p_value)


def _within(low: float, high: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Limits that end where the metric does; infinite ones stay, for nothing is known."""
    low = max(low, bounds[0]) if math.isfinite(low) else low
    return low, min(high, bounds[1]) if math.isfinite(high) else high


def bootstrap(values: Sequence[float], recordings: Sequence[str], *, seed: int = 0) -> Interval:
    """Mean of ``values``. For a paired comparison pass the items' differences of two runs."""
    return interval(mean_of(values), recordings, seed=seed)


def each(measured: Measured) -> Array:
    """The metric of every item alone, (items,), or what stands for it."""
    if measured.of_items is not None:
        return measured.of_items()
    rows = []
    for start in range(0, measured.num_items, BLOCK):
        counts = np.zeros((min(BLOCK, measured.num_items - start), measured.num_items))
        counts[np.arange(len(counts)), start + np.arange(len(counts))] = 1
        rows.append(measured.of_counts(counts))
    return np.concatenate(rows)


def draws_of(measured: Measured, recordings: Sequence[str], *, seed: int = 0) -> Array:
    """The metric on each bootstrap draw of recordings, (draws,)."""
    which, _ = _numbered(measured, recordings)
    return np.concatenate([measured.of_counts(counts[:, which]) for counts in counts_of(which, seed)])


def _numbered(measured: Measured, recordings: Sequence[str]) -> tuple[Array, int]:
    """Each item's recording by number, (items,), and how many recordings there are."""
    if measured.num_items != len(recordings) or not measured.num_items:
        raise ValueError(
            f"{measured.num_items} values for {len(recordings)} recordings: need as many, and at least one"
        )
    _, which = np.unique(np.asarray(recordings), return_inverse=True)
    return which, int(which.max()) + 1


def _by_recording(measured: Measured, which: Array) -> Array:
    """(recordings, 2): each recording's share of what the metric divides."""
    assert measured.shares is not None
    return np.stack([np.bincount(which, measured.shares[:, k]) for k in (0, 1)], 1)
