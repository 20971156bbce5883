"""A recording as blocks of mono float32 at 16 kHz, one after the other: for what is too long to be held.

What ``lalm.audio.load`` finds out from a whole recording (channels that cancel each other) is found out here
from its first 30 s.
"""

import itertools
from collections.abc import Iterator
from contextlib import closing, suppress

import numpy as np

from lalm.audio.asked import Asked, AudioError
from lalm.audio.blocks import Array, Blocks, larger
from lalm.audio.decoding import file_blocks
from lalm.audio.mixing import INTEGER_PEAK, CancelledError, Mixer, Powers
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
        asked, count = self._asked, 0
        with opened(self.source, asked.place) as file, closing(file_blocks(file, asked)) as decoded:
            for block in _mono(larger(decoded), asked):
                if len(block) and max(float(block.max()), -float(block.min())) > INTEGER_PEAK:
                    raise AudioError(
                        f"{asked.place} holds values far above 1: these are integers saved as "
                        "floats; divide them by the largest, such as 32768"
                    )
                count += len(block)
                yield block
        if not count:
            raise AudioError(f"{asked.place} holds no audio (0 samples)")


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
