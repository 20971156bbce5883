"""Packages -> clips: every catalogued recording as 16 kHz mono FLAC, without duplicates."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from lalm.audio.asked import AudioError
from lalm.audio.load import SAMPLE_RATE, load_audio
from lalm.corpus import packages as debs
from lalm.corpus.catalogue import SPLITS, Row, SoundClass, classes, split_of
from lalm.corpus.containers import read_member

MIN_CLIP_S = 0.25
MAX_CLIP_S = 10.0
MUSIC_S = 8.0  # of a track, from MUSIC_START_S on where it is long enough
MUSIC_START_S = 15.0
FRAME_S = 0.02
NEARLY_EQUAL = 0.985  # cosine of fingerprints
Array = np.ndarray[Any, np.dtype[np.float32]]
Progress = Callable[[str, int, int], None]  # step, done, total


@dataclass(frozen=True)
class Clip:
    """A decoded recording."""

    row: Row
    split: str
    path: str  # relative to the corpus folder
    num_samples: int
    bursts: int  # stretches of sound with silence between them

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def sound(self) -> SoundClass:
        """What the label means."""
        return classes()[self.row.label]

    @property
    def seconds(self) -> float:
        return self.num_samples / SAMPLE_RATE


def decode(rows: Sequence[Row], out: Path, downloads: Path, given: Path | None, progress: Progress) -> int:
    """Write ``out/clips/<id>.flac`` for every row and ``out/packages/<name>.json`` for every package.

    A package whose file lies there is done and is not fetched again, unless the catalogue has new rows for
    it. Files the package lacks, damaged ones and ones that are silent or too short are noted there as refused
    with the reason. Returns how many packages were fetched.
    """
    by_package: dict[str, list[Row]] = {}
    for row in rows:
        by_package.setdefault(row.package, []).append(row)
    (out / "clips").mkdir(parents=True, exist_ok=True)
    fetched = 0
    for done, (name, own) in enumerate(sorted(by_package.items())):
        progress(f"package {name}", done, len(by_package))
        note = out / "packages" / f"{name}.json"
        before = json.loads(note.read_text("utf-8")) if note.exists() else {"refused": {}}
        missing = [r for r in own if not _target(out, r).exists() and r.id not in before["refused"]]
        if note.exists() and not missing:
            continue
        deb, archive = debs.fetch(name, downloads, also_in=given)
        refused = before["refused"] | _decode_package(missing, deb, out)
        fetched += 1
        text = json.dumps(
            {"version": archive.version, "sha256": archive.sha256, "refused": refused}, indent=1
        )
        _write_text(note, text + "\n")
    return fetched


def _decode_package(rows: Sequence[Row], deb: Path, out: Path) -> dict[str, str]:
    """Clips of one package; returns id -> reason of those refused."""
    folder = out / "unpacked"
    refused = {}
    try:
        places = debs.unpack(deb, {row.path.split("!")[0] for row in rows}, folder)
        for row in rows:
            outer, _, member = row.path.partition("!")
            if outer not in places:
                refused[row.id] = "not in the package"
                continue
            try:
                audio = prepared(_load(places[outer], member, row.kind))
                write_flac(_target(out, row), audio)
            except ValueError as error:  # some files are damaged in their packages
                refused[row.id] = str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return refused


def _load(path: Path, member: str, kind: str) -> Array:
    source = read_member(path, member) if member else path
    if path.suffix == ".g722":
        return _g722(path)
    if kind != "music":
        return load_audio(source, duration_s=3 * MAX_CLIP_S)
    try:
        audio = load_audio(source, offset_s=MUSIC_START_S, duration_s=MUSIC_S)
    except AudioError:  # shorter than the start
        return load_audio(source, duration_s=MUSIC_S)
    return audio if len(audio) >= MUSIC_S * SAMPLE_RATE // 2 else load_audio(source, duration_s=MUSIC_S)


def _g722(path: Path) -> Array:
    """Raw G.722 says nothing about itself, so the format is named to the decoder."""
    import av

    with av.open(str(path), format="g722") as container:
        blocks = [frame.to_ndarray() for frame in container.decode(audio=0)]
    audio = np.concatenate([block.reshape(-1) for block in blocks]) if blocks else np.zeros(0, np.int16)
    return load_audio(np.ascontiguousarray(audio), rate=SAMPLE_RATE)


def prepared(audio: Array) -> Array:
    """Ends of digital silence off, 10 s at most, clipping and whispers brought into range.

    Raises AudioError for what is silent or shorter than 0.25 s.
    """
    peak = float(np.abs(audio).max(initial=0.0))
    if peak < 1e-3:
        raise AudioError("the recording is silent")
    loud = np.flatnonzero(np.abs(audio) > 1e-3 * peak)
    audio = audio[loud[0] : loud[-1] + 1]
    if len(audio) < MIN_CLIP_S * SAMPLE_RATE:
        raise AudioError(f"the recording is shorter than {MIN_CLIP_S} s")
    audio = audio[: int(MAX_CLIP_S * SAMPLE_RATE)]
    if peak > 0.99:
        return audio * np.float32(0.99 / peak)
    return audio * np.float32(0.1 / peak) if peak < 0.1 else audio


def gather(rows: Sequence[Row], out: Path) -> list[Clip]:
    """The decoded clips without repeats, within and across packages.

    Of equal recordings the one in the most protected split stays (test_unseen, test_known, valid, train).
    Recordings that are nearly equal (one sound encoded or faded differently) are kept side by side within a
    split, but never on both sides of one.
    """
    order = {split: rank for rank, split in enumerate(reversed(SPLITS))}
    clips: list[Clip] = []
    prints = np.zeros((len(rows), 128), np.float32)  # of clips, in their order
    digests: set[str] = set()
    for row in sorted(rows, key=lambda r: (order[split_of(r)], r.id)):
        path = _target(out, row)
        if not path.exists():
            continue
        audio = read_flac(path)
        digest = hashlib.sha256(
            np.round(audio / np.abs(audio).max() * 127).astype(np.int8).tobytes()
        ).hexdigest()
        if digest in digests:
            continue
        digests.add(digest)
        split, mine = split_of(row), fingerprint(audio)
        if _straddles(mine, len(audio), split, prints[: len(clips)], clips):
            continue
        prints[len(clips)] = mine
        clips.append(Clip(row, split, str(path.relative_to(out)), len(audio), count_bursts(audio)))
    return sorted(clips, key=lambda clip: (SPLITS.index(clip.split), clip.id))


def _straddles(mine: Array, size: int, split: str, prints: Array, clips: Sequence[Clip]) -> bool:
    close = np.flatnonzero(prints @ mine > NEARLY_EQUAL).tolist()
    return any(clips[i].split != split and abs(clips[i].num_samples - size) < 0.05 * size for i in close)


def fingerprint(audio: Array) -> Array:
    """(128,) unit vector: energies of 16 bands in 8 stretches, in dB, mean removed; audio: (N,) 16 kHz."""
    size = max(len(audio) // 8, 512)
    padded = np.pad(audio, (0, max(0, 8 * size - len(audio))))[: 8 * size].reshape(8, size)
    power = np.abs(np.fft.rfft(padded, axis=1)) ** 2
    edges = np.geomspace(60, 8000, 17) / 8000 * (power.shape[1] - 1)
    bands = [power[:, int(a) : max(int(b), int(a) + 1)].mean(axis=1) for a, b in pairwise(edges)]
    levels = np.log10(np.stack(bands) + 1e-8).reshape(-1)
    levels -= levels.mean()
    return (levels / (np.linalg.norm(levels) + 1e-9)).astype(np.float32)


def count_bursts(audio: Array) -> int:
    """How many separate sounds a clip holds: stretches within 25 dB of the peak, at least 60 ms apart."""
    size = int(FRAME_S * SAMPLE_RATE)
    frames = np.abs(audio[: len(audio) // size * size]).reshape(-1, size).max(axis=1)
    active = np.flatnonzero(frames > frames.max(initial=0.0) * 10 ** (-25 / 20))
    return 1 + int((np.diff(active) > 0.06 / FRAME_S).sum()) if len(active) else 0


def write_attribution(clips: Sequence[Clip], out: Path) -> None:
    """``attribution.tsv``: every file used, with its package, version, path and licence."""
    notes = {
        name: json.loads((out / "packages" / f"{name}.json").read_text("utf-8"))
        for name in {clip.row.package for clip in clips}
    }
    lines = ["clip\tpackage\tversion\tpath\tlicence\n"]
    for clip in clips:
        row = clip.row
        lines.append(
            f"{clip.id}\t{row.package}\t{notes[row.package]['version']}\t{row.path}\t{row.licence}\n"
        )
    _write_text(out / "attribution.tsv", "".join(lines))


def read_flac(path: Path) -> Array:
    """(N,) float32."""
    audio, _ = soundfile.read(path, dtype="float32")
    return np.asarray(audio, np.float32)


def write_flac(path: Path, audio: Array) -> None:
    """16-bit FLAC at 16 kHz, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.part")
    soundfile.write(draft, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    draft.replace(path)


def _target(out: Path, row: Row) -> Path:
    return out / "clips" / f"{row.id}.flac"


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.part")
    draft.write_text(text, "utf-8")
    draft.replace(path)
