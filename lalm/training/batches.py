"""Batches of a mixture -> tensors with labels; samples that cannot be read are skipped by name."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import BatchFeature

from lalm.data.audio_inputs import Audios, Clip
from lalm.data.mixture import DataError, Mixture
from lalm.data.sample import Sample
from lalm.models.packing import pack
from lalm.models.processing import AudioLMProcessor
from lalm.training.text_replay import ROWS

SKIP_FRACTION, SKIP_FLOOR = 0.01, 20

Draw: TypeAlias = Callable[[np.random.Generator], np.ndarray]  # audio (N,) of another sample

Augment: TypeAlias = Callable[[Audios, np.random.Generator, Draw], Audios]

logger = logging.getLogger("lalm.training.batches")


@dataclass(frozen=True)
class Batch:
    """(source, row) numbers of the samples that are padded together; number ``index`` of ``origin``."""

    origin: "Batches"
    index: int
    keys: tuple[tuple[int, int], ...]

    def sample(self, place: int) -> Sample:
        """The sample at a place of the batch, read now. Raises a ValueError naming its line."""
        source, row = self.keys[place]
        return self.origin.mixture.sources[source][row]

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(self.sample(place) for place in range(len(self.keys)))


class Batches(Dataset[Batch]):
    """The first ``count`` batches of a mixture, for a DataLoader that reads them in order, one at a time.

    ``purpose`` ("training", "validation") stands in messages about its samples.
    """

    def __init__(self, mixture: Mixture, count: int, purpose: str = "training") -> None:
        self.mixture, self.count, self.purpose = mixture, count, purpose

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        return Batch(self, index, self.mixture.keys(index))


class Collator:
    """Batches -> tensors with labels: by ``render(samples, audios)``, else ``AudioLMProcessor.batch``.

    ``read`` gives the audios of a sample (decoded, or frames from a cache), which ``augment`` changes in
    training; ``packing`` puts its rows behind one another, and ``replay`` tells which are text alone. A
    sample that cannot be read or rendered is left out, counted and named; a batch with none left becomes
    the next batch of its mixture. More than 1 % of a mixture's samples (and more than 20) unreadable raises
    DataError; the loader processes of one training process count together.
    """

    def __init__(
        self,
        processor: AudioLMProcessor,
        read: Callable[[Sample], Audios],
        render: Callable[[Sequence[Sample], Sequence[Audios]], BatchFeature] | None = None,
        augment: Augment | None = None,
        packing: bool = False,
        replay: bool = False,
    ) -> None:
        self._read, self._augment, self._packing = read, augment, packing

        def conversations(samples: Sequence[Sample], audios: Sequence[Audios]) -> BatchFeature:
            batch = processor.batch(samples, labels=True, audios=audios)
            if replay:
                batch[ROWS] = torch.tensor([not clips for clips in audios])
            return batch

        self._render = render or conversations
        self.skipped: dict[str, dict[tuple[int, int], str]] = {}  # purpose -> key -> what is wrong

    def __call__(self, batches: Sequence[Batch]) -> BatchFeature:
        (batch,) = batches  # the DataLoader's own batch size is 1
        origin = batch.origin
        for shift in range(len(origin) + 1):
            candidate = batch if not shift else origin[(batch.index + shift) % len(origin)]
            tensors = self._tensors(candidate)
            if tensors is not None:
                return pack(tensors) if self._packing and origin.purpose == "training" else tensors
        known = self.skipped.get(origin.purpose) or {(0, 0): "another loader process has named it"}
        last = next(reversed(known.values()))
        raise DataError(f"none of the {origin.purpose} samples can be read; the last problem: {last}")

    def _tensors(self, batch: Batch) -> BatchFeature | None:
        samples: list[Sample] = []
        audios: list[Audios] = []
        places: list[int] = []
        for place, key in enumerate(batch.keys):
            if batch.origin.mixture.unreadable[batch.origin.mixture.number(key)]:
                continue
            name = ""
            try:
                sample = batch.sample(place)
                name = sample.id
                audios.append(self._heard(batch, place, sample))
                accounts = [one.account for one in audios[-1] if isinstance(one, Clip) and one.account]
                if accounts:
                    batch.origin.mixture.heard(key, accounts)
            except (ValueError, OSError) as error:
                self._skip(batch, place, name, error)
                continue
            samples.append(sample)
            places.append(place)
        if not samples:
            return None
        try:
            return self._render(samples, audios)
        except ValueError:
            good = self._renderable(batch, places, samples, audios)
        if not good:
            return None
        return self._render([samples[i] for i in good], [audios[i] for i in good])

    def _heard(self, batch: Batch, place: int, sample: Sample) -> Audios:
        """The audios of a sample, augmented in training; what is drawn depends on seed and place alone."""
        audios = self._read(sample)
        if self._augment is None or batch.origin.purpose != "training":
            return audios
        mixture = batch.origin.mixture
        rng = np.random.default_rng([mixture.seed, 3, batch.index, place])
        return self._augment(audios, rng, lambda rng: self._other(mixture, rng))

    def _other(self, mixture: Mixture, rng: np.random.Generator) -> np.ndarray:
        """Audio (N,) of some sample of the mixture; nothing of one that cannot be read, or has none."""
        source = mixture.sources[rng.integers(len(mixture.sources))]
        try:
            clips = self._read(source[int(rng.integers(len(source)))])
        except (ValueError, OSError):
            clips = ()
        return next((clip.audio for clip in clips if isinstance(clip, Clip)), np.zeros(0, np.float32))

    def _renderable(
        self, batch: Batch, places: Sequence[int], samples: Sequence[Sample], audios: Sequence[Audios]
    ) -> list[int]:
        """Which of the samples at ``places`` of the batch can be rendered, tried one by one."""
        good = []
        for i, place in enumerate(places):
            try:
                self._render([samples[i]], [audios[i]])
                good.append(i)
            except ValueError as error:
                self._skip(batch, place, samples[i].id, error)
        return good

    def _skip(self, batch: Batch, place: int, name: str, error: Exception) -> None:
        purpose, mixture = batch.origin.purpose, batch.origin.mixture
        total = mixture.num_samples
        what = f"{name}: {error}" if name and not str(error).startswith(name) else str(error)
        self.skipped.setdefault(purpose, {})[batch.keys[place]] = what
        mixture.unreadable[mixture.number(batch.keys[place])] = True
        count = int(mixture.unreadable.sum())
        logger.warning("skipped a %s sample (%d so far): %s", purpose, count, what)
        limit = max(SKIP_FLOOR, int(SKIP_FRACTION * total))
        if count > limit:
            raise DataError(
                f"{count} of {total} {purpose} samples cannot be read (limit {limit}); the last: {what}"
            )
