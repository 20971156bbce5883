"""Where there is speech: a recording of any length, block by block, -> windows that Whisper can take.

A window holds speech and the short pauses in it, at most 30 s. Memory does not grow with the recording.
Speech is found by silero-vad. A recording of up to 30 s with speech in it is one window as it is.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

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
    ``least_s`` of it counts as none. A window ends after ``gap_s`` without speech, and in the longest pause
    of its second half where it would become longer than ``longest_s``. ``margin_s`` stand around speech.
    """

    threshold: float = 0.5
    least_s: float = 0.2
    gap_s: float = 2.0
    margin_s: float = 0.4
    longest_s: float = LONGEST_S


@dataclass(frozen=True)
class Window:
    """A stretch of a recording that holds speech: (N,) float32 at 16 kHz from ``start_s`` on."""

    start_s: float
    audio: Array

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
    number = 0
    for group in frame_groups(counted):
        for frame, score in zip(group, probability(group), strict=True):
            number += 1
            if start is not None and number * FRAME_S > cutting.longest_s:
                yield from waiting
                start, waiting = None, []
            found = cutter.add(frame, float(score))
            if start is None:
                yield from found
            else:
                start.append(frame)
                waiting += found
    waiting += cutter.finish()
    if start is None:
        yield from _within(waiting, counted.count)
    elif waiting:
        yield Window(0.0, np.concatenate(start)[: counted.count])


class _Counted:
    """Blocks, and how many samples they held."""

    def __init__(self, blocks: Iterable[Array]) -> None:
        self.blocks, self.count = blocks, 0

    def __iter__(self) -> Iterator[Array]:
        for block in self.blocks:
            self.count += len(block)
            yield block


def _within(windows: Iterable[Window], count: int) -> Iterator[Window]:
    """Windows of a recording of ``count`` samples: its last frame was filled up."""
    for window in windows:
        left = count - round(window.start_s * SAMPLE_RATE)
        yield Window(window.start_s, window.audio[:left])


class _Cutter:
    """Frames in, windows out. ``held`` begins where a window would begin."""

    def __init__(self, cutting: Cutting) -> None:
        self.cutting = cutting
        self.held: list[Array] = []
        self.scores: list[float] = []
        self.first = 0  # number of the frame that held begins with
        self.last = -1  # place in held of the last frame with speech; -1: none yet
        self.count = 0  # frames of speech in held
        self.margin = round(cutting.margin_s / FRAME_S)

    def add(self, frame: Array, score: float) -> list[Window]:
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
            return self._cut(self.last + 1 + self.margin)
        elif len(self.held) * FRAME_S >= cutting.longest_s:
            return self._cut(self._pause())
        return []

    def finish(self) -> list[Window]:
        """What is left when the recording ends."""
        return self._cut(min(len(self.held), self.last + 1 + self.margin)) if self.last >= 0 else []

    def _cut(self, at: int) -> list[Window]:
        """The frames before ``at`` as a window, if they hold enough speech; the others stay."""
        enough = self.count * FRAME_S >= self.cutting.least_s
        window = Window(self.first * FRAME_S, np.concatenate(self.held[:at])) if enough else None
        self._drop(at)
        voiced = [place for place, score in enumerate(self.scores) if score >= self.cutting.threshold]
        self.last, self.count = voiced[-1] if voiced else -1, len(voiced)
        if self.last < 0:
            self._drop(len(self.held) - self.margin)
        return [window] if window else []

    def _drop(self, count: int) -> None:
        if count > 0:
            del self.held[:count], self.scores[:count]
            self.first += count
            self.last = max(-1, self.last - count)

    def _pause(self) -> int:
        """The middle of the longest pause of the second half; else where speech is least likely."""
        half = len(self.scores) // 2
        quiet, best = 0, (0, half)
        for place in range(half, len(self.scores)):
            quiet = quiet + 1 if self.scores[place] < self.cutting.threshold else 0
            best = max(best, (quiet, place))
        length, end = best
        if length:
            return end - length // 2 + 1
        scores: Any = np.convolve(self.scores[half:], np.ones(5), "same")
        return half + int(np.argmin(scores[2:-2])) + 3
