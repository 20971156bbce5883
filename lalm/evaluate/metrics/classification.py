"""Classification metrics: accuracy, macro-F1, mean average precision."""

from collections.abc import Sequence

import numpy as np

from lalm.evaluate.metrics.intervals import Array, Measured, additive


def macro_f1(said: Sequence[str | None], wanted: Sequence[str]) -> Measured:
    """Mean over the classes of ``wanted`` of each class's F1; an answer that says no class helps none."""
    classes = sorted(set(wanted))
    place = {label: i for i, label in enumerate(classes)}
    table = np.zeros((len(wanted), 3, len(classes)))  # right, said, wanted
    for row, mine, right in zip(table, said, wanted, strict=True):
        row[2, place[right]] = 1
        if mine in place:
            row[1, place[mine]] = 1
            row[0, place[mine]] = mine == right

    def finish(sums: Array) -> Array:
        right, mine, true = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
        there = true > 0  # a draw may lack a class
        both = mine + true
        f1 = np.divide(2 * right, both, out=np.zeros_like(both), where=both > 0)
        count = there.sum(-1)
        return np.divide((f1 * there).sum(-1), count, out=np.zeros(count.shape), where=count > 0)

    return additive(table.reshape(len(table), -1), finish)


def mean_average_precision(scores: Array, wanted: Array) -> Measured:
    """Mean over classes of the average precision. scores: (items, classes); wanted: the same, 0 or 1.

    Equal scores are one threshold, as in scikit-learn. Classes without a positive item are left out.
    """
    ranked = [_ranked(scores[:, c], wanted[:, c] > 0) for c in range(scores.shape[1])]

    def of_counts(counts: Array) -> Array:
        total, classes = np.zeros(len(counts)), np.zeros(len(counts))
        times = np.ascontiguousarray(counts.T, dtype=np.float32)  # (items, draws): whole numbers, so exact
        drawn: Array = np.asarray(counts.any(0))
        for order, positive, ends in ranked:
            if not len(positive):
                continue
            if drawn.all():
                kept, places, stops = times[order], positive, ends
            else:  # items that no draw has are left out
                there = drawn[order]
                before = np.cumsum(there)
                kept, places = times[order[there]], before[positive[there[positive]]] - 1
                stops = before[ends] - 1
            right = np.cumsum(kept[places], 0)[np.searchsorted(places, stops, "right") - 1]
            right[np.searchsorted(places, stops, "right") == 0] = 0
            every = np.cumsum(kept, 0)[stops]  # (ends, draws)
            every[stops < 0] = 0
            if not len(stops):
                continue
            precision = np.divide(right, every, out=np.zeros(right.shape), where=every > 0)
            gained = np.diff(right, axis=0, prepend=0)
            positives = right[-1]
            found = (precision * gained).sum(0)
            total += np.divide(found, positives, out=np.zeros(len(counts)), where=positives > 0)
            classes += positives > 0
        return np.divide(total, classes, out=np.zeros(len(counts)), where=classes > 0)

    def of_items() -> Array:
        """How high an item's own classes stand among all: its average precision over classes."""
        found = np.zeros(len(scores))
        for i, (row, right) in enumerate(zip(scores, wanted > 0, strict=True)):
            above = np.array([(row >= value).sum() for value in row[right]])
            hits = np.array([(row[right] >= value).sum() for value in row[right]])
            found[i] = (hits / above).mean() if len(above) else 0.0
        return found

    return Measured(len(scores), of_counts, of_items)


def _ranked(scores: Array, wanted: Array) -> tuple[Array, Array, Array]:
    """Items from the highest score down, where among them the positive ones stand, and the last places of
    the equal scores that these share."""
    order = np.argsort(-scores, kind="stable")
    positive = np.flatnonzero(wanted[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    return order, positive, np.unique(last[np.searchsorted(last, positive)])
