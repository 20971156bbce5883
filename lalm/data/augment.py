"""Waveform augmentation: gain, speed, noise, reverberation, gaps.

Everything happens to the waveform, so it serves every encoder. SpecAugment's masks (arXiv 1904.08779, section
2) are gaps of silence and bands of the mel scale that are filtered out. What happens to a sample is drawn
from the run's seed and its place in the run, so a resumed run hears the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soxr

from lalm.audio.load import AUDIO_SUFFIXES, SAMPLE_RATE
from lalm.data.audio_inputs import CachedFrames, Clip
from lalm.data.messages import part_recording
from lalm.data.readers import open_samples
from lalm.data.sample import AudioPart

DIRECT_DB = (0.0, 12.0)  # the direct sound over all reflections, from a hall to a living room
QUIET = 1e-6  # RMS below which a clip is silence, and has no level to set another by

Bounds: TypeAlias = tuple[float, float]
Draw: TypeAlias = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a waveform, each with ``probability``, as a recipe's ``augment`` says it.

    Bounds are drawn from evenly; ``noise`` is a folder or manifest, ``mask_mels`` a share of the mel scale.
    Example: ``Augmentation(gain_db=(-6, 6))(clips, rng, draw)``. Raises ValueError for a noise without audio.
    """

    probability: float = 0.5
    gain_db: Bounds | None = None
    speed: Bounds | None = None
    reverb_s: Bounds | None = None
    mix_snr_db: Bounds | None = None
    noise: str | None = None
    noise_snr_db: Bounds | None = None
    masks: int = 0
    mask_s: float = 0.5
    mask_mels: float = 0.2

    def __post_init__(self) -> None:
        _ = self._noises  # found now, so that a run does not stop at its first batch

    @cached_property
    def _noises(self) -> list[AudioPart]:
        return noise_parts(self.noise) if self.noise else []

    def __call__(
        self, clips: Sequence[Clip | CachedFrames], rng: np.random.Generator, other: Draw
    ) -> list[Clip | CachedFrames]:
        """Each clip changed by itself; ``other`` draws the audio (N,) of another training sample."""
        return [
            replace(clip, audio=self._changed(clip.audio, rng, other)) if isinstance(clip, Clip) else clip
            for clip in clips
        ]

    def _changed(self, audio: np.ndarray, rng: np.random.Generator, other: Draw) -> np.ndarray:
        """audio: (N,) float32 -> (N',) float32; speed alone changes the length."""

        def happens(bounds: Bounds | None) -> float | None:
            """A value between the bounds, or None when it does not happen. Always draws twice."""
            chance, at = rng.random(2)
            if bounds is None or chance >= self.probability:
                return None
            return bounds[0] + at * (bounds[1] - bounds[0])

        if (factor := happens(self.speed)) is not None:
            audio = speed(audio, factor)
        if (decay_s := happens(self.reverb_s)) is not None:
            audio = reverberate(audio, decay_s, rng)
        if (snr_db := happens(self.mix_snr_db)) is not None:
            audio = add(audio, other(rng), snr_db, rng)
        if (snr_db := happens(self.noise_snr_db if self._noises else None)) is not None:
            part = self._noises[rng.integers(len(self._noises))]
            noise = part_recording(part).audio
            audio = add(audio, noise, snr_db, rng)
        if (gain_db := happens(self.gain_db)) is not None:
            audio = audio * np.float32(10 ** (gain_db / 20))
        for _ in range(self.masks):
            audio = mask_band(mask_time(audio, self.mask_s, rng), self.mask_mels, rng)
        return audio


def noise_parts(path: str) -> list[AudioPart]:
    """Noises: the audio files of a folder, or the audios of a manifest. Raises ValueError for none."""
    folder = Path(path)
    parts: list[AudioPart] = []
    if folder.is_dir():
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
        parts = [{"type": "audio", "audio": str(file)} for file in files]
    if not parts:
        parts = [part for sample in open_samples(path) for part in sample.audios]
    if not parts:
        raise ValueError(f"augment.noise: '{path}' holds no audio")
    return parts


def speed(audio: np.ndarray, factor: float) -> np.ndarray:
    """audio (N,) played ``factor`` times as fast, pitch included: (N / factor,)."""
    return np.asarray(soxr.resample(audio, SAMPLE_RATE * factor, SAMPLE_RATE), np.float32)


def add(audio: np.ndarray, other: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """``other``, from a drawn place and repeated as needed, under audio (N,) at ``snr_db``."""
    level, other_level = rms(audio), rms(other)
    if level < QUIET or other_level < QUIET:
        return audio
    start = int(rng.integers(len(other)))
    repeated = np.resize(np.roll(other, -start), len(audio))
    factor = level / max(rms(repeated), QUIET) / 10 ** (snr_db / 20)
    return audio + (repeated * factor).astype(np.float32)


def reverberate(audio: np.ndarray, decay_s: float, rng: np.random.Generator) -> np.ndarray:
    """audio (N,) in a room whose sound falls by 60 dB in ``decay_s``; as long and as loud as before.

    The room's answer is the direct sound and noise that decays exponentially.
    """
    count = max(int(decay_s * SAMPLE_RATE), 1)
    tail = rng.standard_normal(count) * 10 ** (-3 * np.arange(count) / count)
    direct_db = rng.uniform(*DIRECT_DB)
    room = tail * 10 ** (-direct_db / 20) / np.sqrt(np.sum(tail**2))
    room[0] += 1.0
    size = 1 << (len(audio) + count - 1).bit_length()
    heard = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(room, size), size)[: len(audio)]
    level = rms(heard)
    return (heard * (rms(audio) / level if level > QUIET else 1.0)).astype(np.float32)


def mask_time(audio: np.ndarray, longest_s: float, rng: np.random.Generator) -> np.ndarray:
    """audio (N,) with one gap of at most ``longest_s``, and at most a fifth of the clip."""
    width = int(rng.uniform(0, min(longest_s * SAMPLE_RATE, len(audio) / 5)))
    start = int(rng.integers(len(audio) - width + 1))
    masked = audio.copy()
    masked[start : start + width] = 0.0
    return masked


def mask_band(audio: np.ndarray, widest: float, rng: np.random.Generator) -> np.ndarray:
    """audio (N,) without one band, at most the fraction ``widest`` of the mel scale wide."""
    width = rng.uniform(0, widest)
    low = rng.uniform(0, 1 - width)
    top_mel = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)  # of the mel scale's usual formula
    low_hz, high_hz = (700 * (10 ** (place * top_mel / 2595) - 1) for place in (low, low + width))
    spectrum = np.fft.rfft(audio)
    hz = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    spectrum[(hz >= low_hz) & (hz < high_hz)] = 0.0
    return np.fft.irfft(spectrum, len(audio)).astype(np.float32)


def rms(audio: np.ndarray) -> float:
    """Root mean square of audio (N,)."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0
