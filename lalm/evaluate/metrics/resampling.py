"""Bootstrap limits at any level, over recordings: of means and rates the wider of two kinds, of all else
bias-corrected ones. How often they hold the truth stands in docs/evaluate.md, with how it was measured."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
Limits: TypeAlias = Callable[[float], tuple[float, float]]  # alpha -> limits that hold 1 - alpha

NUM_DRAWS = 2000
DRAWS_AT_ONCE = 100
JACKKNIFE = 500  # recordings; of more, the shape of the draws says enough
ENOUGH = 0.97  # of the draws must have a spread for bootstrap-t


def counts_of(which: Array, seed: int) -> Iterator[Array]:
    """How often each recording is drawn, (draws, recordings), some draws at a time."""
    groups, rng = int(which.max()) + 1, np.random.default_rng(seed)
    for start in range(0, NUM_DRAWS, DRAWS_AT_ONCE):
        yield rng.multinomial(groups, np.full(groups, 1 / groups), min(DRAWS_AT_ONCE, NUM_DRAWS - start))


def resampled_limits(
    of_counts: Callable[[Array], Array], which: Array, tables: Sequence[Array], *, seed: int
) -> Limits | None:
    """Limits of ``of_counts``, item counts (draws, items) -> (draws,); None where no draw changes anything.

    which: (items,) each item's recording. tables: (recordings, 2) what a rate divides, twice for a difference
    of rates, none for other metrics.
    """
    draws = np.sort(np.concatenate([of_counts(counts[:, which]) for counts in counts_of(which, seed)]))
    draws = draws[np.isfinite(draws)]  # a draw may leave a metric undefined, as kappa of equal scores
    if len(draws) < NUM_DRAWS / 2 or np.ptp(draws) <= 1e-12 * max(1.0, float(np.abs(draws).max())):
        return None
    groups = int(which.max()) + 1
    if tables:
        return _wider(draws, groups, _studentised(tables, which, seed))
    return _corrected(draws, of_counts, which, groups)


def significance(limits: Limits) -> float:
    """The level at which the interval begins to hold zero; as low as the number of draws can tell."""
    low, high = 2 / NUM_DRAWS, 1.0
    for _ in range(20):
        middle = math.sqrt(low * high)
        below, above = limits(middle)
        low, high = (middle, high) if below <= 0 <= above else (low, middle)
    return high


def _reach(alpha: float, groups: int) -> float:
    """How far from the middle a limit lies, in standard deviations of the draws: plain percentiles are too
    narrow by what separates n from n - 1 and the normal from Student's t (Hesterberg 2015, section 3.3)."""
    from scipy.stats import t

    return math.sqrt(groups / (groups - 1)) * float(t.ppf(1 - alpha / 2, groups - 1))


def _wider(draws: Array, groups: int, studentised: tuple[float, float, Array] | None) -> Limits:
    """The wider of expanded percentiles and, where there are any, bootstrap-t limits. Alone the first are too
    narrow above where few recordings have most of the errors, the second where draws repeat each other."""
    from scipy.stats import norm

    def limits(alpha: float) -> tuple[float, float]:
        tail = float(norm.sf(_reach(alpha, groups)))
        low, high = (float(end) for end in np.quantile(draws, [tail, 1 - tail]))
        if studentised is None:
            return low, high
        value, error, distances = studentised
        near, far = np.quantile(distances, [alpha / 2, 1 - alpha / 2])
        below, above = float(value - far * error), float(value - near * error)
        return min(low, below), max(high, above)

    return limits


def _studentised(tables: Sequence[Array], which: Array, seed: int) -> tuple[float, float, Array] | None:
    """The rate (or the first minus the second), its standard error, and the draws' distances from it in their
    own standard errors (Hesterberg 2015, section 5.3); None where too many draws have no spread."""

    def estimate(counts: Array) -> tuple[Array, Array]:
        """counts: (draws, recordings) -> the rate and its standard error, (draws,) each."""
        total, pulls = np.zeros(len(counts)), np.zeros(counts.shape)
        for sign, table in zip((1, -1), tables, strict=False):
            above, below = np.moveaxis(counts @ table, -1, 0)
            there = below > 0
            value = np.divide(above, below, out=np.zeros(len(counts)), where=there)
            scale = np.divide(1.0, below, out=np.zeros(len(counts)), where=there)
            total += sign * value
            pulls += sign * (table[:, 0] - value[:, None] * table[:, 1]) * scale[:, None]
        return total, np.sqrt((counts * pulls**2).sum(1))

    groups = len(tables[0])
    value, error = (float(found[0]) for found in estimate(np.ones((1, groups))))
    drawn = [estimate(counts) for counts in counts_of(which, seed)]
    values, errors = (np.concatenate(column) for column in zip(*drawn, strict=True))
    there = errors > 1e-9 * max(1.0, abs(value))
    if not error or there.mean() < ENOUGH:
        return None
    return value, error, np.sort((values[there] - value) / errors[there])


def _corrected(draws: Array, of_counts: Callable[[Array], Array], which: Array, groups: int) -> Limits:
    """Bias-corrected and accelerated percentiles (Efron 1987), as far out as ``_reach`` says."""
    from scipy.stats import norm

    value = float(of_counts(np.ones((1, len(which))))[0])
    below = ((draws < value).mean() + (draws <= value).mean()) / 2
    bias = float(norm.ppf(np.clip(below, 0.05, 0.95)))
    speed = _acceleration(of_counts, which, groups) if groups <= JACKKNIFE else 0.0

    def limits(alpha: float) -> tuple[float, float]:
        ends = []
        for side in (-_reach(alpha, groups), _reach(alpha, groups)):
            slope = max(0.1, 1 - speed * (bias + side))
            ends.append(float(norm.cdf(bias + (bias + side) / slope)))
        low, high = np.quantile(draws, ends)
        return float(low), float(high)

    return limits


def _acceleration(of_counts: Callable[[Array], Array], which: Array, groups: int) -> float:
    """How the metric's spread changes with its value: the skewness of what leaving one recording out does."""
    left_out = [
        of_counts((which != np.arange(at, min(at + DRAWS_AT_ONCE, groups))[:, None]) * 1.0)
        for at in range(0, groups, DRAWS_AT_ONCE)
    ]
    found = np.concatenate(left_out)
    found = found[np.isfinite(found)]
    pull = found.mean() - found
    size = float((pull**2).sum() ** 1.5)
    return float((pull**3).sum()) / (6 * size) if size else 0.0
