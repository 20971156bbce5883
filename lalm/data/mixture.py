"""Mixes manifests into training batches: fixed order, similar lengths together, unreadable samples skipped.

Batch i of a run is a pure function of the manifests, the seed and i, so a run resumes at any step by asking
for the next i; nothing is replayed and no iterator is saved.
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from lalm.audio import archives
from lalm.audio.account import Account, Tally
from lalm.audio.load import SAMPLE_RATE, load_audio, seconds
from lalm.data.readers import Reading, Samples, open_samples
from lalm.data.sample import AudioPart, Message, Part, Sample, write_manifest
from lalm.errors import LalmError

WINDOW_STEPS = 50  # samples of this many steps are sorted by length together
CHARACTERS_PER_TOKEN = 4  # rough, for sorting only
UNKNOWN_SECONDS = 10.0  # for sorting only, where a header does not tell
CHECKED_ROWS = 20_000  # a second or two of reading
READ, NOTED, DAMAGED, SILENT = 1, 2, 4, 8  # what is marked of a sample that was heard
NEIGHBOURS = 1000  # rows among which those of a stream are shuffled


class DataError(LalmError, ValueError):
    """Training data that cannot be used; the text names the file or the sample."""

    def __init__(self, text: str) -> None:
        # From a loader process torch hands it on with a traceback in its text: the last line is the sentence.
        super().__init__(text.strip().splitlines()[-1].removeprefix(f"{__name__}.DataError: "))


def open_manifest(path: str | Path, reading: Reading | None = None) -> Samples:
    """The samples of a SOURCE, read when asked for; see ``lalm.data.readers.open_samples``.

    Up to ``CHECKED_ROWS`` rows are all read once now, so that a line that is no sample stops a run before it
    begins, by its number. Of larger ones ``lalm data validate`` says it. Raises a ValueError naming the file.
    """
    samples = open_samples(path, reading)
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


def held_out(sources: Sequence[Samples], count: int) -> list[Sample]:
    """At most ``count`` samples spread evenly over several manifests."""
    firsts = np.cumsum([0, *(len(source) for source in sources)])
    places = _spread(int(firsts[-1]), count)
    numbers = np.searchsorted(firsts, places, side="right") - 1
    return [sources[n][int(i - firsts[n])] for n, i in zip(numbers, places, strict=True)]


def join_manifests(
    paths: Sequence[Path],
    out: Path,
    *,
    only: Sequence[str] = (),
    ask: str = "",
    most: int | None = None,
    seed: int = 0,
) -> int:
    """Write the samples of all manifests, or ``most`` of them drawn by ``seed``, in their order as ``out``;
    returns their number. ``only``: those with one of these values, "task=what,speech" or "origin.kind=bed".
    ``ask``: the text of the last user turn, in place of its own ("{task}" is the sample's task). Paths of
    recordings are made to hold from where ``out`` is, and an id that an earlier manifest has too gets the
    number of its own behind it ("caption-17-3").

    Raises a ValueError naming the file that is no manifest, and DataError where no sample is left.
    """
    sources = [open_manifest(path) for path in paths]
    wanted = [_values(condition) for condition in only]
    kept = np.array(
        [all(_value(s, key) in own for key, own in wanted) for source in sources for s in source], bool
    )
    if not kept.any():
        raise DataError(f"no sample has {' and '.join(only)}")
    places = np.flatnonzero(kept)
    if most is not None and most < len(places):
        kept[places[np.random.default_rng(seed).permutation(len(places))[most:]]] = False
    samples = (sample for sample, keep in zip(_apart(sources), kept, strict=True) if keep)
    return write_manifest(out, (_asked(sample, ask) if ask else sample for sample in samples))


def _asked(sample: Sample, text: str) -> Sample:
    """The sample with another text in its last user turn, behind the turn's recordings."""
    at = max(i for i, message in enumerate(sample.messages) if message["role"] == "user")
    content = sample.messages[at]["content"]
    heard = [] if isinstance(content, str) else [part for part in content if part["type"] != "text"]
    said: Part = {"type": "text", "text": text.replace("{task}", sample.task)}
    turn: Message = {"role": "user", "content": [*heard, said]}
    return replace(sample, messages=(*sample.messages[:at], turn, *sample.messages[at + 1 :]))


def _values(condition: str) -> tuple[str, tuple[str, ...]]:
    """What a condition such as "origin.kind=bed,sequence" asks: the key and its values."""
    key, equals, values = condition.partition("=")
    if not equals or not values or not (key == "task" or key.startswith("origin.")):
        raise DataError(f"'{condition}' is no condition: write task=NAME,NAME or origin.KEY=VALUE,VALUE")
    return key, tuple(values.split(","))


def _value(sample: Sample, key: str) -> str:
    return sample.task if key == "task" else str(sample.origin.get(key.partition(".")[2], ""))


def _apart(sources: Sequence[Sequence[Sample]]) -> Iterator[Sample]:
    """The samples of all sources, no id twice."""
    seen: set[str] = set()
    for number, source in enumerate(sources, 1):
        for sample in source:
            name = sample.id
            while name and name in seen:
                name = f"{name}-{number}"
            seen.add(name)
            yield replace(sample, id=name)


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
        # of each sample that was read: marks, bits of READ, NOTED, DAMAGED and SILENT, and seconds of audio
        self.marks = torch.zeros(self.num_samples, dtype=torch.uint8).share_memory_()
        self.seconds = torch.zeros(self.num_samples).share_memory_()
        self._first = np.cumsum([0, *(len(samples) for samples in self.sources)])
        self._epoch: tuple[int, np.ndarray] | None = None
        self._window: tuple[tuple[int, int], list[np.ndarray]] | None = None
        self._ranks: list[np.ndarray] = []

    def rank(self, ranks: Sequence[Sequence[float]]) -> None:
        """From now on samples of low rank come first in every epoch, whatever their lengths; ``ranks``: of
        each source's samples."""
        self._ranks = [np.asarray(own, np.float32) for own in ranks]
        self._epoch = self._window = None

    def heard(self, key: tuple[int, int], accounts: Sequence[Account]) -> None:
        """Keep what the accounts of a sample's recordings say."""
        number, told = self.number(key), [account.to_json() for account in accounts]
        self.marks[number] = (
            READ
            | NOTED * any("notes" in one for one in told)
            | DAMAGED * any("holes" in one for one in told)
            | SILENT * any(one.get("silent_fraction") == 1 for one in told)
        )
        self.seconds[number] = sum(account.decoded_s for account in accounts)

    def tally(self) -> Tally:
        """What was heard so far; counted are samples, also those of several recordings."""
        counts = [int((self.marks & bit).count_nonzero()) for bit in (READ, NOTED, DAMAGED, SILENT)]
        return Tally(counts[0], float(self.seconds.sum(dtype=torch.float64)), *counts[1:])

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
        if self._ranks:
            own = [self._ranks[source][row] for source, row in places]
            places = places[np.argsort(own, kind="stable")]
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
        if self._ranks:
            self._window = ((epoch, window), list(places.reshape(-1, step, 2)))
            return self._window[1]
        lengths = [self._tokens(source, row) for source, row in places]
        places = places[np.argsort(lengths, kind="stable")]
        steps = list(places.reshape(-1, step, 2))
        order = np.random.default_rng([self.seed, 2, epoch, window]).permutation(len(steps))
        steps = [steps[i] for i in order]
        self._window = ((epoch, window), steps)
        return steps


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
    whole = _header_seconds(part)
    return max(0.0, (UNKNOWN_SECONDS if whole is None else whole) - float(part.get("offset_s", 0.0)))


def known_seconds(part: AudioPart) -> float:
    """How long an audio part is, in seconds; decoded where neither the manifest nor a header tells.

    Raises AudioError for a recording that cannot be read.
    """
    if "duration_s" in part or _header_seconds(part) is not None:
        return audio_seconds(part)
    return seconds(load_audio(part["audio"], rate=part.get("rate"), offset_s=part.get("offset_s", 0.0)))


def _header_seconds(part: AudioPart) -> float | None:
    """Length in seconds of a part's whole recording; None where no header tells."""
    source = part["audio"]
    if isinstance(source, np.ndarray):
        return len(source) / float(part.get("rate", SAMPLE_RATE))
    try:
        if isinstance(source, str | Path) and (inside := archives.split(source)):
            return float(soundfile.info(io.BytesIO(archives.read(*inside))).duration)
        if isinstance(source, str | Path) and not str(source).startswith("data:"):
            return float(soundfile.info(str(source)).duration)
    except (soundfile.LibsndfileError, ValueError, OSError):
        pass
    return None
