"""A recording as blocks of mono float32 at 16 kHz, one after the other: for what is too long to be held.

What ``lalm.audio.load`` finds out from a whole recording (channels that cancel each other) is found out here
from its first 30 s; that a track is silent throughout and another is to be heard, before its first block.
"""

import itertools
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from lalm.audio.asked import MOST_TRACKS, Asked, AudioError, Findings, passed_over
from lalm.audio.blocks import BLOCK_FRAMES, Array, Blocks, larger
from lalm.audio.decoding import file_blocks
from lalm.audio.mixing import INTEGER_PEAK, SILENT, CancelledError, Mixer, Powers
from lalm.audio.sources import opened, shortened

LOOKED_AT_S = 30.0


class AudioStream:
    """Blocks of a recording, (N,) float32 mono 16 kHz, read once; memory does not grow with its length.

    ``source`` is a path, a member of a tar file, - for standard input or a data: URL. ``declared_s`` is the
    length that the file states (None: it states none, or nothing is read yet), ``notes`` what a listener
    should know. Raises AudioError as ``load_audio`` does, in the midst of it too.
    Example: ``for block in AudioStream("hour.mp3"): ...``.
    """

    def __init__(
        self, source: str, *, channel: int | None = None, track: int | None = None, lenient: bool = False
    ) -> None:
        self.source = source
        self._asked = Asked(shortened(source), channel=channel, track=track, lenient=lenient)
        self._asked.check()

    @property
    def declared_s(self) -> float | None:
        """Seconds that the file states."""
        return self._asked.found.declared_s

    @property
    def notes(self) -> list[str]:
        """What is odd about the recording."""
        return self._asked.found.notes

    def __iter__(self) -> Iterator[Array]:
        asked, silent, length = self._asked, tuple[int, ...](), 0
        with opened(self.source, asked.place) as file:
            while kept := (yield from _sounding(file, self._asked)):
                silent, length = (*silent, self._asked.found.track), length or kept
                if len(silent) >= min(self._asked.found.num_tracks, MOST_TRACKS):
                    self._asked = asked  # no track has sound: the first one is as good as any
                    yield from _silence(length)
                    break
                file.seek(0)
                self._asked = replace(asked, found=Findings(silent_tracks=silent))


def _sounding(file: BinaryIO, asked: Asked) -> Generator[Array, None, int]:
    """Blocks of one track. Where there is another one, silence at the beginning is kept back until there is
    sound; returns how many samples of it never came to that."""
    kept, count = 0, 0
    with closing(file_blocks(file, asked)) as decoded:
        for block in _mono(larger(decoded), asked):
            peak = max(float(block.max()), -float(block.min())) if len(block) else 0.0
            if peak > INTEGER_PEAK:
                raise AudioError(
                    f"{asked.place} holds values far above 1: these are integers saved as "
                    "floats; divide them by the largest, such as 32768"
                )
            count += len(block)
            if peak < SILENT and kept + len(block) == count and asked.has_more_tracks():
                kept = count
                continue
            if before := asked.found.silent_tracks:
                asked.found.note(passed_over(before[0], asked.found.track))
            yield from _silence(kept)
            kept = 0
            yield block
    if not count:
        raise AudioError(f"{asked.place} holds no audio (0 samples)")
    return kept


def _silence(length: int) -> Iterator[Array]:
    for start in range(0, length, BLOCK_FRAMES):
        yield np.zeros(min(BLOCK_FRAMES, length - start), np.float32)


def _mono(blocks: Blocks, asked: Asked) -> Iterator[Array]:
    """Blocks at 16 kHz; the channels are mixed, or the loudest is heard if they cancel each other."""
    first: list[tuple[int, Array]] = []
    powers: Powers | None = None
    channel, seconds = asked.channel, 0.0
    for rate, block in blocks:
        first.append((rate, block))
        seconds += len(block) / rate
        if channel is None and np.isfinite(block.sum()):
            if powers is None or powers.num_channels != block.shape[1]:
                powers = Powers(block.shape[1], rate)
            powers.add(block)
        if seconds >= LOOKED_AT_S:
            break
    if powers is not None and powers.count and powers.cancels():
        channel = powers.loudest()
        asked.found.note(f"its channels cancel each other when mixed, so only channel {channel} is heard")
    mixer = Mixer(asked, channel)
    for rate, block in itertools.chain(first, blocks):
        mixer.add(rate, block)
        yield mixer.taken()
    with suppress(AudioError, CancelledError):  # what remains is nothing, or was mixed already
        mixer.finish()
    yield mixer.taken()
