"""Sound event detection: time ranges in answers, event-based and segment-based F1, overlap.

The F1 scores are those of sed_eval's defaults: an event is found when its onset is within 0.2 s and its
offset within 0.2 s or half its length; segments are 1 s long.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lalm.evaluate.metrics.intervals import Array, Measured, additive, mean_of
from lalm.inference.reading import Span

COLLAR_S = 0.2
OFFSET_SHARE = 0.5
SEGMENT_S = 1.0
EDGE = 1e-9  # rounding of sums of decimals


def event_f1(said: Sequence[Sequence[Span]], wanted: Sequence[Sequence[Span]]) -> Measured:
    """Event-based F1 over all items (micro)."""
    rows = [(_pairs(mine, right), len(mine), len(right)) for mine, right in zip(said, wanted, strict=True)]
    return additive(rows, _f1)


def segment_f1(said: Sequence[Sequence[Span]], wanted: Sequence[Sequence[Span]]) -> Measured:
    """Segment-based F1 over all items (micro): which labels sound in which second."""
    rows = []
    for mine, right in zip(said, wanted, strict=True):
        a, b = _segments(mine), _segments(right)
        rows.append((len(a & b), len(a), len(b)))
    return additive(rows, _f1)


def mean_iou(said: Sequence[Sequence[Span]], wanted: Sequence[Sequence[Span]]) -> Measured:
    """Mean over items of the time that both say over the time that either says, labels left aside."""
    return mean_of([_iou(mine, right) for mine, right in zip(said, wanted, strict=True)])


def recall_at_iou(
    said: Sequence[Sequence[Span]], wanted: Sequence[Sequence[Span]], threshold: float
) -> Measured:
    """Share of items whose overlap reaches ``threshold`` (R@IoU)."""
    scores = [_iou(mine, right) >= threshold for mine, right in zip(said, wanted, strict=True)]
    return mean_of(np.asarray(scores, dtype=float))


def _f1(sums: Array) -> Array:
    """sums: (..., 3) found, said, wanted."""
    both = sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], both, out=np.zeros(both.shape), where=both > 0)


def _pairs(said: Sequence[Span], wanted: Sequence[Span]) -> int:
    """The most events that can be paired off, each with one that fits (augmenting paths)."""
    fits = [[j for j, mine in enumerate(said) if _fit(mine, right)] for right in wanted]
    taken: dict[int, int] = {}

    def place(i: int, seen: set[int]) -> bool:
        for j in fits[i]:
            if j not in seen:
                seen.add(j)
                if j not in taken or place(taken[j], seen):
                    taken[j] = i
                    return True
        return False

    return sum(place(i, set()) for i in range(len(wanted)))


def _fit(said: Span, wanted: Span) -> bool:
    slack = max(COLLAR_S, OFFSET_SHARE * (wanted[2] - wanted[1]))
    onset, offset = abs(said[1] - wanted[1]), abs(said[2] - wanted[2])
    return said[0] == wanted[0] and onset <= COLLAR_S + EDGE and offset <= slack + EDGE


def _segments(spans: Sequence[Span]) -> set[tuple[str, int]]:
    return {
        (label, second)
        for label, onset, offset in spans
        for second in range(math.floor(onset / SEGMENT_S), math.ceil(offset / SEGMENT_S))
    }


def _iou(said: Sequence[Span], wanted: Sequence[Span]) -> float:
    edges = sorted({edge for _, onset, offset in [*said, *wanted] for edge in (onset, offset)})
    both = either = 0.0
    for start, end in pairwise(edges):
        a = any(onset <= start and end <= offset for _, onset, offset in said)
        b = any(onset <= start and end <= offset for _, onset, offset in wanted)
        both += (end - start) * (a and b)
        either += (end - start) * (a or b)
    return both / either if either else 0.0
