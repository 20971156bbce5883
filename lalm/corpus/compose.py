"""Clips -> scenes: two to four sounds in sequence, repeated, or over a bed, with exact onsets and a caption."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from lalm.audio import SAMPLE_RATE
from lalm.sample import Event

MAX_SCENE_S = 10.0
TIMES = {2: "twice", 3: "three times", 4: "four times"}


@dataclass(frozen=True)
class Clip:
    """One recording of the corpus: where it lies, what it is, and how its sound is called."""

    id: str
    split: str
    label: str  # "animal/dog"
    caption: str  # "a dog barks"
    name: str  # "a dog barking"
    path: str  # relative to the corpus folder
    seconds: float

    @property
    def group(self) -> str:
        """Top-level class: "animal"."""
        return self.label.split("/")[0]


@dataclass(frozen=True)
class Scene:
    """A composed recording."""

    audio: np.ndarray  # (N,) float32 16 kHz
    caption: str
    events: tuple[Event, ...]
    clips: tuple[Clip, ...]


def vary(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another take of a recording: speed 0.9 to 1.1 (pitch moves along), gain -12 to 0 dB of full scale."""
    speed = rng.uniform(0.9, 1.1)
    audio = soxr.resample(audio, SAMPLE_RATE * speed, SAMPLE_RATE).astype(np.float32)
    return scaled(audio, rng.uniform(-12.0, 0.0))


def scaled(audio: np.ndarray, peak_db: float) -> np.ndarray:
    """The same audio with its peak at ``peak_db`` dB of full scale; silence stays silence."""
    peak = float(np.abs(audio).max(initial=0.0))
    return audio * np.float32(0.95 * 10 ** (peak_db / 20) / peak) if peak else audio


def with_noise(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White noise 20 to 40 dB below the audio's mean power, on every second call by chance."""
    if rng.random() < 0.5:
        return audio
    level = float(np.sqrt(np.mean(audio**2))) * 10 ** (-rng.uniform(20.0, 40.0) / 20)
    return audio + rng.standard_normal(len(audio)).astype(np.float32) * np.float32(level)


def crop(audio: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A stretch of at most ``seconds`` from anywhere in the audio, faded 10 ms at a cut."""
    size = int(seconds * SAMPLE_RATE)
    if len(audio) <= size:
        return audio
    start = int(rng.integers(len(audio) - size + 1))
    piece = audio[start : start + size].copy()
    fade = np.linspace(0.0, 1.0, SAMPLE_RATE // 100, dtype=np.float32)
    piece[: len(fade)] *= fade
    piece[-len(fade) :] *= fade[::-1]
    return piece


def sequence(clips: Sequence[Clip], audios: Sequence[np.ndarray], rng: np.random.Generator) -> Scene:
    """The clips one after the other with gaps of 0.1 to 0.5 s."""
    longest = (MAX_SCENE_S - 0.5 * len(clips)) / len(clips)
    takes = [vary(crop(audio, longest, rng), rng) for audio in audios]
    gaps = [rng.uniform(0.1, 0.5) for _ in takes]
    caption = _in_order([clip.caption for clip in clips], rng)
    return _placed(clips, takes, gaps, caption, rng)


def repetition(clip: Clip, audio: np.ndarray, times: int, rng: np.random.Generator) -> Scene:
    """One short sound ``times`` times."""
    take = vary(crop(audio, (MAX_SCENE_S - 0.5 * times) / times, rng), rng)
    gaps = [rng.uniform(0.2, 0.6) for _ in range(times)]
    caption = clip.caption if times == 1 else f"{clip.caption} {TIMES[times]}"
    return _placed([clip] * times, [take] * times, gaps, caption, rng)


def over_bed(
    bed: Clip, bed_audio: np.ndarray, clips: Sequence[Clip], audios: Sequence[np.ndarray], rng: np.random.Generator
) -> Scene:
    """Sounds in sequence over a quieter, longer one, which runs from start to end."""
    front = sequence(clips, audios, rng)
    size = len(front.audio) + int(rng.uniform(0.2, 1.0) * SAMPLE_RATE)
    back = bed_audio
    while len(back) < size:
        back = np.concatenate([back, bed_audio])
    back = scaled(crop(back, size / SAMPLE_RATE, rng)[:size], rng.uniform(-20.0, -10.0))
    audio = back.copy()
    audio[: len(front.audio)] += front.audio
    whole: Event = {"label": bed.label, "caption": bed.caption, "onset_s": 0.0, "offset_s": len(audio) / SAMPLE_RATE}
    inner = _in_order([clip.caption for clip in clips], rng)
    caption = str(rng.choice([f"{inner} while {bed.caption}", f"{bed.caption} and {inner}", f"{inner} as {bed.caption}"]))
    return Scene(_bounded(audio), caption, (whole, *front.events), (bed, *clips))


def _placed(
    clips: Sequence[Clip],
    takes: Sequence[np.ndarray],
    gaps: Sequence[float],
    caption: str,
    rng: np.random.Generator,
) -> Scene:
    pieces: list[np.ndarray] = []
    events: list[Event] = []
    at = 0
    for clip, take, gap in zip(clips, takes, gaps, strict=True):
        silence = int(gap * SAMPLE_RATE)
        pieces += [np.zeros(silence, np.float32), take]
        onset, at = at + silence, at + silence + len(take)
        events.append(
            {
                "label": clip.label,
                "caption": clip.caption,
                "onset_s": round(onset / SAMPLE_RATE, 4),
                "offset_s": round(at / SAMPLE_RATE, 4),
            }
        )
    audio = with_noise(np.concatenate(pieces), rng)
    return Scene(_bounded(audio), caption, tuple(events), tuple(clips))


def _bounded(audio: np.ndarray) -> np.ndarray:
    peak = float(np.abs(audio).max(initial=0.0))
    return audio if peak <= 0.99 else audio * np.float32(0.99 / peak)


def _in_order(captions: Sequence[str], rng: np.random.Generator) -> str:
    """Captions joined so that their order is told."""
    if len(captions) == 1:
        return captions[0]
    if len(captions) == 2:
        a, b = captions
        return str(rng.choice([f"{a}, then {b}", f"{a}, followed by {b}", f"first {a}, then {b}", f"{a} before {b}"]))
    *first, last = captions
    return str(rng.choice([", then ".join(captions), f"first {', then '.join(first)}, and finally {last}"]))
