"""Batches of variable size: up to a number of padded tokens or seconds instead of a number of samples.

A window of the epoch's shuffled order is sorted by length and cut where a batch would pass a limit; the
batches of a step lie side by side in that order, and the steps of the window are shuffled. Where a step lies
depends on how many the windows before it gave, which is found once and remembered.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lalm.data.mixture import Mixture, audio_seconds
from lalm.data.sample import Sample

WINDOW_SAMPLES = 4096


@dataclass(frozen=True)
class Limits:
    """What a padded batch may hold: its samples times the longest one's tokens, or seconds of audio.

    A single sample that is longer than a limit is a batch of its own.
    """

    tokens: float | None = None
    seconds: float | None = None


class PackedMixture(Mixture):
    """A mixture whose batches obey ``limits``; ``batch_size`` is the most samples of one."""

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[Sample], float]],
        length: Callable[[Sample], float],
        limits: Limits,
        *,
        batch_size: int,
        parts: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(sources, length, batch_size=batch_size, parts=parts, seed=seed)
        self.limits = limits
        self._places = sum(self._shares)
        self._seconds = [np.full(len(samples), np.nan, np.float32) for samples in self.sources]
        self._windows = -(-self._places // WINDOW_SAMPLES)  # of an epoch
        self._ends: list[int] = []  # steps from the beginning to the end of each window
        self._packed: tuple[int, list[list[np.ndarray]]] = (-1, [])
        # Judged by the first window: exact would mean to know the length of everything.
        first = len(self._pack(0))
        self.steps_per_epoch = max(1, round(first * self._places / min(self._places, WINDOW_SAMPLES)))

    def steps_in(self, epochs: float) -> int:
        """Steps of so many epochs, counted: every length of an epoch is looked up once."""
        whole, rest = divmod(epochs, 1)
        while len(self._ends) < self._windows * (whole + (rest > 0)):
            self._extend()
        before = self._ends[int(whole) * self._windows - 1] if whole else 0
        last = self._ends[int(whole + 1) * self._windows - 1] - before if rest else 0
        return before + int(np.ceil(rest * last))

    def keys(self, index: int) -> tuple[tuple[int, int], ...]:
        """(source, row) of the samples of batch ``index`` >= 0 of the endless order."""
        step, part = divmod(index, self.parts)
        while not self._ends or self._ends[-1] <= step:
            self._extend()
        window = bisect.bisect_right(self._ends, step)
        first = self._ends[window - 1] if window else 0
        rows = self._pack(window)[step - first][part]
        return tuple((int(source), int(row)) for source, row in rows)

    def _extend(self) -> None:
        """Find how many steps the next window gives."""
        before = self._ends[-1] if self._ends else 0
        self._ends.append(before + len(self._pack(len(self._ends))))

    def _pack(self, window: int) -> list[list[np.ndarray]]:
        """The steps of a window, each a list of ``parts`` batches (samples, 2)."""
        if self._packed[0] == window:
            return self._packed[1]
        epoch, at = divmod(window, self._windows)
        places = self._order(epoch)[at * WINDOW_SAMPLES : (at + 1) * WINDOW_SAMPLES]
        tokens = np.array([self._tokens(source, row) for source, row in places])
        seconds = np.array([self._heard_s(source, row) for source, row in places])
        order = np.argsort(tokens, kind="stable")
        cuts = self._cuts(tokens[order], seconds[order])
        batches = [places[order[a:b]] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
        _fill(batches, self.parts)
        steps = [batches[i : i + self.parts] for i in range(0, len(batches), self.parts)]
        shuffled = np.random.default_rng([self.seed, 2, epoch, at]).permutation(len(steps))
        self._packed = (window, [steps[i] for i in shuffled])
        return self._packed[1]

    def _cuts(self, tokens: np.ndarray, seconds: np.ndarray) -> list[int]:
        """Where a new batch begins, over samples sorted by tokens."""
        cuts, first, longest_s = [], 0, 0.0
        for at in range(len(tokens)):
            count = at - first + 1
            longest_s = max(longest_s, float(seconds[at]))
            full = count > self.batch_size
            full |= self.limits.tokens is not None and count * tokens[at] > self.limits.tokens
            full |= self.limits.seconds is not None and count * longest_s > self.limits.seconds
            if full and count > 1:
                cuts.append(at)
                first, longest_s = at, float(seconds[at])
        return cuts

    def _heard_s(self, source: int, row: int) -> float:
        """Seconds of audio of a sample; 0 without a limit on them, or when it cannot be read."""
        if self.limits.seconds is None:
            return 0.0
        known = float(self._seconds[source][row])
        if np.isnan(known):
            try:
                known = sum(audio_seconds(part) for part in self.sources[source][row].audios)
            except ValueError:
                known = 0.0
            self._seconds[source][row] = known
        return known


def _fill(batches: list[np.ndarray], parts: int) -> None:
    """Bring the number of batches to a multiple of ``parts``: halve the largest, then repeat the first."""
    while len(batches) % parts:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        rows = batches[largest]
        if len(rows) == 1:
            batches.append(batches[0])
        else:
            batches[largest : largest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
