"""MIDI to sound: the fluidsynth program, with soundfonts of Debian packages that are fetched by name."""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lalm.audio.load import load_audio
from lalm.corpus import packages as debs
from lalm.corpus.tunes import MusicError

RATE_HZ = 32_000  # of the rendering, before it becomes 16 kHz
LIMIT_S = 120.0  # of one rendering
Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Soundfont:
    """A soundfont in a Debian package."""

    package: str
    path: str  # inside the package
    licence: str
    unseen: bool  # never trained on


SOUNDFONTS = (
    Soundfont("fluid-soundfont-gm", "usr/share/sounds/sf2/FluidR3_GM.sf2", "Expat", unseen=False),
    Soundfont("csound-soundfont", "usr/share/sounds/sf2/sf_GMbank.sf2", "public-domain", unseen=False),
    Soundfont("timgm6mb-soundfont", "usr/share/sounds/sf2/TimGM6mb.sf2", "GPL-2", unseen=True),
)


def synthesizer() -> str:
    """The path of the fluidsynth program; raises MusicError where there is none."""
    found = shutil.which("fluidsynth")
    if not found:
        raise MusicError(
            "music is rendered by fluidsynth, which is not installed: apt-get install fluidsynth"
        )
    return found


def soundfont(font: Soundfont, downloads: Path, given: Path | None = None) -> tuple[Path, str]:
    """The file of a soundfont, taken out of its package unless it lies there, and the package's version.

    ``downloads`` keeps packages and files; ``given`` is a folder of .deb files to use where they match the
    package index. Raises ``packages.PackageError``, or MusicError for a package without the file.
    """
    deb, archive = debs.fetch(font.package, downloads, also_in=given)
    kept = downloads / "soundfonts" / f"{font.package}-{archive.sha256[:12]}.sf2"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=downloads) as folder:
            places = debs.unpack(deb, [font.path], Path(folder))
            if font.path not in places:
                raise MusicError(f"package '{font.package}' {archive.version} has no '{font.path}'")
            kept.parent.mkdir(exist_ok=True)
            places[font.path].replace(kept)
    return kept, archive.version


def rendered(file: Any, font: Path, *, reverb: bool) -> Array:
    """(N,) float32 at 16 kHz of a mido MidiFile, with what rings on after its end.

    Raises MusicError where fluidsynth fails or takes longer than two minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        score, sound = Path(folder) / "score.mid", Path(folder) / "sound.wav"
        file.save(score)
        command = [synthesizer(), "-n", "-i", "-q", "-C", "0", "-R", str(int(reverb)), "-g", "0.5"]
        command += ["-r", str(RATE_HZ), "-o", "synth.dynamic-sample-loading=1", "-F", str(sound)]
        try:
            run = subprocess.run(
                [*command, str(font), str(score)],
                capture_output=True,
                text=True,
                check=False,
                timeout=LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            raise MusicError(
                f"fluidsynth did not render a clip with '{font.name}' in {LIMIT_S:g} s"
            ) from None
        if run.returncode or not sound.exists():
            said = (run.stderr.strip().splitlines() or ["it gave no reason"])[-1]
            raise MusicError(f"fluidsynth cannot render with '{font.name}': {said}")
        return load_audio(sound)
