"""Sound event detection: event-based and segment-based F1, overlap.

The F1 scores are those of sed_eval's defaults: an event is found when its onset is within 0.2 s and its
offset within 0.2 s or half its length; segments are 1 s long. Limits are compared as sed_eval compares them:
without slack for rounding (0.9 s is more than 0.2 s from 0.7 s).
"""

import math
from collections.abc import Sequence

import numpy as np

from lalm.evaluate.metrics.intervals import Array, Measured, additive, mean_of, proportion
from lalm.inference.times import Span

COLLAR_S = 0.2
OFFSET_SHARE = 0.5
SEGMENT_S = 1.0


def event_f1(said: Sequence[Sequence[Span]], wanted: Sequence[Sequence[Span]]) -> Measured:
    """Event-based F1 over all items (micro); 1 where nothing sounds and nothing is claimed."""
    rows = [(_pairs(mine, right), len(mine), len(right)) for mine, right in zip(said, wanted, strict=True)]
    return additive(rows, _f1)


def segment_f1(said: Sequence[Sequence[Span]], wanted: Sequence[Sequence[Span]]) -> Measured:
    """Segment-based F1 over all items (micro): which labels sound in which second."""
    rows = []
    for mine, right in zip(said, wanted, strict=True):
        a, b = _segments(mine), _segments(right)
        both = sum(_shared(a[label], b[label]) for label in a.keys() & b.keys())
        rows.append((both, *(sum(_length(own) for own in side.values()) for side in (a, b))))
    return additive(rows, _f1)


def mean_iou(said: Sequence[Sequence[Span]], wanted: Sequence[Sequence[Span]]) -> Measured:
    """Mean over items of the time that both say over the time that either says, labels left aside."""
    scores = [_iou(mine, right) for mine, right in zip(said, wanted, strict=True)]
    return mean_of(scores, proportion=False)


def recall_at_iou(
    said: Sequence[Sequence[Span]], wanted: Sequence[Sequence[Span]], threshold: float
) -> Measured:
    """Share of items whose overlap reaches ``threshold`` (R@IoU)."""
    scores = [_iou(mine, right) >= threshold for mine, right in zip(said, wanted, strict=True)]
    return proportion(np.asarray(scores, dtype=float))


def _f1(sums: Array) -> Array:
    """sums: (..., 3) found, said, wanted."""
    both = sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], both, out=np.ones(both.shape), where=both > 0)


def _pairs(said: Sequence[Span], wanted: Sequence[Span]) -> int:
    """The most events that can be paired off, each with one that fits."""
    fits = np.array([[_fit(mine, right) for mine in said] for right in wanted], dtype=bool)
    if not fits.any():
        return 0
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    return int((maximum_bipartite_matching(csr_matrix(fits), "column") >= 0).sum())


def _fit(said: Span, wanted: Span) -> bool:
    slack = max(COLLAR_S, OFFSET_SHARE * (wanted[2] - wanted[1]))
    onset, offset = abs(said[1] - wanted[1]), abs(said[2] - wanted[2])
    return said[0] == wanted[0] and onset <= COLLAR_S and offset <= slack


def _segments(spans: Sequence[Span]) -> dict[str, list[tuple[float, float]]]:
    """By label the whole seconds in which it sounds, as ranges apart from each other."""
    found: dict[str, list[tuple[float, float]]] = {}
    for label, onset, offset in spans:
        seconds = float(math.floor(onset / SEGMENT_S)), float(math.ceil(offset / SEGMENT_S))
        found.setdefault(label, []).append(seconds)
    return {label: _joined(own) for label, own in found.items()}


def _joined(ranges: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same time as ranges in order that do not touch."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _length(ranges: Sequence[tuple[float, float]]) -> float:
    return sum(end - start for start, end in ranges)


def _shared(a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]) -> float:
    """The time that two lists of joined ranges have in common."""
    i = j = 0
    total = 0.0
    while i < len(a) and j < len(b):
        total += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] <= b[j][1]:
            i += 1
        else:
            j += 1
    return total


def _iou(said: Sequence[Span], wanted: Sequence[Span]) -> float:
    mine, right = (_joined([(onset, offset) for _, onset, offset in side]) for side in (said, wanted))
    both = _shared(mine, right)
    either = _length(mine) + _length(right) - both
    return both / either if either else 1.0  # nothing sounds and nothing is claimed
