"""Descriptions of recordings: what is measured, what the model hears, and what is said.

A recording is read block by block and described window by window, so memory does not grow with its length.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from lalm.audio.blocks import Array
from lalm.audio.load import SAMPLE_RATE
from lalm.data.sample import ask
from lalm.inference.engine import Engine, Options
from lalm.inference.speech.recogniser import Listening, Whisper, Wish
from lalm.inference.speech.speech_windows import LONGEST_S
from lalm.inference.speech.subtitles import Segment, Transcript

QUESTION = "Describe the sounds in this audio in one sentence."
WINDOW_S = 30.0
STILL_DB = -60.0  # a window whose loudest sample is below is not described: there is nothing to hear
NEW_TOKENS = 64
SETTLED_S = LONGEST_S + 3  # so much later all words are known: a window, what is read at once, rounding


@dataclass(frozen=True)
class Part:
    """What the model hears from ``start_s`` to ``end_s``; empty where there is nothing to hear."""

    start_s: float
    end_s: float
    text: str


Event: TypeAlias = Part | Segment


@dataclass(frozen=True)
class Description:
    """A recording of ``seconds``: the level of its loudest sample and its mean level, in dB below full scale;
    ``centroid_hz``, the mean frequency of its power; what is heard in each window, and what is said.

    ``speech_s`` are the seconds in which somebody speaks.
    """

    seconds: float
    peak_db: float
    rms_db: float
    centroid_hz: float
    parts: tuple[Part, ...]
    transcript: Transcript

    @property
    def events(self) -> list[Event]:
        """What is heard and what is said, by where it begins."""
        return sorted([*self.parts, *self.transcript.segments], key=_begins)

    @property
    def speech_s(self) -> float:
        """Seconds of the transcript's segments together."""
        return sum(one.end_s - one.start_s for one in self.transcript.segments)

    def to_json(self, name: str) -> dict[str, Any]:
        """A JSON object; seconds to the millisecond, levels to a tenth."""
        measured = {
            "audio": name,
            "seconds": round(self.seconds, 3),
            "peak_db": round(self.peak_db, 1),
            "rms_db": round(self.rms_db, 1),
            "centroid_hz": round(self.centroid_hz),
            "speech_s": round(self.speech_s, 3),
        }
        heard = [{"start": round(p.start_s, 3), "end": round(p.end_s, 3), "text": p.text} for p in self.parts]
        return {**measured, "heard": heard, "said": self.transcript.to_json()}


def describe(
    engine: Engine,
    whisper: Whisper,
    blocks: Iterable[Array],
    *,
    window_s: float = WINDOW_S,
    progress: Callable[[float], None] | None = None,
    found: Callable[[Event], None] | None = None,
) -> Description:
    """Describe a recording's blocks, (N,) float32 at 16 kHz. ``progress`` is told the seconds that are done.

    ``found`` is told what is heard and said in the order in which it begins, as soon as nothing earlier can
    come, so of a long recording long before its end.

    Raises AudioError in the midst of a recording that is damaged.
    """
    level, telling = _Level(), _Telling(found or (lambda one: None))
    parts: list[Part] = []
    said: list[Segment] = []

    def hear(audio: Array) -> None:
        parts.append(_heard(engine, audio, parts))
        telling.add(parts[-1])

    def described() -> Iterator[Array]:
        held = np.zeros(0, np.float32)
        size = round(window_s * SAMPLE_RATE)
        for block in blocks:
            level.add(block)
            yield block
            held = np.concatenate([held, block])
            while len(held) >= size:
                hear(held[:size])
                held = held[size:]
            seconds = level.count / SAMPLE_RATE
            if parts:
                telling.settled(min(parts[-1].end_s, seconds - SETTLED_S))
            if progress:
                progress(seconds)
        if len(held) >= SAMPLE_RATE // 4 or not parts:
            hear(held)

    listening = Listening(whisper, described(), Wish(words=False))
    for segment in listening:
        said.append(segment)
        telling.add(segment)
    telling.settled(math.inf)
    seconds = level.count / SAMPLE_RATE
    transcript = Transcript(tuple(said), listening.language, seconds)
    return Description(seconds, *level.found(), tuple(parts), transcript)


def _begins(one: Event) -> tuple[float, bool]:
    """What is heard stands before what is said in it."""
    return one.start_s, isinstance(one, Segment)


class _Telling:
    """What was found and not told yet."""

    def __init__(self, told: Callable[[Event], None]) -> None:
        self._told = told
        self._held: list[Event] = []

    def add(self, one: Event) -> None:
        self._held.append(one)

    def settled(self, until_s: float) -> None:
        """Tell what begins before ``until_s``: nothing more will be found there."""
        ready = sorted((one for one in self._held if one.start_s < until_s), key=_begins)
        self._held = [one for one in self._held if one.start_s >= until_s]
        for one in ready:
            self._told(one)


def _heard(engine: Engine, audio: Array, before: list[Part]) -> Part:
    """What the model hears in the next window."""
    start_s = before[-1].end_s if before else 0.0
    end_s = start_s + len(audio) / SAMPLE_RATE
    if not len(audio) or _db(float(np.abs(audio).max())) < STILL_DB:
        return Part(start_s, end_s, "")
    [reply] = engine.reply([ask([audio], QUESTION)], Options(NEW_TOKENS))
    return Part(start_s, end_s, reply.text)


class _Level:
    """Peak, power and spectral centroid of blocks as they pass."""

    def __init__(self) -> None:
        self.count, self.peak, self.power = 0, 0.0, 0.0
        self._weight, self._weighted = 0.0, 0.0

    def add(self, block: Array) -> None:
        if not len(block):
            return
        self.count += len(block)
        self.peak = max(self.peak, float(np.abs(block).max()))
        self.power += float(np.dot(block, block))
        frames = block[: len(block) // 1024 * 1024].reshape(-1, 1024) * np.hanning(1024)
        spectrum = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).sum(0)
        self._weight += float(spectrum.sum())
        self._weighted += float(spectrum @ np.fft.rfftfreq(1024, 1 / SAMPLE_RATE))

    def found(self) -> tuple[float, float, float]:
        """Peak and mean level in dB, centroid in Hz."""
        rms = (self.power / max(1, self.count)) ** 0.5
        return _db(self.peak), _db(rms), self._weighted / self._weight if self._weight else 0.0


def _db(value: float) -> float:
    """dB below full scale, -120 at the least."""
    return 20 * float(np.log10(max(value, 1e-6)))
