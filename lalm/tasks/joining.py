"""Joins a sample's clips into one recording with 0.1 s of silence between, as the released SALMONN does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from lalm.audio.load import SAMPLE_RATE, load_audio
from lalm.data.sample import AudioPart, Message, Sample

PAUSE = 1_600  # samples of silence, released code


def joined(sample: Sample, folder: Path) -> Sample:
    """The sample with one audio in the place of its first, written to ``folder``; one clip alone stays."""
    if len(sample.audios) < 2:
        return sample
    clips = [load_audio(part["audio"]) for part in sample.audios]
    pieces = [piece for clip in clips for piece in (clip, np.zeros(PAUSE, np.float32))]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{sample.id}.flac"
    soundfile.write(path, np.concatenate(pieces[:-1]), SAMPLE_RATE)
    one: AudioPart = {"type": "audio", "audio": str(path)}
    first, *rest = sample.messages
    texts = [part for part in first["content"] if not isinstance(part, str) and part["type"] == "text"]
    user: Message = {"role": "user", "content": [one, *texts]}
    return replace(sample, messages=(user, *rest))
