"""Composes scenes of sounds: in sequence, repeated, or over background sound, with exact onsets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr

from lalm.audio.load import SAMPLE_RATE
from lalm.data.sample import Event

MIN_SCENE_S = 3.0
MAX_SCENE_S = 10.0
GAP_S = (0.1, 0.5)
PEAK = 0.95
Array = np.ndarray[Any, np.dtype[np.float32]]
Rng = np.random.Generator


@dataclass(frozen=True)
class Sound:
    """A sound to be placed: audio (N,) float32 16 kHz, its label and its caption."""

    audio: Array
    label: str
    caption: str


@dataclass(frozen=True)
class Scene:
    """A composed recording: audio (N,) float32 16 kHz and its events in order of onset."""

    audio: Array
    events: tuple[Event, ...]


def vary(audio: Array, rng: Rng) -> Array:
    """Another take: speed 0.9 to 1.1 (pitch moves along), peak -12 to 0 dB of full scale."""
    speed = rng.uniform(0.9, 1.1)
    return scaled(soxr.resample(audio, SAMPLE_RATE * speed, SAMPLE_RATE), rng.uniform(-12.0, 0.0))


def scaled(audio: Array, peak_db: float) -> Array:
    """The same audio with its peak at ``peak_db`` dB of full scale; silence stays silence."""
    peak = float(np.abs(audio).max(initial=0.0))
    return (audio * (PEAK * 10 ** (peak_db / 20) / peak)).astype(np.float32) if peak else audio


def with_noise(audio: Array, rng: Rng) -> Array:
    """White noise 20 to 40 dB below the audio's mean power, every second time."""
    if rng.random() < 0.5:
        return audio
    level = float(np.sqrt(np.mean(audio**2))) * 10 ** (-rng.uniform(20.0, 40.0) / 20)
    return audio + rng.standard_normal(len(audio), np.float32) * np.float32(level)


def crop(audio: Array, num_samples: int, rng: Rng) -> Array:
    """At most ``num_samples`` from anywhere in the audio, faded over 10 ms at the cuts."""
    if len(audio) <= num_samples:
        return audio
    start = int(rng.integers(len(audio) - num_samples + 1))
    return faded(audio[start : start + num_samples])


def faded(audio: Array) -> Array:
    """The same audio rising and falling over 10 ms."""
    fade = np.linspace(0.0, 1.0, min(SAMPLE_RATE // 100, len(audio) // 2), dtype=np.float32)
    audio = audio.copy()
    audio[: len(fade)] *= fade
    audio[len(audio) - len(fade) :] *= fade[::-1]
    return audio


def looped(audio: Array, num_samples: int) -> Array:
    """The audio again and again, cut to ``num_samples``."""
    return np.tile(audio, -(-num_samples // len(audio)))[:num_samples]


def sequence(sounds: Sequence[Sound], rng: Rng, *, same_take: bool = False) -> Scene:
    """The sounds one after the other, 0.1 to 0.5 s apart, 3 to 10 s in all.

    Every sound is varied on its own, or with ``same_take`` all alike (for one sound repeated).
    """
    room = int((MAX_SCENE_S - GAP_S[1] * (len(sounds) + 1)) / len(sounds) * SAMPLE_RATE)
    takes = [crop(vary(sound.audio, rng), room, rng) for sound in sounds[: 1 if same_take else None]]
    if same_take:
        takes = takes * len(sounds)
    gaps = [int(rng.uniform(*GAP_S) * SAMPLE_RATE) for _ in range(len(sounds) + 1)]
    size = sum(gaps) + sum(len(take) for take in takes)
    spare = int(MIN_SCENE_S * SAMPLE_RATE) - size
    if spare > 0:  # silence before and after
        before = int(rng.integers(spare + 1))
        gaps[0] += before
        gaps[-1] += spare - before
    audio = np.zeros(sum(gaps) + sum(len(take) for take in takes), np.float32)
    events, at = [], 0
    for sound, take, gap in zip(sounds, takes, gaps, strict=False):
        onset, at = at + gap, at + gap + len(take)
        audio[onset:at] = take
        events.append(_event(sound, onset, at))
    return Scene(bounded(with_noise(audio, rng)), tuple(events))


def over_bed(bed: Sound, sounds: Sequence[Sound], rng: Rng) -> Scene:
    """Sounds in sequence over a quieter one that lasts from start to end; the bed's event comes first."""
    front = sequence(sounds, rng)
    size = len(front.audio)
    take = crop(vary(bed.audio, rng), size, rng)
    back = faded(scaled(looped(take, size), rng.uniform(-18.0, -8.0)))
    return Scene(bounded(front.audio + back), (_event(bed, 0, size), *front.events))


def bounded(audio: Array) -> Array:
    """The same audio, turned down as a whole where it would clip."""
    peak = float(np.abs(audio).max(initial=0.0))
    return audio if peak <= 0.99 else audio * np.float32(0.99 / peak)


def _event(sound: Sound, start: int, stop: int) -> Event:
    return {
        "label": sound.label,
        "caption": sound.caption,
        "onset_s": round(start / SAMPLE_RATE, 6),
        "offset_s": round(stop / SAMPLE_RATE, 6),
    }
