"""Recordings in which there is nothing to be named: silence and noise, and questions about them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from lalm.audio.load import SAMPLE_RATE
from lalm.corpus.clips import write_flac
from lalm.data.sample import Sample, ask

TEST_FILES = 40
QUESTIONS = ("What makes the sound?", "What do you hear?", "Describe the audio in one sentence.")
SAYS_SO = {
    "silence": ("nothing", "silence", "silent", "quiet"),
    "noise": ("noise", "static", "hiss", "hissing"),
}
SLOPES = (0.0, 0.5, 1.0)  # of white, pink and brown noise
Rng = np.random.Generator


def empty_recordings(folder: Path, count: int, rng: Rng) -> Iterator[Sample]:
    """``count`` files of silence (digital, or a faint hiss) and as many of noise, 1 to 10 s."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("silence", "noise"):
        for number in range(count):
            audio = noise(int(rng.uniform(1.0, 10.0) * SAMPLE_RATE), float(rng.choice(SLOPES)), rng)
            if kind == "silence":
                audio *= 0.0 if number % 3 == 0 else 10 ** (rng.uniform(-80, -60) / 20)
            else:
                audio *= 10 ** (rng.uniform(-40, -6) / 20)
            path = folder / f"{kind}-{number:03d}.flac"
            write_flac(path, audio)
            yield Sample(ask([str(path)], "").messages, id=path.stem, origin={"kind": kind})


def empty_questions(folder: Path, rng: Rng) -> Iterator[Sample]:
    """What do you hear, where there is nothing or only noise? Right is whoever says so."""
    for number, row in enumerate(empty_recordings(folder, TEST_FILES, rng)):
        kind, text = row.origin["kind"], QUESTIONS[number % len(QUESTIONS)]
        yield replace(
            row,
            messages=ask([str(row.audios[0]["audio"])], text).messages,
            id=f"empty-{row.id}",
            task="empty",
            references=SAYS_SO[kind],
            origin={
                "recording": row.id,
                "kind": kind,
                "caption": "silence" if kind == "silence" else "noise",
            },
        )


def noise(size: int, slope: float, rng: Rng) -> np.ndarray:
    """Noise (size,) float32 of peak 1 whose amplitude falls as frequency ** -slope."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum *= np.maximum(np.arange(len(spectrum)), 20.0) ** -slope
    audio = np.fft.irfft(spectrum, size)
    return (audio / np.abs(audio).max()).astype(np.float32)
