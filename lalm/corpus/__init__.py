"""``lalm corpus build``: a captioned corpus of real recordings out of Debian packages, with held-out sets.

Steps, each skipped where its result lies already: fetch packages, unpack the catalogued files, decode them
to 16 kHz mono FLAC, split by source, compose scenes, write manifests and questions.
"""

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import soundfile

from lalm.audio import SAMPLE_RATE, AudioError, load_audio
from lalm.corpus import packages as debs
from lalm.corpus.compose import MAX_SCENE_S, Clip, Scene, crop, over_bed, repetition, scaled, sequence, vary, with_noise
from lalm.corpus.containers import read_member
from lalm.corpus.questions import Recording, instructions, questions
from lalm.sample import Event, Sample, ask, write_manifest

TIERS = ("small", "medium")
# Never trained on: whole packages, chosen to share classes with the others.
UNSEEN = frozenset(
    "scorched3d-data libreoffice-common simutrans-pak64 lugaru-data searchandrescue-data gamine-data "
    "supertuxkart-data unknown-horizons warmux-data asterisk-core-sounds-it-g722 fillets-ng-data-nl".split()
)
BEDS = ("ambience", "weather", "water", "fire", "machine", "music")
SHORT_S = 2.5
LONGEST_S = 10.0
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """One line of catalogue.tsv."""

    tier: str
    package: str
    path: str
    label: str
    caption: str
    name: str
    language: str
    licence: str
    transcript: str

    @property
    def id(self) -> str:
        return f"{self.package}-{hashlib.sha1(self.path.encode()).hexdigest()[:10]}"

    @property
    def family(self) -> str:
        """What variants of one sound share: the label and the file's stem without counters."""
        stem = re.sub(r"[\W\d_]+", "", Path(self.path.split("!")[-1]).stem.lower())
        return f"{self.label}/{stem}"


def catalogue(tier: str) -> list[Row]:
    """The files of a tier: "medium" holds "small" too."""
    if tier not in TIERS:
        raise ValueError(f"there is no tier '{tier}'; the tiers are: {', '.join(TIERS)}")
    text = (resources.files("lalm.corpus") / "catalogue.tsv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [Row(**row) for row in rows if TIERS.index(row["tier"]) <= TIERS.index(tier)]


def split_of(row: Row) -> str:
    """train, valid, test_known or test_unseen; all variants of a sound fall together."""
    if row.package in UNSEEN:
        return "test_unseen"
    draw = int(hashlib.sha256(row.family.encode()).hexdigest()[:8], 16) / 16**8
    return "test_known" if draw < 0.12 else "valid" if draw < 0.15 else "train"


def build(
    tier: str,
    out: Path,
    *,
    seed: int = 0,
    num_scenes: int = 5000,
    copies: int = 2,
    packages: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Build the corpus in ``out`` and return how many lines each manifest has.

    ``packages`` is where .deb files lie or are downloaded to. ``num_scenes`` composed training scenes and
    ``copies`` varied takes of every training clip are rendered; the tests get 400 scenes each.
    """
    rows = catalogue(tier)
    tell = progress or (lambda step, done, total: None)
    places = _unpacked(rows, packages or out / "packages", out, tell)
    clips, used = _decoded(rows, places, out, tell)
    _write_attribution(out, used, packages or out / "packages")
    names = {row.label: row.name for row in rows}
    counts = {}
    for split, scenes in (("train", num_scenes), ("valid", 100), ("test_known", 400), ("test_unseen", 400)):
        own = [clip for clip in clips if clip.split == split]
        if not own:
            raise ValueError(f"the corpus has no clip for the split '{split}'")
        rng = np.random.default_rng([seed, int(hashlib.sha256(split.encode()).hexdigest()[:8], 16)])
        licences = {row.id: row for row in used}
        recordings = [*_singles(own), *_scenes(own, out, split, scenes, rng, tell)]
        if split == "train":
            recordings += _copies(own, out, copies, rng, tell)
        counts[split] = write_manifest(out / f"{split}.jsonl", (_sample(r, out, split, licences) for r in recordings))
        if split.startswith("test"):
            name = split.removeprefix("test_")
            absolute = [Recording(**{**r.__dict__, "path": str(out / r.path)}) for r in recordings]
            heard = {label: names[label] for clip in own for label in [clip.label]}
            for kind, make in (("questions", questions), ("instructions", instructions)):
                items = _unique(make(absolute, heard, rng))
                counts[f"{kind}_{name}"] = write_manifest(out / f"{kind}_{name}.jsonl", items)
    (out / "corpus.json").write_text(
        json.dumps({"tier": tier, "seed": seed, "scenes": num_scenes, "copies": copies, **counts}, indent=1) + "\n"
    )
    return counts


def _unique(items: Sequence[Sample]) -> list[Sample]:
    return list({item.id: item for item in items}.values())


def _unpacked(rows: Sequence[Row], folder: Path, out: Path, tell: Progress) -> dict[tuple[str, str], Path]:
    """(package, outer path) -> unpacked file."""
    places = {}
    by_package: dict[str, set[str]] = {}
    for row in rows:
        by_package.setdefault(row.package, set()).add(row.path.split("!")[0])
    for done, (package, wanted) in enumerate(sorted(by_package.items())):
        tell(f"package {package}", done, len(by_package))
        deb = debs.fetch(package, folder)
        for name, place in debs.unpack(deb, wanted, out / "unpacked" / package).items():
            places[package, name] = place
    return places


def _decoded(
    rows: Sequence[Row], places: dict[tuple[str, str], Path], out: Path, tell: Progress
) -> tuple[list[Clip], list[Row]]:
    """FLAC clips, without repeats of the same audio and without what cannot be read or is silent."""
    (out / "clips").mkdir(parents=True, exist_ok=True)
    clips, used, seen = [], [], set()
    for done, row in enumerate(rows):
        tell("clips", done, len(rows))
        target = out / "clips" / f"{row.id}.flac"
        outer, _, member = row.path.partition("!")
        if not target.exists():
            if (row.package, outer) not in places:
                continue
            try:
                source = places[row.package, outer]
                audio = _trimmed(load_audio(read_member(source, member) if member else source))
            except ValueError:  # one file in some hundred is damaged in its package
                continue
            if len(audio) < SAMPLE_RATE // 4:
                continue
            limit = 30 * SAMPLE_RATE
            _write_flac(target, scaled(audio[:limit], 0.0) if np.abs(audio).max() > 0.98 else audio[:limit])
        audio, _ = soundfile.read(target, dtype="float32")
        digest = hashlib.sha256(np.round(scaled(audio, 0.0) * 256).astype(np.int16).tobytes()).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        seconds = len(audio) / SAMPLE_RATE
        clips.append(Clip(row.id, split_of(row), row.label, row.caption, row.name, f"clips/{row.id}.flac", seconds))
        used.append(row)
    return clips, used


def _trimmed(audio: np.ndarray) -> np.ndarray:
    """Without digital silence (60 dB below the peak) at either end."""
    loud = np.flatnonzero(np.abs(audio) > 1e-3 * np.abs(audio).max(initial=0.0))
    return audio[loud[0] : loud[-1] + 1] if len(loud) else audio[:0]


def _write_flac(target: Path, audio: np.ndarray) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(f".{os.getpid()}.part")
    soundfile.write(draft, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    draft.rename(target)


def _read(clip: Clip, out: Path) -> np.ndarray:
    audio, _ = soundfile.read(out / clip.path, dtype="float32")
    return np.asarray(audio, np.float32)


def _event(clip: Clip) -> Event:
    return {"label": clip.label, "caption": clip.caption, "onset_s": 0.0, "offset_s": clip.seconds}


def _singles(clips: Sequence[Clip]) -> Iterator[Recording]:
    for clip in clips:
        yield Recording(clip.id, clip.path, clip.caption, "single", (clip,), (_event(clip),))


def _copies(
    clips: Sequence[Clip], out: Path, copies: int, rng: np.random.Generator, tell: Progress
) -> Iterator[Recording]:
    """Varied takes of single clips."""
    for number in range(copies):
        for done, clip in enumerate(clips):
            tell("takes", number * len(clips) + done, copies * len(clips))
            audio = with_noise(vary(crop(_read(clip, out), LONGEST_S, rng), rng), rng)
            name = f"{clip.id}-take{number + 1}"
            path = f"scenes/train/{name}.flac"
            _write_flac(out / path, audio)
            event: Event = {**_event(clip), "offset_s": len(audio) / SAMPLE_RATE}
            yield Recording(name, path, clip.caption, "single", (clip,), (event,))


def _scenes(
    clips: Sequence[Clip], out: Path, split: str, count: int, rng: np.random.Generator, tell: Progress
) -> Iterator[Recording]:
    """Composed scenes: 50 % sequences, 30 % over a bed, 20 % repetitions; rare classes drawn more often."""
    frequency = Counter(clip.label for clip in clips)
    weights = np.array([frequency[clip.label] ** -0.5 for clip in clips])
    beds = [i for i, clip in enumerate(clips) if clip.group in BEDS and clip.seconds >= SHORT_S]
    short = np.array([clip.seconds <= SHORT_S for clip in clips])

    def draw(number: int, mask: np.ndarray | None = None) -> list[Clip]:
        odds = weights if mask is None else weights * mask
        return [clips[i] for i in rng.choice(len(clips), number, replace=False, p=odds / odds.sum())]

    for done in range(count):
        tell(f"scenes {split}", done, count)
        kind = str(rng.choice(["sequence", "bed", "repetition"], p=[0.5, 0.3, 0.2]))
        scene: Scene
        if kind == "repetition":
            (clip,) = draw(1, short)
            scene = repetition(clip, _read(clip, out), int(rng.integers(1, 5)), rng)
        elif kind == "bed" and beds:
            bed = clips[int(rng.choice(beds))]
            front = [c for c in draw(int(rng.integers(1, 3))) if c.group != bed.group] or draw(1, short)
            scene = over_bed(bed, _read(bed, out), front, [_read(c, out) for c in front], rng)
        else:
            kind = "sequence"
            chosen = draw(int(rng.choice([2, 3, 4], p=[0.6, 0.3, 0.1])))
            scene = sequence(chosen, [_read(c, out) for c in chosen], rng)
        name = f"{split}-{done:05d}"
        path = f"scenes/{split}/{name}.flac"
        assert len(scene.audio) <= (2 * MAX_SCENE_S) * SAMPLE_RATE
        _write_flac(out / path, scene.audio)
        yield Recording(name, path, scene.caption, kind, scene.clips, scene.events)


def _sample(recording: Recording, out: Path, split: str, rows: dict[str, Row]) -> Sample:
    """A caption manifest line."""
    used = [rows[clip.id] for clip in recording.clips]
    sample = ask([str(out / recording.path)], "").with_target(recording.caption[0].upper() + recording.caption[1:] + ".")
    origin = {
        "recording": recording.id,
        "kind": recording.kind,
        "packages": ",".join(sorted({row.package for row in used})),
        "licence": ",".join(sorted({row.licence for row in used})),
    }
    transcript = " ".join(row.transcript for row in used if row.transcript)
    if transcript:
        origin["transcript"] = transcript
    return Sample(
        messages=sample.messages,
        id=recording.id,
        task="caption",
        references=(recording.caption,),
        split=split,
        events=recording.events,
        origin=origin,
    )


def _write_attribution(out: Path, rows: Sequence[Row], folder: Path) -> None:
    """Every file used, with its package, version and licence."""
    versions = {package: debs.version(debs.fetch(package, folder)) for package in {row.package for row in rows}}
    with (out / "attribution.tsv").open("w", encoding="utf-8") as file:
        file.write("clip\tpackage\tversion\tpath\tlicence\n")
        for row in rows:
            file.write(f"{row.id}\t{row.package}\t{versions[row.package]}\t{row.path}\t{row.licence}\n")


__all__ = ["TIERS", "AudioError", "build", "catalogue", "split_of"]
