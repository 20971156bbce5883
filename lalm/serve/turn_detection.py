"""Turn detection for realtime sessions: 16-bit PCM at 24 kHz -> turns of mono float32 at 16 kHz."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import soxr
import torch

from lalm.audio.load import SAMPLE_RATE
from lalm.audio.vad import FRAME, Array, load_detector
from lalm.serve.session_options import TurnDetection

RATE = 24_000  # Hz, the only rate of OpenAI's audio/pcm


@dataclass(frozen=True)
class SpeechStarted:
    """Speech began; ``at_ms`` counts from the session's first audio, less the padding before speech."""

    at_ms: int


@dataclass(frozen=True)
class SpeechStopped:
    """Speech ended: ``audio`` is the turn, (N,) float32 at 16 kHz."""

    at_ms: int
    audio: Array


TurnEvent: TypeAlias = SpeechStarted | SpeechStopped


class TurnDetector:
    """Buffers a client's audio, at most ``limit_s`` seconds, until a turn ends.

    With ``detection`` silero-vad finds the end; without, ``commit`` sets it. Not thread-safe.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.detection: TurnDetection | None = None
        self._resampler = soxr.ResampleStream(RATE, SAMPLE_RATE, 1, dtype="float32")
        self._detector: Any = None
        self._buffer: list[Array] = []  # blocks of the current turn; before one begins, the last few frames
        self._partial = np.zeros(0, np.float32)  # samples that do not fill a frame yet
        self._position = 0  # samples processed in this session
        self._speaking = False

    def configure(self, detection: TurnDetection | None) -> None:
        """Use these settings from now on; None turns detection off."""
        if detection != self.detection:
            self.detection, self._detector, self._speaking = detection, None, False

    @property
    def seconds(self) -> float:
        """Length of the buffered audio."""
        return (sum(map(len, self._buffer)) + len(self._partial)) / SAMPLE_RATE

    def append(self, data: bytes) -> list[TurnEvent]:
        """Add PCM; the events it caused. Raises ValueError when the buffer is full."""
        if len(data) % 2:
            raise ValueError("audio must be 16-bit PCM: it ends within a sample")
        added_s = len(data) / 2 / RATE
        if self.detection is None and self.seconds + added_s > self.limit_s:
            raise ValueError(f"the audio buffer holds {self.limit_s:g} s at most: commit or clear it")
        samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
        self._partial = np.concatenate([self._partial, self._resampler.resample_chunk(samples)])
        if self.detection is None:
            self._position += len(self._partial)
            self._buffer.append(self._partial)
            self._partial = np.zeros(0, np.float32)
            return []
        return list(self._detect(self.detection))

    def _detect(self, detection: TurnDetection) -> Iterator[TurnEvent]:
        if self._detector is None:
            self._detector = load_detector(detection.silence_duration_ms / 1000, detection.threshold)
        padding_frames = max(1, round(detection.prefix_padding_ms * SAMPLE_RATE / 1000 / FRAME))
        while len(self._partial) >= FRAME:
            frame, self._partial = self._partial[:FRAME], self._partial[FRAME:]
            event = self._detector(torch.from_numpy(frame)) or {}
            self._position += FRAME
            self._buffer.append(frame)
            if not self._speaking:
                self._buffer = self._buffer[-padding_frames - 1 :]
                if "start" in event:
                    self._speaking = True
                    yield SpeechStarted(self._milliseconds(self._position - sum(map(len, self._buffer))))
            elif "end" in event or len(self._buffer) * FRAME >= self.limit_s * SAMPLE_RATE:
                if "end" not in event:  # the turn reached its limit: continuing speech becomes another turn
                    self._detector.reset_states()
                yield SpeechStopped(self._milliseconds(self._position), self._take_turn())

    def commit(self) -> Array:
        """Remove the turn so far from the buffer and return it, (N,) float32 at 16 kHz."""
        rest = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        self._resampler.clear()
        self._buffer += [self._partial, rest]
        self._position += len(self._partial) + len(rest)
        self._partial = np.zeros(0, np.float32)
        if self._detector is not None:
            self._detector.reset_states()
        return self._take_turn()

    def clear(self) -> None:
        """Empty the buffer."""
        self.commit()

    def _take_turn(self) -> Array:
        audio = np.concatenate(self._buffer) if self._buffer else np.zeros(0, np.float32)
        self._buffer, self._speaking = [], False
        return audio

    @staticmethod
    def _milliseconds(samples: int) -> int:
        return max(0, samples) * 1000 // SAMPLE_RATE
