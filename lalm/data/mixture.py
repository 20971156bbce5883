"""Manifests -> training batches: a fixed order, batches of like lengths, unreadable samples skipped by name.

Batch i of a run is a pure function of the manifests, the seed and i, so a run resumes at any step by asking
for the next i; nothing is replayed and no iterator is saved.
"""

import io
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soundfile
import torch
from torch.utils.data import Dataset
from transformers import BatchFeature

from lalm.audio import archives
from lalm.data.readers import Samples, open_samples
from lalm.data.sample import AudioPart, Sample
from lalm.models.packing import pack
from lalm.models.processing import AudioLMProcessor, CachedFrames, Clip

WINDOW_STEPS = 50  # samples of this many steps are sorted by length together
CHARACTERS_PER_TOKEN = 4  # rough, for sorting only
UNKNOWN_SECONDS = 10.0  # for sorting only, where a header does not tell
CHECKED_ROWS = 20_000  # a second or two of reading
NEIGHBOURS = 1000  # rows among which those of a stream are shuffled
SKIP_FRACTION, SKIP_FLOOR = 0.01, 20

Draw: TypeAlias = Callable[[np.random.Generator], np.ndarray]  # audio (N,) of another sample
Audios: TypeAlias = Sequence[Clip | CachedFrames]  # of one sample, in reading order

logger = logging.getLogger("lalm.data.mixture")


class DataError(ValueError):
    """Training data that cannot be used; the text names the file or the sample."""

    def __init__(self, text: str) -> None:
        # From a loader process torch hands it on with a traceback in its text: the last line is the sentence.
        super().__init__(text.strip().splitlines()[-1].removeprefix(f"{__name__}.DataError: "))


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


def open_manifest(path: str | Path) -> Samples:
    """The samples at a path, read when asked for; see ``lalm.data.readers.open_samples``.

    Up to ``CHECKED_ROWS`` rows are all read once now, so that a line that is no sample stops a run before it
    begins, by its number. Of larger ones ``lalm data validate`` says it. Raises a ValueError naming the file.
    """
    samples = open_samples(path)
    if not len(samples):
        raise DataError(f"'{path}' holds no samples")
    if len(samples) <= CHECKED_ROWS and not samples.heavy:
        for _ in samples:
            pass
    return samples


def _in_order(samples: Sequence[Sample]) -> bool:
    return isinstance(samples, Samples) and samples.in_order


def subset(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most ``count`` samples spread evenly over the sequence."""
    return [samples[i] for i in _spread(len(samples), count)]


def held_out(paths: Sequence[str | Path], count: int) -> list[Sample]:
    """At most ``count`` samples spread evenly over several manifests."""
    sources = [open_manifest(path) for path in paths]
    firsts = np.cumsum([0, *(len(source) for source in sources)])
    places = _spread(int(firsts[-1]), count)
    numbers = np.searchsorted(firsts, places, side="right") - 1
    return [sources[n][int(i - firsts[n])] for n, i in zip(numbers, places, strict=True)]


def _spread(total: int, count: int) -> list[int]:
    return list(range(total)) if total <= count else [i * total // count for i in range(count)]


class Mixture:
    """Weighted sources in one endless, shuffled order, cut into steps and batches.

    Per epoch every sample is seen ``weight`` times (a fraction: another part of the source each epoch).
    A step holds ``batch_size * parts`` samples of like length and falls into ``parts`` batches, so which
    samples share a step does not depend on how the step is split. The last step of an epoch is filled up
    from the epoch's beginning. ``length`` estimates the tokens of a sample; each is asked once.
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
        self._lengths = [np.full(len(samples), np.nan, np.float32) for samples in self.sources]
        self._shares = [max(1, round(len(samples) * weight)) for samples, weight in sources]
        step = batch_size * parts
        self.steps_per_epoch = -(-sum(self._shares) // step)
        self._places = self.steps_per_epoch * step  # of an epoch
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

    def steps_in(self, epochs: float) -> int:
        """Steps of so many epochs."""
        return math.ceil(epochs * self.steps_per_epoch)

    def _tokens(self, source: int, row: int) -> float:
        """Estimated tokens of a sample; 0 for one that cannot be read, which whoever reads it will say."""
        known = float(self._lengths[source][row])
        if math.isnan(known):
            try:
                known = self._length(self.sources[source][row])
            except ValueError:
                known = 0.0
            self._lengths[source][row] = known
        return known

    def _order(self, epoch: int) -> np.ndarray:
        """(source, row) of every place of the epoch, shuffled and filled to whole steps: (places, 2)."""
        if self._epoch is not None and self._epoch[0] == epoch:
            return self._epoch[1]
        parts = []
        for number, (samples, share) in enumerate(zip(self.sources, self._shares, strict=True)):
            cycle = np.random.default_rng([self.seed, 0, number]).permutation(len(samples))
            if _in_order(samples):
                cycle = np.arange(len(samples))
            rows = cycle[np.arange(epoch * share, (epoch + 1) * share) % len(samples)]
            parts.append(np.stack([np.full(share, number), rows], axis=1))
        places = np.concatenate(parts)
        rng = np.random.default_rng([self.seed, 1, epoch])
        if any(_in_order(samples) for samples in self.sources):
            when = [self._moments(number, len(part), rng) for number, part in enumerate(parts)]
            places = places[np.argsort(np.concatenate(when), kind="stable")]
        else:
            places = rng.permutation(places)
        places = places[np.arange(self._places) % len(places)]
        self._epoch = (epoch, places)
        return places

    def _moments(self, number: int, share: int, rng: np.random.Generator) -> np.ndarray:
        """When in the epoch (0 to 1) the samples of a source come, (share,); some keep their order nearly."""
        if not _in_order(self.sources[number]):
            return rng.random(share)
        return (np.arange(share) + NEIGHBOURS * rng.random(share)) / (share + NEIGHBOURS)

    def _steps(self, epoch: int, window: int) -> list[np.ndarray]:
        """The steps of one window: sorted by length, cut, and put back in a shuffled order."""
        if self._window is not None and self._window[0] == (epoch, window):
            return self._window[1]
        step = self.batch_size * self.parts
        places = self._order(epoch)[window * WINDOW_STEPS * step : (window + 1) * WINDOW_STEPS * step]
        lengths = [self._tokens(source, row) for source, row in places]
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
        return Batch(self, index, self.mixture.keys(index))


class Collator:
    """Batches -> tensors with labels: by ``render(samples, audios)``, else ``AudioLMProcessor.batch``.

    ``read`` gives the audios of a sample (decoded, or frames from a cache), which ``augment`` changes in
    training; ``packing`` puts its rows behind one another. A sample that cannot be read or rendered is left
    out, counted and named in the log; a batch with none left becomes the next batch of its mixture. More than
    1 % of a mixture's samples (and more than 20) unreadable raises DataError; the loader processes of one
    training process count together.
    """

    def __init__(
        self,
        processor: AudioLMProcessor,
        read: Callable[[Sample], Audios],
        render: Callable[[Sequence[Sample], Sequence[Audios]], BatchFeature] | None = None,
        augment: Callable[[Audios, np.random.Generator, Draw], Audios] | None = None,
        packing: bool = False,
    ) -> None:
        self._read, self._augment, self._packing = read, augment, packing
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
    elif isinstance(source, str | Path) and (inside := archives.split(source)):
        try:
            seconds = float(soundfile.info(io.BytesIO(archives.read(*inside))).duration)
        except (soundfile.LibsndfileError, ValueError):
            seconds = UNKNOWN_SECONDS
    elif isinstance(source, str | Path) and not str(source).startswith("data:"):
        try:
            seconds = float(soundfile.info(str(source)).duration)
        except (soundfile.LibsndfileError, OSError):
            seconds = UNKNOWN_SECONDS
    else:
        seconds = UNKNOWN_SECONDS
    return max(0.0, seconds - float(part.get("offset_s", 0.0)))
