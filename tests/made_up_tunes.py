"""Tunes made here, and a corpus of music built of them without soundfonts and without music21."""

from pathlib import Path

import numpy as np
import pytest

from lalm.corpus import music
from lalm.corpus.tunes import Melody, Note, Tune

SCALES = {"major": [0, 2, 4, 5, 7, 9, 11, 12], "minor": [0, 2, 3, 5, 7, 8, 10, 12]}


def made(mode: str) -> Melody:
    """Eight bars of two beats: up and down the scale from D (in minor) or G, two notes a beat."""
    steps = [*SCALES[mode], *SCALES[mode][::-1]] * 2
    root = 62 if mode == "minor" else 67
    return Melody(tuple(Note(at / 2, 0.5, root + step) for at, step in enumerate(steps)), 1.0, 2, 8)


def tune(number: int, mode: str, collection: str = "ryansMammoth") -> Tune:
    tonic = "D" if mode == "minor" else "G"
    return Tune(collection, "x.abc", str(number), f"Tune {number}", "nobody", tonic, mode, "2/4", str(number))


def pretend(patch: pytest.MonkeyPatch) -> list[int]:
    """Build without music21, mido, fluidsynth and soundfonts; returns a list that grows with renderings."""
    calls: list[int] = []

    def tone(file: object, font: Path, *, reverb: bool) -> np.ndarray:
        calls.append(1)
        return np.full(16_000, 0.1, np.float32)

    patch.setattr(music, "of_split", lambda split: {m: [tune(n, m) for n in range(3)] for m in SCALES})
    patch.setattr(music, "_melody", lambda found: made(found.mode))
    patch.setattr(music, "midi", lambda piece: None)
    patch.setattr(music, "rendered", tone)
    patch.setattr(music, "synthesizer", lambda: "")
    patch.setattr(music, "soundfont", lambda font, kept, given: (Path(font.package), "1.0"))
    patch.setattr(music, "HELD_OUT", {"single": 72, "together": 48, "sequence": 8, "twice": 8})
    return calls
