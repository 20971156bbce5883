"""Manifests -> training batches: a fixed order, batches of like lengths, unreadable samples skipped by name.

Batch i of a run is a pure function of the manifests, the seed and i, so a run resumes at any step by asking
for the next i; nothing is replayed and no iterator is saved.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soundfile
import torch
from torch.utils.data import Dataset
from transformers import BatchFeature

from lalm.processing import AudioLMProcessor, CachedFrames, Clip
from lalm.sample import AudioPart, Sample, read_manifest

WINDOW_STEPS = 50  # samples of this many steps are sorted by length together
CHARACTERS_PER_TOKEN = 4  # rough, for sorting only
UNKNOWN_SECONDS = 10.0  # for sorting only, where a header does not tell
SKIP_FRACTION, SKIP_FLOOR = 0.01, 20

Audios: TypeAlias = Sequence[Clip | CachedFrames]  # of one sample, in reading order

logger = logging.getLogger("lalm.data")


class DataError(ValueError):
    """Training data that cannot be used; the text names the file or the sample."""


@dataclass(frozen=True)
class Batch:
    """Samples that are padded together, with their (source, row) numbers; number ``index`` of ``origin``."""

    origin: "Batches"
    index: int
    keys: tuple[tuple[int, int], ...]
    samples: tuple[Sample, ...]


def open_manifest(path: str | Path) -> list[Sample]:
    """All samples of one manifest. Raises a ValueError naming the file, and the line where one is wrong."""
    if not Path(path).is_file():
        raise DataError(f"there is no manifest '{path}'")
    samples = list(read_manifest(path))
    if not samples:
        raise DataError(f"'{path}' holds no samples")
    return samples


def subset(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most ``count`` samples spread evenly over the sequence."""
    if len(samples) <= count:
        return list(samples)
    return [samples[i * len(samples) // count] for i in range(count)]


class Mixture:
    """Weighted sources in one endless, shuffled order, cut into steps and batches.

    Per epoch every sample is seen ``weight`` times (a fraction: another part of the source each epoch).
    A step holds ``batch_size * parts`` samples of like length and falls into ``parts`` batches, so which
    samples share a step does not depend on how the step is split. The last step of an epoch is filled up
    from the epoch's beginning. ``length`` estimates the tokens of a sample.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[Sample], float]],
        length: Callable[[Sample], float],
        *,
        batch_size: int,
        parts: int = 1,
        seed: int = 0,
    ) -> None:
        self.sources = [samples for samples, _ in sources]
        self.batch_size, self.parts, self.seed = batch_size, parts, seed
        self._length = length
        self._shares = [max(1, round(len(samples) * weight)) for samples, weight in sources]
        step = batch_size * parts
        self.steps_per_epoch = -(-sum(self._shares) // step)
        # (num_samples,) bool: found unreadable. Shared memory, so loader processes count together.
        self.unreadable = torch.zeros(self.num_samples, dtype=torch.bool).share_memory_()
        self._first = np.cumsum([0, *(len(samples) for samples in self.sources)])
        self._epoch: tuple[int, np.ndarray] | None = None
        self._window: tuple[tuple[int, int], list[np.ndarray]] | None = None

    @property
    def num_samples(self) -> int:
        """Different samples in all sources."""
        return sum(len(samples) for samples in self.sources)

    def number(self, key: tuple[int, int]) -> int:
        """Place of a (source, row) among all samples."""
        return int(self._first[key[0]]) + key[1]

    def keys(self, index: int) -> tuple[tuple[int, int], ...]:
        """(source, row) of the samples of batch ``index`` >= 0 of the endless order."""
        step, part = divmod(index, self.parts)
        epoch, step = divmod(step, self.steps_per_epoch)
        window, offset = divmod(step, WINDOW_STEPS)
        rows = self._steps(epoch, window)[offset][part * self.batch_size : (part + 1) * self.batch_size]
        return tuple((int(source), int(row)) for source, row in rows)

    def _order(self, epoch: int) -> np.ndarray:
        """(source, row) of every place of the epoch, shuffled and filled to whole steps: (places, 2)."""
        if self._epoch is not None and self._epoch[0] == epoch:
            return self._epoch[1]
        parts = []
        for number, (samples, share) in enumerate(zip(self.sources, self._shares, strict=True)):
            cycle = np.random.default_rng([self.seed, 0, number]).permutation(len(samples))
            rows = cycle[np.arange(epoch * share, (epoch + 1) * share) % len(samples)]
            parts.append(np.stack([np.full(share, number), rows], axis=1))
        places = np.concatenate(parts)
        places = np.random.default_rng([self.seed, 1, epoch]).permutation(places)
        size = self.steps_per_epoch * self.batch_size * self.parts
        places = places[np.arange(size) % len(places)]
        self._epoch = (epoch, places)
        return places

    def _steps(self, epoch: int, window: int) -> list[np.ndarray]:
        """The steps of one window: sorted by length, cut, and put back in a shuffled order."""
        if self._window is not None and self._window[0] == (epoch, window):
            return self._window[1]
        step = self.batch_size * self.parts
        places = self._order(epoch)[window * WINDOW_STEPS * step : (window + 1) * WINDOW_STEPS * step]
        lengths = [self._length(self.sources[source][row]) for source, row in places]
        places = places[np.argsort(lengths, kind="stable")]
        steps = list(places.reshape(-1, step, 2))
        order = np.random.default_rng([self.seed, 2, epoch, window]).permutation(len(steps))
        steps = [steps[i] for i in order]
        self._window = ((epoch, window), steps)
        return steps


class Batches(Dataset[Batch]):
    """The first ``count`` batches of a mixture, for a DataLoader that reads them in order, one at a time.

    ``purpose`` ("training", "validation") stands in messages about its samples.
    """

    def __init__(self, mixture: Mixture, count: int, purpose: str = "training") -> None:
        self.mixture, self.count, self.purpose = mixture, count, purpose

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        keys = self.mixture.keys(index)
        samples = tuple(self.mixture.sources[source][row] for source, row in keys)
        return Batch(self, index, keys, samples)


class Collator:
    """Batches -> tensors with labels: by ``render(samples, audios)``, else ``AudioLMProcessor.batch``.

    ``read`` gives the audios of a sample (decoded, or frames from a cache). A sample that cannot be read or
    rendered is left out, counted and named in the log; a batch with none left becomes the next batch of its
    mixture. More than 1 % of a mixture's samples (and more than 20) unreadable raises DataError; the loader
    processes of one training process count together.
    """

    def __init__(
        self,
        processor: AudioLMProcessor,
        read: Callable[[Sample], Audios],
        render: Callable[[Sequence[Sample], Sequence[Audios]], BatchFeature] | None = None,
    ) -> None:
        self._read = read
        self._render = render or (
            lambda samples, audios: processor.batch(samples, labels=True, audios=audios)
        )
        self.skipped: dict[str, dict[tuple[int, int], str]] = {}  # purpose -> key -> what is wrong

    def __call__(self, batches: Sequence[Batch]) -> BatchFeature:
        (batch,) = batches  # the DataLoader's own batch size is 1
        origin = batch.origin
        for shift in range(len(origin) + 1):
            candidate = batch if not shift else origin[(batch.index + shift) % len(origin)]
            tensors = self._tensors(candidate)
            if tensors is not None:
                return tensors
        known = self.skipped.get(origin.purpose) or {(0, 0): "another loader process has named it"}
        last = next(reversed(known.values()))
        raise DataError(f"none of the {origin.purpose} samples can be read; the last problem: {last}")

    def _tensors(self, batch: Batch) -> BatchFeature | None:
        samples: list[Sample] = []
        audios: list[Audios] = []
        places: list[int] = []
        for place, (key, sample) in enumerate(zip(batch.keys, batch.samples, strict=True)):
            if batch.origin.mixture.unreadable[batch.origin.mixture.number(key)]:
                continue
            try:
                audios.append(self._read(sample))
            except (ValueError, OSError) as error:
                self._skip(batch, place, error)
                continue
            samples.append(sample)
            places.append(place)
        if not samples:
            return None
        try:
            return self._render(samples, audios)
        except ValueError:
            good = self._renderable(batch, places, audios)
        if not good:
            return None
        return self._render([samples[i] for i in good], [audios[i] for i in good])

    def _renderable(self, batch: Batch, places: Sequence[int], audios: Sequence[Audios]) -> list[int]:
        """Which of the samples at ``places`` of the batch can be rendered, tried one by one."""
        good = []
        for i, place in enumerate(places):
            try:
                self._render([batch.samples[place]], [audios[i]])
                good.append(i)
            except ValueError as error:
                self._skip(batch, place, error)
        return good

    def _skip(self, batch: Batch, place: int, error: Exception) -> None:
        purpose, mixture = batch.origin.purpose, batch.origin.mixture
        total = mixture.num_samples
        sample = batch.samples[place]
        what = f"{sample.id}: {error}" if sample.id and not str(error).startswith(sample.id) else str(error)
        self.skipped.setdefault(purpose, {})[batch.keys[place]] = what
        mixture.unreadable[mixture.number(batch.keys[place])] = True
        count = int(mixture.unreadable.sum())
        logger.warning("skipped a %s sample (%d so far): %s", purpose, count, what)
        limit = max(SKIP_FLOOR, int(SKIP_FRACTION * total))
        if count > limit:
            raise DataError(
                f"{count} of {total} {purpose} samples cannot be read (limit {limit}); the last: {what}"
            )


def text_tokens(sample: Sample) -> float:
    """Roughly how many text tokens the conversation has."""
    characters = 0
    for message in sample.messages:
        content = message["content"]
        if isinstance(content, str):
            characters += len(content)
        else:
            characters += sum(len(part["text"]) for part in content if part["type"] == "text")
    return characters / CHARACTERS_PER_TOKEN


def audio_seconds(part: AudioPart) -> float:
    """Roughly how long an audio part is, in seconds, from the manifest or the file's header."""
    if "duration_s" in part:
        return float(part["duration_s"])
    source = part["audio"]
    if isinstance(source, np.ndarray):
        seconds = len(source) / float(part.get("rate", 16_000))
    elif isinstance(source, str | Path) and not str(source).startswith("data:"):
        try:
            seconds = float(soundfile.info(str(source)).duration)
        except (soundfile.LibsndfileError, OSError):
            seconds = UNKNOWN_SECONDS
    else:
        seconds = UNKNOWN_SECONDS
    return max(0.0, seconds - float(part.get("offset_s", 0.0)))
