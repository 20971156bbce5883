"""Overlapped speech: reads LibriMix, and mixes transcribed clips."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from lalm.audio.load import SAMPLE_RATE, load_audio
from lalm.data.sample import Sample
from lalm.tasks.sources import Source, SourceError, heard, table
from lalm.tasks.speech import librispeech, transcripts

MAX_LEVEL_DB = 5.0  # of the first voice over the second, either way
MAX_DELAY_S = 1.0  # of the second voice
PEAK = 0.9


def librimix(source: Source) -> Iterator[Sample]:
    """LibriMix's storage folder: ``**/metadata/mixture_SUBSET_KIND.csv``, mixtures in ``SUBSET/KIND/ID.wav``
    beside ``metadata``, and LibriSpeech with its transcripts below the same folder. ``split`` is the subset
    ("train-360")."""
    said = {sample.origin["recording"]: sample.target for sample in librispeech(source)}
    for path in source.files("metadata/mixture_*.csv"):
        _, subset, kind = path.stem.split("_", 2)
        for place, row in table(path, ["mixture_ID", "mixture_path"]):
            name = row["mixture_ID"]
            unknown = [part for part in name.split("_") if part not in said]
            if unknown:
                raise SourceError(f"{place}: LibriSpeech's transcripts have no {unknown[0]}")
            audio = source.moved(path.parents[1] / subset / kind / f"{name}.wav")
            made = _mixture(f"{kind}-{name}", audio, [said[part] for part in name.split("_")])
            yield replace(made, split=subset)


def mixed(source: Source) -> Iterator[Sample]:
    """Two clips of different speakers in one, written to ``source.made``: clips of a LibriSpeech folder, or
    of a manifest whose ``origin`` names transcript and speaker. Each clip is used once."""
    clips = list(librispeech(source) if source.path.is_dir() else transcripts(source))
    rng = np.random.default_rng(source.seed)
    waiting: list[Sample] = []
    for i in rng.permutation(len(clips)):
        if "speaker" not in clips[i].origin:
            raise SourceError(f"{source.path.name}: {clips[i].id} does not name its speaker")
        speaker = clips[i].origin["speaker"]
        partner = next((clip for clip in waiting if clip.origin["speaker"] != speaker), None)
        if partner is None:
            waiting.append(clips[i])
            continue
        waiting.remove(partner)
        yield _mix(partner, clips[i], rng, source)


def mix(first: np.ndarray, second: np.ndarray, delay: int, level_db: float) -> np.ndarray:
    """Two mono waveforms at equal power but for ``level_db``, the second ``delay`` samples later: float32."""
    length = max(len(first), delay + len(second))
    whole = np.zeros(length, np.float32)
    whole[: len(first)] += first / (np.sqrt(np.mean(first**2)) + 1e-9) * 10 ** (level_db / 40)
    whole[delay : delay + len(second)] += (
        second / (np.sqrt(np.mean(second**2)) + 1e-9) * 10 ** (-level_db / 40)
    )
    return whole * np.float32(PEAK / (np.abs(whole).max() + 1e-9))


def _mix(first: Sample, second: Sample, rng: np.random.Generator, source: Source) -> Sample:
    name = f"{first.origin['recording']}_{second.origin['recording']}"
    audio = mix(
        load_audio(first.audios[0]["audio"]),
        load_audio(second.audios[0]["audio"]),
        int(rng.uniform(0, MAX_DELAY_S) * SAMPLE_RATE),
        float(rng.uniform(-MAX_LEVEL_DB, MAX_LEVEL_DB)),
    )
    source.made.mkdir(parents=True, exist_ok=True)
    path = source.made / f"{name}.flac"
    soundfile.write(path, audio, SAMPLE_RATE)
    return _mixture(name, path, [first.target, second.target])


def _mixture(name: str, audio: Path, texts: list[str]) -> Sample:
    """One line a speaker; the lines in the other order are right too."""
    forms = ["\n".join(texts), "\n".join(reversed(texts))]
    return heard("overlap", name, [audio], forms[0], references=forms)
