"""95 % intervals for any metric, by bootstrap over recordings: items of one recording are drawn together.

A metric is ``Measured`` on the items of a run: something that can be computed again when each item counts
0, 1, 2 ... times. Where the metric is a function of sums over items (means, error rates, corpus BLEU),
``additive`` makes it from each item's share of the sums.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

NUM_DRAWS = 2000
DRAWS_AT_ONCE = 100
BLOCK = 256  # items scored one by one at a time
Z = 1.959964  # of the normal distribution, two-sided 95 %


class Lacking(LookupError):
    """Something that a metric needs was not given; the text says what, and how to give it."""


@dataclass(frozen=True)
class Interval:
    """A metric with its 95 % bootstrap interval and what it rests on."""

    mean: float
    low: float
    high: float
    num_items: int
    num_recordings: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.num_items})"


@dataclass(frozen=True)
class Difference(Interval):
    """A metric of one run minus that of another on the same items; ``p_value`` is two-sided."""

    p_value: float


@dataclass(frozen=True)
class Measured:
    """A metric on ``num_items`` items. ``of_counts``: item counts (draws, items) -> (draws,).

    ``of_items`` gives an item's own score, (items,), where the metric of one item says nothing. ``shares``,
    (items, 2), are what a rate divides: errors and words."""

    num_items: int
    of_counts: Callable[[Array], Array]
    of_items: Callable[[], Array] | None = None
    shares: Array | None = None

    @property
    def value(self) -> float:
        """The metric itself: each item counts once."""
        return float(self.of_counts(np.ones((1, self.num_items)))[0])


def additive(shares: Sequence[Sequence[float]] | Array, finish: Callable[[Array], Array]) -> Measured:
    """``finish`` turns sums (..., k) into the metric (...); ``shares``, (items, k), are what is summed."""
    table = np.asarray(shares, dtype=float).reshape(len(shares), -1)
    return Measured(len(table), lambda counts: finish(counts @ table))


def mean_of(values: Sequence[float] | Array) -> Measured:
    """The mean of one number an item."""
    return additive([(v, 1.0) for v in values], ratio)


def rate(shares: Sequence[Sequence[float]]) -> Measured:
    """The sum of ``shares``' first column over that of the second: errors a word, where items differ much in
    length and in errors, which makes plain percentiles too narrow."""
    return replace(additive(shares, ratio), shares=np.asarray(shares, dtype=float).reshape(-1, 2))


def ratio(sums: Array) -> Array:
    """sums: (..., 2) -> the first over the second, 0 where the second is 0."""
    below = sums[..., 1]
    return np.divide(sums[..., 0], below, out=np.zeros(below.shape), where=below != 0)


def interval(measured: Measured, recordings: Sequence[str], *, seed: int = 0) -> Interval:
    """The metric with its interval; ``recordings`` names each item's recording.

    Where all recordings are alike (all right, all wrong, one of two right in each), no draw changes anything:
    then the width is what the binomial limit leaves to recordings unlike them, for metrics from 0 to 1.
    """
    num_recordings, value = len(set(recordings)), measured.value
    limits = _studentised(measured, recordings, seed)
    if limits is None:
        draws = np.concatenate([measured.of_counts(c) for c in _counts(measured, recordings, seed)])
        limits = _limits(draws, num_recordings)
    low, high = limits
    if high - low < 1e-12 and 0 <= value <= 1:
        unlike = 1 - 0.025 ** (1 / num_recordings)
        low, high = value * (1 - unlike), value + (1 - value) * unlike
    return Interval(value, low, high, measured.num_items, num_recordings)


def difference(mine: Measured, other: Measured, recordings: Sequence[str], *, seed: int = 0) -> Difference:
    """``mine`` minus ``other`` on the same items in the same order, paired: both see the same draws."""
    if mine.num_items != other.num_items:
        raise ValueError(f"a paired difference needs the same items: {mine.num_items} and {other.num_items}")
    counts = _counts(mine, recordings, seed)
    draws = np.concatenate([mine.of_counts(c) - other.of_counts(c) for c in counts])
    num_recordings = len(set(recordings))
    low, high = _limits(draws, num_recordings)
    beyond = min(np.sum(draws <= 0), np.sum(draws >= 0))
    p_value = min(1.0, 2 * (float(beyond) + 1) / (len(draws) + 1))
    return Difference(mine.value - other.value, low, high, mine.num_items, num_recordings, p_value)


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


def _counts(measured: Measured, recordings: Sequence[str], seed: int) -> Iterator[Array]:
    """How often each item is drawn, (draws, items), some draws at a time."""
    if measured.num_items != len(recordings) or not measured.num_items:
        raise ValueError(
            f"{measured.num_items} values for {len(recordings)} recordings: need as many, and at least one"
        )
    _, which = np.unique(np.asarray(recordings), return_inverse=True)
    groups = int(which.max()) + 1
    rng = np.random.default_rng(seed)
    for start in range(0, NUM_DRAWS, DRAWS_AT_ONCE):
        size = min(DRAWS_AT_ONCE, NUM_DRAWS - start)
        yield rng.multinomial(groups, np.full(groups, 1 / groups), size)[:, which]


def _studentised(measured: Measured, recordings: Sequence[str], seed: int) -> tuple[float, float] | None:
    """Bootstrap-t limits of a rate; None for other metrics, and where too many draws have no spread.

    Each draw's distance from the value is taken in the draw's own standard errors (of the sums' ratio, by
    recording), and the limits lie so many of the value's own away (Hesterberg 2015, section 5.3).
    """
    if measured.shares is None:
        return None
    _, which = np.unique(np.asarray(recordings), return_inverse=True)
    places = np.zeros(int(which.max()) + 1, dtype=int)
    places[which] = np.arange(len(which))  # an item of each recording
    table = np.stack([np.bincount(which, measured.shares[:, k]) for k in (0, 1)], 1)  # (recordings, 2)

    def estimate(counts: Array) -> tuple[Array, Array]:
        """counts: (draws, recordings) -> the rate and its standard error, (draws,) each."""
        sums = counts @ table
        value = ratio(sums)
        pull = (table[:, 0] - value[:, None] * table[:, 1]) / np.maximum(sums[:, 1:], 1e-300)
        return value, np.sqrt((counts * pull**2).sum(1))

    value, error = (found[0] for found in estimate(np.ones((1, len(places)))))
    drawn = [estimate(counts[:, places]) for counts in _counts(measured, recordings, seed)]
    values, errors = (np.concatenate(column) for column in zip(*drawn, strict=True))
    there = errors > 1e-9
    if not error or there.mean() < 0.99:
        return None
    low, high = np.quantile((values[there] - value) / errors[there], [0.025, 0.975])
    return max(0.0, float(value - high * error)), float(value - low * error)


def _limits(draws: Array, num_recordings: int) -> tuple[float, float]:
    """The percentiles that hold 95 %, a little further out for few recordings.

    Plain percentiles are too narrow by what separates n from n - 1 and the normal from Student's t; the tail
    is that of sqrt(n / (n - 1)) t (Hesterberg 2015, section 3.3, "expanded percentile interval").
    """
    if num_recordings < 2:
        return -math.inf, math.inf
    free = num_recordings - 1
    student = Z + (Z**3 + Z) / (4 * free) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * free**2)
    tail = 0.5 * math.erfc(math.sqrt(num_recordings / free) * student / math.sqrt(2))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)
