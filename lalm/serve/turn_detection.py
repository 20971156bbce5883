"""What one realtime client says, as it comes: 16-bit PCM at 24 kHz -> turns of mono float32 at 16 kHz."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import soxr
import torch

from lalm.audio.load import SAMPLE_RATE
from lalm.audio.vad import FRAME, Array, load_detector
from lalm.serve.session_options import Detection

RATE = 24_000  # Hz, the only rate of OpenAI's audio/pcm


@dataclass(frozen=True)
class Started:
    """Speech began; the time counts from the first audio of the session and includes what is kept before."""

    at_ms: int


@dataclass(frozen=True)
class Stopped:
    """Speech ended: ``audio`` is the turn, (N,) float32 at 16 kHz."""

    at_ms: int
    audio: Array


Heard: TypeAlias = Started | Stopped


class Ear:
    """Collects a client's audio, at most ``limit_s`` seconds, until a turn is over.

    With ``detection`` silero-vad says when; without, ``commit`` does. Not to be used by two threads at once.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.detection: Detection | None = None
        self._resampler = soxr.ResampleStream(RATE, SAMPLE_RATE, 1, dtype="float32")
        self._detector: Any = None
        self._held: list[Array] = []  # blocks of the turn, or what came last before there is one
        self._loose = np.zeros(0, np.float32)  # less than a frame
        self._at = 0  # samples heard in this session
        self._speaking = False

    def listen(self, detection: Detection | None) -> None:
        """Find turns in this way from now on."""
        if detection != self.detection:
            self.detection, self._detector, self._speaking = detection, None, False

    @property
    def seconds(self) -> float:
        """Length of what is held."""
        return (sum(map(len, self._held)) + len(self._loose)) / SAMPLE_RATE

    def hear(self, data: bytes) -> list[Heard]:
        """Add PCM; what it made certain. Raises ValueError where there is no more place for it."""
        if len(data) % 2:
            raise ValueError("audio must be 16-bit PCM: it ends within a sample")
        coming = len(data) / 2 / RATE
        if self.detection is None and self.seconds + coming > self.limit_s:
            raise ValueError(f"the audio buffer holds {self.limit_s:g} s at most: commit or clear it")
        samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
        self._loose = np.concatenate([self._loose, self._resampler.resample_chunk(samples)])
        if self.detection is None:
            self._at += len(self._loose)
            self._held.append(self._loose)
            self._loose = np.zeros(0, np.float32)
            return []
        return list(self._turns(self.detection))

    def _turns(self, detection: Detection) -> Iterator[Heard]:
        if self._detector is None:
            self._detector = load_detector(detection.silence_duration_ms / 1000, detection.threshold)
        before = max(1, round(detection.prefix_padding_ms * SAMPLE_RATE / 1000 / FRAME))
        while len(self._loose) >= FRAME:
            frame, self._loose = self._loose[:FRAME], self._loose[FRAME:]
            event = self._detector(torch.from_numpy(frame)) or {}
            self._at += FRAME
            self._held.append(frame)
            if not self._speaking:
                self._held = self._held[-before - 1 :]
                if "start" in event:
                    self._speaking = True
                    yield Started(self._ms(self._at - sum(map(len, self._held))))
            elif "end" in event or len(self._held) * FRAME >= self.limit_s * SAMPLE_RATE:
                if "end" not in event:  # speech that goes on is another turn
                    self._detector.reset_states()
                yield Stopped(self._ms(self._at), self._taken())

    def commit(self) -> Array:
        """The turn so far, (N,) float32 at 16 kHz, which is then no longer held."""
        rest = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        self._resampler.clear()
        self._held += [self._loose, rest]
        self._at += len(self._loose) + len(rest)
        self._loose = np.zeros(0, np.float32)
        if self._detector is not None:
            self._detector.reset_states()
        return self._taken()

    def clear(self) -> None:
        """Forget what is held."""
        self.commit()

    def _taken(self) -> Array:
        audio = np.concatenate(self._held) if self._held else np.zeros(0, np.float32)
        self._held, self._speaking = [], False
        return audio

    @staticmethod
    def _ms(samples: int) -> int:
        return max(0, samples) * 1000 // SAMPLE_RATE
