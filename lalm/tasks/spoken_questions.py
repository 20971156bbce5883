"""Spoken questions: a recording of a sound followed by the spoken question about it.

Voice chat and audio analysis differ only in this (Qwen2-Audio, section 2): here one manifest of typed
questions becomes the same questions spoken, so that both can be learned and compared.
"""

import hashlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from lalm.audio.load import SAMPLE_RATE, load_audio
from lalm.data.messages import part_recording
from lalm.data.readers import Reading, read_manifest
from lalm.data.sample import Message, Sample, message_text, write_manifest
from lalm.tasks.sources import SourceError

PAUSE_S = 0.4  # of silence between sound and question
SPEECH_RMS = 0.06
SLOWEST, FASTEST = 1.15, 0.85  # a question is stretched by a factor between them
SYNTHESISERS = {  # how programs are told the voice, the stretch, the text and the WAV file to write
    "flite": lambda voice, stretch, text, out: [
        *("flite", "-voice", voice, "--setf", f"duration_stretch={stretch}", "-t", text, "-o", out)
    ],
    "espeak-ng": lambda voice, stretch, text, out: [
        *("espeak-ng", "-v", voice, "-s", str(round(165 / stretch)), "-w", out, "--", text)
    ],
}


def write_spoken(
    manifest: Path, out: Path, voices: Sequence[str], *, seed: int = 0, reading: Reading | None = None
) -> int:
    """Write ``out``: the questions of ``manifest`` spoken after their sounds; returns how many.

    A row's last user turn must be one recording and a text; both become one new FLAC file in
    ``<out>_audio``, the text stays in ``origin.question`` and the voice in ``origin.voice``. ``voices`` are
    a program and its voice ("flite:slt", "espeak-ng:en-us"); which one asks is drawn by row and ``seed``.
    Raises SourceError for a row or a voice that does not fit.
    """
    check_voices(voices)
    folder = out.with_name(f"{out.name.removesuffix('.jsonl')}_audio")
    return write_manifest(out, _spoken(manifest, folder, voices, seed, reading))


def check_voices(voices: Sequence[str]) -> None:
    """Raise SourceError for a voice that is none, or when there are no voices at all."""
    for voice in voices:
        program, colon, name = voice.partition(":")
        if program not in SYNTHESISERS or not colon or not name:
            raise SourceError(f"a voice is {' or '.join(f'{p}:NAME' for p in SYNTHESISERS)}, not '{voice}'")
    if not voices:
        raise SourceError("no voice is given to ask the questions")


def drawn_voice(voices: Sequence[str], digest: int) -> tuple[str, float]:
    """A voice and how slowly it speaks (1: as it does by itself), by a number that was drawn."""
    stretch = round(FASTEST + (SLOWEST - FASTEST) * (digest // 1000 % 7) / 6, 2)  # few: they are kept
    return voices[digest % len(voices)], stretch


def _spoken(
    manifest: Path, folder: Path, voices: Sequence[str], seed: int, reading: Reading | None
) -> Iterator[Sample]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(read_manifest(manifest, reading), 1):
        place = f"{manifest.name}:{number}"
        prompt = sample.prompt()
        *before, last = prompt.messages
        text = message_text(last)
        if last["role"] != "user" or not text or len(prompt.audios) != 1 or isinstance(last["content"], str):
            raise SourceError(f"{place}: its last turn is not one recording with a question as text")
        name = sample.id or f"{manifest.stem}-{number}"
        digest = int(hashlib.sha256(f"{seed} {name}".encode()).hexdigest()[:12], 16)
        voice, stretch = drawn_voice(voices, digest)
        part = prompt.audios[0]
        sound = part_recording(part).audio
        file = folder / f"{hashlib.sha256(f'{place} {name} {voice}'.encode()).hexdigest()[:20]}.flac"
        whole = np.concatenate([sound, np.zeros(int(PAUSE_S * SAMPLE_RATE)), speech(voice, stretch, text)])
        soundfile.write(file, np.clip(whole, -1.0, 1.0), SAMPLE_RATE)
        turn: Any = {"role": "user", "content": [{"type": "audio", "audio": str(file)}]}
        messages: list[Message] = [*before, turn, *sample.messages[len(prompt.messages) :]]
        origin = {**sample.origin, "question": text, "voice": voice}
        yield replace(sample, messages=tuple(messages), id=f"spoken-{name}", origin=origin)


@cache
def speech(voice: str, stretch: float, text: str) -> Any:
    """A spoken text, (N,) float32 16 kHz at ``SPEECH_RMS``. Raises SourceError when the program fails."""
    program, _, name = voice.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "said.wav")
        try:
            done = subprocess.run(SYNTHESISERS[program](name, stretch, text, out), capture_output=True)
        except FileNotFoundError:
            raise SourceError(f"the program '{program}' is not installed: it asks for '{voice}'") from None
        said = load_audio(out) if done.returncode == 0 and Path(out).is_file() else np.zeros(0, np.float32)
    if not len(said) or not said.any():
        why = " ".join(done.stderr.decode(errors="replace").split())[:100]
        raise SourceError(f"{voice} does not say '{text[:40]}'{': ' + why if why else ''}")
    return said * np.float32(SPEECH_RMS / np.sqrt(np.mean(said**2)))
