"""Per-source batches: every batch holds samples of one manifest, and the manifests take turns.

The manifests take turns in a random order, each in proportion to its samples; within one, samples of similar
length are batched together, as in ``lalm.data.mixture.Mixture``.
"""

from collections.abc import Callable, Sequence

import numpy as np

from lalm.data.mixture import WINDOW_STEPS, Mixture
from lalm.data.sample import Sample


class PerSourceMixture(Mixture):
    """A mixture whose every ``group`` samples are of one source; a step holds ``batch_size * parts``.

    ``group`` is the batch of a run in one process, so how a step is split does not change it. Per epoch every
    sample is seen ``weight`` times; each source is filled up to whole groups, the epoch to whole steps.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[Sample], float]],
        length: Callable[[Sample], float],
        group: int,
        *,
        batch_size: int,
        parts: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(sources, length, batch_size=batch_size, parts=parts, seed=seed)
        self.group = group
        self._groups = [-(-share // group) for share in self._shares]  # of an epoch
        self._in_step = max(1, batch_size * parts // group)
        self.steps_per_epoch = -(-sum(self._groups) // self._in_step)
        self._turns: tuple[int, np.ndarray] = (-1, np.empty(0))
        self._ready: dict[int, tuple[tuple[int, int], np.ndarray]] = {}  # source -> (epoch, window), groups

    def keys(self, index: int) -> tuple[tuple[int, int], ...]:
        """(source, row) of the samples of batch ``index`` >= 0 in the endless sequence."""
        step, part = divmod(index, self.parts)
        epoch, step = divmod(step, self.steps_per_epoch)
        turns = self._order_of(epoch)[step * self._in_step : (step + 1) * self._in_step]
        keys = [(int(s), int(row)) for s, number in turns for row in self._rows(epoch, int(s), int(number))]
        return tuple(keys[part * self.batch_size : (part + 1) * self.batch_size])

    def _order_of(self, epoch: int) -> np.ndarray:
        """(source, number) of every group of the epoch, (groups, 2), padded with its first groups."""
        if self._turns[0] != epoch:
            drawn = np.random.default_rng([self.seed, 1, epoch])
            turns = drawn.permutation(np.repeat(np.arange(len(self.sources)), self._groups))
            numbers = np.zeros(len(turns), int)
            for source in range(len(self.sources)):
                numbers[turns == source] = np.arange(self._groups[source])
            places = np.arange(self.steps_per_epoch * self._in_step) % len(turns)
            self._turns = (epoch, np.stack([turns, numbers], axis=1)[places])
        return self._turns[1]

    def _rows(self, epoch: int, source: int, number: int) -> np.ndarray:
        """Rows of one group: a window of the source's order, sorted by length, cut into groups, shuffled."""
        window, place = divmod(number, WINDOW_STEPS)
        if source not in self._ready or self._ready[source][0] != (epoch, window):
            share, total = self._shares[source], len(self.sources[source])
            cycle = np.random.default_rng([self.seed, 0, source]).permutation(total)
            places = np.arange(self._groups[source] * self.group) % share  # padded with its first samples
            size = WINDOW_STEPS * self.group
            rows = cycle[(epoch * share + places[window * size : (window + 1) * size]) % total]
            tokens = [self._tokens(source, int(row)) for row in rows]
            groups = rows[np.argsort(tokens, kind="stable")].reshape(-1, self.group)
            order = np.random.default_rng([self.seed, 2, epoch, source, window]).permutation(len(groups))
            self._ready[source] = ((epoch, window), groups[order])
        return self._ready[source][1][place]
