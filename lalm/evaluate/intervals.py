"""95 % intervals by bootstrap over recordings: items about one recording are drawn together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval and what it rests on."""

    mean: float
    low: float
    high: float
    num_items: int
    num_recordings: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.num_items})"


def bootstrap(values: Sequence[float], recordings: Sequence[str], *, seed: int = 0) -> Interval:
    """Mean of ``values`` with a percentile interval, resampling recordings with replacement.

    For a paired comparison pass the per-item differences of two runs over the same items.
    """
    if len(values) != len(recordings) or not len(values):
        raise ValueError(
            f"{len(values)} values for {len(recordings)} recordings: need as many, and at least one"
        )
    names, which = np.unique(np.asarray(recordings), return_inverse=True)
    sums = np.bincount(which, weights=np.asarray(values, dtype=float))
    counts = np.bincount(which)
    draws = np.random.default_rng(seed).integers(0, len(names), (NUM_DRAWS, len(names)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(np.mean(values)), float(low), float(high), len(values), len(names))
