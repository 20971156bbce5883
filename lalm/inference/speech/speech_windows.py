"""Where there is speech: a recording of any length, block by block, -> windows that Whisper can take.

A window holds speech and the short pauses in it, at most 30 s. Speech that goes on longer is heard as Whisper
does it: the next window begins where the one who heard the last says. Memory does not grow with the
recording. Speech is found by silero-vad. A recording of up to 30 s with speech in it is one window as it is.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from lalm.audio.load import SAMPLE_RATE
from lalm.audio.vad import FRAME, Array, frame_groups, load_probability

Probability: TypeAlias = Callable[[Array], Array]

LONGEST_S = 30.0  # what Whisper hears at once
FRAME_S = FRAME / SAMPLE_RATE


@dataclass(frozen=True)
class Cutting:
    """How speech is told from what is not, and where windows end; in seconds.

    A frame is speech above ``threshold``, and goes on being speech down to ``threshold - 0.15``. Less than
    ``least_s`` of it counts as none. A window ends after ``gap_s`` without speech, and where it would become
    longer than ``longest_s``. ``margin_s`` stand around speech.
    """

    threshold: float = 0.5
    least_s: float = 0.2
    gap_s: float = 2.0
    margin_s: float = 0.4
    longest_s: float = LONGEST_S


@dataclass
class Window:
    """A stretch of a recording that holds speech: (N,) float32 at 16 kHz from ``start_s`` on.

    ``goes_on``: it ends for its length alone, so perhaps in the midst of a word. Who hears it then sets
    ``next_s``, where in the recording the next is to begin; unless that is set it begins behind this one.
    """

    start_s: float
    audio: Array
    goes_on: bool = False
    next_s: float | None = None

    @property
    def end_s(self) -> float:
        """Where it ends in the recording."""
        return self.start_s + len(self.audio) / SAMPLE_RATE


def speech_windows(
    blocks: Iterable[Array], cutting: Cutting | None = None, probability: Probability | None = None
) -> Iterator[Window]:
    """Windows of a recording's blocks (N,) in order; none where nobody speaks.

    ``probability`` of speech in frames (F, 512) -> (F,) is silero-vad's unless another is given. Raises
    VoiceError where that package is absent.
    """
    cutting = cutting or Cutting()
    counted = _Counted(blocks)
    cutter, probability = _Cutter(cutting), probability or load_probability()
    start: list[Array] | None = []  # all frames so far, while they may be the whole recording
    waiting: list[Window] = []
    for group in frame_groups(counted):
        for frame, score in zip(group, probability(group), strict=True):
            if start is not None and counted.count > cutting.longest_s * SAMPLE_RATE:
                yield from waiting
                start, waiting = None, []
            window = cutter.add(frame, float(score))
            if start is not None:
                start.append(frame)
                waiting += [window] if window else []
            elif window:
                yield window
                cutter.heard(window)
    if start is None:
        while window := cutter.finish(counted.count):
            yield window
            cutter.heard(window)
    elif waiting or cutter.finish(counted.count):
        yield Window(0.0, np.concatenate(start)[: counted.count])


class _Counted:
    """Blocks, and how many samples they held."""

    def __init__(self, blocks: Iterable[Array]) -> None:
        self.blocks, self.count = blocks, 0

    def __iter__(self) -> Iterator[Array]:
        for block in self.blocks:
            self.count += len(block)
            yield block


class _Cutter:
    """Frames in, windows out. ``held`` begins where a window would begin, ``skip`` samples later."""

    def __init__(self, cutting: Cutting) -> None:
        self.cutting = cutting
        self.held: list[Array] = []
        self.scores: list[float] = []
        self.first = 0  # number of the frame that held begins with
        self.skip = 0
        self.last = -1  # place in held of the last frame with speech; -1: none yet
        self.count = 0  # frames of speech in held
        self.margin = round(cutting.margin_s / FRAME_S)
        self.longest = round(cutting.longest_s * SAMPLE_RATE)

    def add(self, frame: Array, score: float) -> Window | None:
        """Take the next frame and how likely it is speech; the window that it ends, if it does."""
        self.held.append(frame)
        self.scores.append(score)
        place, cutting = len(self.held) - 1, self.cutting
        goes_on = self.last == place - 1 and self.last >= 0
        if score >= cutting.threshold - (0.15 if goes_on else 0.0):
            self.last = place
            self.count += 1
        if self.last < 0:
            self._drop(len(self.held) - self.margin)
        elif (place - self.last) * FRAME_S >= cutting.gap_s:
            return self._paused(self.last + 1 + self.margin)
        elif place * FRAME - self.skip >= self.longest:  # the newest, which may be filled up, is not needed
            return self._full()
        return None

    def finish(self, count: int) -> Window | None:
        """The next of what is left when the recording has ended after ``count`` samples."""
        if self.last < 0:
            return None
        left = count - self.first * FRAME
        end = min(left, (self.last + 1 + self.margin) * FRAME)
        if end - self.skip > self.longest:
            return self._full()
        return self._paused(len(self.held), end)

    def heard(self, window: Window) -> None:
        """Go on where the one who heard the window says."""
        if not window.goes_on:
            return
        begin = round(window.start_s * SAMPLE_RATE)
        end = begin + len(window.audio)
        asked = end if window.next_s is None else round(window.next_s * SAMPLE_RATE)
        at = min(end, max(begin + FRAME, asked))  # never again where it began
        self._drop(at // FRAME - self.first)
        self.skip = at % FRAME
        self._speech()

    def _full(self) -> Window:
        audio = np.concatenate(self.held)[self.skip : self.skip + self.longest]
        return Window(self.first * FRAME_S + self.skip / SAMPLE_RATE, audio, goes_on=True)

    def _paused(self, at: int, end: int | None = None) -> Window | None:
        """The frames before ``at``, or the samples before ``end``, if they hold enough speech."""
        enough = self.count * FRAME_S >= self.cutting.least_s
        audio = np.concatenate(self.held[:at])[self.skip : end]
        window = Window(self.first * FRAME_S + self.skip / SAMPLE_RATE, audio) if enough else None
        self._drop(at)
        self._speech()
        return window

    def _speech(self) -> None:
        """Where there is speech in what is held."""
        voiced = [place for place, score in enumerate(self.scores) if score >= self.cutting.threshold]
        self.last, self.count = voiced[-1] if voiced else -1, len(voiced)
        if self.last < 0:
            self._drop(len(self.held) - self.margin)

    def _drop(self, count: int) -> None:
        if count > 0:
            del self.held[:count], self.scores[:count]
            self.first += count
            self.last = max(-1, self.last - count)
            self.skip = 0
