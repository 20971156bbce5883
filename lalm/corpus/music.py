"""``lalm corpus music``: rendered excerpts of old tunes whose key, tempo and instruments are exactly known.

Tunes are given to other instruments, moved to another key and tempo and rendered by fluidsynth. Four kinds:
one instrument alone ("single"), several at once ("together"), one after another ("sequence"), and one tune
played twice, the second time faster or slower ("twice"). Held out are tunes (test_known), and a collection
with a soundfont of its own (test_unseen).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from lalm.audio.load import SAMPLE_RATE
from lalm.corpus.arrangement import Instrument, Piece, arranged, instruments, midi
from lalm.corpus.catalogue import SPLITS, classes
from lalm.corpus.clips import Array, Progress, write_flac
from lalm.corpus.compose import Rng, bounded, faded, scaled, with_noise
from lalm.corpus.music_questions import music_questions
from lalm.corpus.rendering import SOUNDFONTS, Soundfont, rendered, soundfont, synthesizer
from lalm.corpus.tunes import COLLECTIONS, LICENCE, Melody, MusicError, Tune, melody_of, of_split
from lalm.corpus.wording import sentence
from lalm.data.sample import Event, Sample, ask, write_manifest
from lalm.weights.fetch import cache_root

SHARES = {"single": 0.3, "together": 0.4, "sequence": 0.15, "twice": 0.15}
HELD_OUT = {"single": 96, "together": 96, "sequence": 60, "twice": 60}  # clips of each test
VALID = {"single": 20, "together": 20, "sequence": 10, "twice": 10}
TEMPI = {"slow": (54, 68), "moderate": (90, 110), "fast": (140, 168)}  # beats a minute
SECONDS, HALF_S = 8.0, 4.0  # of an excerpt, and of one of two
MAX_S = 10.0
RINGS_S = 0.4  # after the last beat
FASTER = (1.4, 1.8)  # how many times as fast the faster of two is
DRUMMED = 0.35  # of the clips of several instruments have drums besides
NOTES_A_BEAT = (1.0, 3.2)  # of the melody, so that any tune can be slow or fast
TRIES = 200


@dataclass(frozen=True)
class Plan:
    """What a clip is: pieces one after the other, their tunes, and what its text needs to say."""

    name: str
    kind: str
    tunes: tuple[Tune, ...]
    pieces: tuple[Piece, ...]
    tempo: str
    font: Soundfont


def build_music(
    out: Path,
    num_clips: int,
    *,
    seed: int = 0,
    packages: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Render ``num_clips`` training clips and the held-out ones into ``out``; returns each manifest's lines.

    ``packages`` is a folder of .deb files to use for the soundfonts; others are fetched into the cache. The
    same seed gives the same clips. Stopped and called again, it goes on where it was. Raises MusicError where
    music21, mido or fluidsynth is missing. Example: ``build_music(Path("corpus/music"), 2000)``.
    """
    tell = progress or (lambda step, done, total: None)
    synthesizer()
    own = {split: of_split(split) for split in SPLITS}
    kept = cache_root() / "packages"
    fonts = {font: soundfont(font, kept, packages) for font in SOUNDFONTS}
    counts, used = {}, []
    for split in SPLITS:
        wanted = {kind: round(share * num_clips) for kind, share in SHARES.items()}
        wanted = wanted if split == "train" else VALID if split == "valid" else HELD_OUT
        rows = []
        for done, plan in enumerate(plans(own[split], split, wanted, seed)):
            tell(f"music of {split}", done, sum(wanted.values()))
            rows.append(_clip(plan, split, out, fonts[plan.font][0], seed))
            used.append(plan)
        counts[split] = write_manifest(out / f"{split}.jsonl", rows)
        if split.startswith("test"):
            name = "questions_" + split.removeprefix("test_")
            items = music_questions(rows, np.random.default_rng([seed, *name.encode()]))
            counts[name] = write_manifest(out / f"{name}.jsonl", items)
    _write_attribution(used, {font: version for font, (_, version) in fonts.items()}, out)
    (out / "music.json").write_text(json.dumps({"seed": seed, **counts}, indent=1) + "\n", "utf-8")
    return counts


def plans(
    own: Mapping[str, Sequence[Tune]], split: str, wanted: Mapping[str, int], seed: int
) -> Iterator[Plan]:
    """The clips of a split, each by a generator of its own; modes, tempi and sizes come equally often."""
    fonts = [font for font in SOUNDFONTS if font.unseen == (split == "test_unseen")]
    for kind, count in wanted.items():
        for number in range(count):
            name = f"{split}-{kind}-{number:05d}"
            rng = np.random.default_rng([seed, *name.encode()])
            font = fonts[int(rng.integers(len(fonts)))]
            tunes = own[("major", "minor")[number % 2]]
            tempo = list(TEMPI)[number // 2 % 3]
            size = 2 + number // 6 % 2 if kind == "together" else 2 if kind == "sequence" else 1
            band = [instruments()[i] for i in rng.choice(len(instruments()), size, replace=False)]
            first_faster = number // 6 % 2 == 0
            try:
                played, pieces = _pieces(kind, first_faster, tunes, band, tempo, rng)
            except MusicError:  # few tunes, and none of them fits the tempo: one of either mode
                either = [tune for mode in own.values() for tune in mode]
                played, pieces = _pieces(kind, first_faster, either, band, tempo, rng)
            yield Plan(name, kind, played, pieces, tempo, font)


def _pieces(
    kind: str, first_faster: bool, tunes: Sequence[Tune], band: Sequence[Instrument], tempo: str, rng: Rng
) -> tuple[tuple[Tune, ...], tuple[Piece, ...]]:
    beats = int(rng.integers(TEMPI[tempo][0], TEMPI[tempo][1] + 1))
    if kind == "sequence":
        both = [_piece(tunes, [player], beats, HALF_S, rng) for player in band]
        return tuple(tune for tune, _ in both), tuple(piece for _, piece in both)
    if kind == "twice":
        fast = int(rng.integers(110, 161))
        tune, piece = _piece(tunes, band, fast, 3.0, rng)
        slow = replace(piece, beats_a_minute=round(fast / rng.uniform(*FASTER)))
        return (tune,), (piece, slow) if first_faster else (slow, piece)
    drums = kind == "together" and bool(rng.random() < DRUMMED)
    tune, piece = _piece(tunes, band, beats, SECONDS, rng, drums=drums)
    return (tune,), (piece,)


def _piece(
    tunes: Sequence[Tune],
    band: Sequence[Instrument],
    beats: int,
    seconds: float,
    rng: Rng,
    *,
    drums: bool = False,
) -> tuple[Tune, Piece]:
    """A tune that can be played at this tempo, and an excerpt whose notes tell its key."""
    for _ in range(TRIES):
        tune = tunes[int(rng.integers(len(tunes)))]
        melody = _melody(tune)
        if melody is None or not NOTES_A_BEAT[0] <= _density(melody) <= NOTES_A_BEAT[1]:
            continue
        piece = arranged(melody, (tune.tonic, tune.mode), band, beats, seconds, rng, drums=drums)
        if piece.heard and piece.seconds < MAX_S - RINGS_S:
            return tune, piece
    raise MusicError(f"none of {TRIES} tunes that were drawn of {len(tunes)} can be played at {beats} beats")


@cache
def _melody(tune: Tune) -> Melody | None:
    return melody_of(tune)


def _density(melody: Melody) -> float:
    return len(melody.notes) / (melody.num_bars * melody.beats_a_bar)


def _clip(plan: Plan, split: str, out: Path, font: Path, seed: int) -> Sample:
    """The clip's line, its file rendered unless it lies there; the file's name tells what was rendered."""
    digest = hashlib.sha256(repr((plan.pieces, font.name, seed)).encode()).hexdigest()[:8]
    path = out / "clips" / split / f"{plan.name}-{digest}.flac"
    rng = np.random.default_rng([seed, 1, *plan.name.encode()])
    gap_s, level_db, reverb = rng.uniform(0.15, 0.4), rng.uniform(-12.0, 0.0), bool(rng.random() < 0.7)
    starts = [0.0]
    for piece in plan.pieces[:-1]:
        starts.append(starts[-1] + piece.seconds + RINGS_S + gap_s)
    if not path.exists():
        audio = np.zeros(round((starts[-1] + plan.pieces[-1].seconds + RINGS_S) * SAMPLE_RATE), np.float32)
        for piece, start in zip(plan.pieces, starts, strict=True):
            played = scaled(_played(piece, font, reverb), level_db)
            at = round(start * SAMPLE_RATE)
            audio[at : at + len(played)] += played[: len(audio) - at]
        write_flac(path, bounded(with_noise(audio, rng)))
    return _captioned(plan, split, path, starts)


def _played(piece: Piece, font: Path, reverb: bool) -> Array:
    audio = rendered(midi(piece), font, reverb=reverb)
    if np.abs(audio).max(initial=0.0) < 1e-3:
        names = ", ".join(part.label for part in piece.parts)
        raise MusicError(f"'{font.name}' renders silence for {names}")
    return faded(audio[: round((piece.seconds + RINGS_S) * SAMPLE_RATE)])


def _captioned(plan: Plan, split: str, path: Path, starts: Sequence[float]) -> Sample:
    """A line of the caption manifest, with all that is known about the clip in ``origin``."""
    events: list[Event] = []
    for piece, start in zip(plan.pieces, starts, strict=True):
        for label in dict.fromkeys(part.label for part in piece.parts):
            if not any(event["label"] == label for event in events):
                caption = f"{classes()[label].name} plays"
                end = start + piece.seconds + RINGS_S
                events.append({"label": label, "caption": caption, "onset_s": start, "offset_s": end})
            elif plan.kind == "twice":
                events[-1]["offset_s"] = start + piece.seconds + RINGS_S
    for event in events:
        event["onset_s"], event["offset_s"] = round(event["onset_s"], 3), round(event["offset_s"], 3)
    first, last = plan.pieces[0], plan.pieces[-1]
    origin = {
        "recording": plan.name,
        "kind": plan.kind,
        "package": plan.font.package,
        "path": ", ".join(f"{tune.collection}/{tune.file}#{tune.number}" for tune in plan.tunes),
        "licence": f"{LICENCE}; soundfont {plan.font.licence}",
        "instruments": ", ".join(classes()[event["label"]].name for event in events),
    }
    if plan.kind != "sequence":
        origin |= {"key": f"{first.key} {first.mode}", "mode": first.mode, "metre": first.metre}
    if plan.kind in ("single", "together"):
        origin["beats_a_minute"] = str(first.beats_a_minute)
        if first.marked:
            origin["tempo"] = plan.tempo
    if plan.kind == "twice":
        origin["second"] = "faster" if last.beats_a_minute > first.beats_a_minute else "slower"
    origin["caption"] = _caption(origin, [classes()[event["label"]].name for event in events])
    return Sample(
        messages=ask([str(path)], "").with_target(sentence(origin["caption"])).messages,
        id=plan.name,
        task="caption",
        references=(origin["caption"],),
        split=split,
        events=tuple(events),
        origin=origin,
    )


def _caption(origin: Mapping[str, str], names: Sequence[str]) -> str:
    """A clause: "a violin and a piano play a slow tune in a minor key"."""
    if origin["kind"] == "sequence":
        return f"{names[0]} plays, then {names[1]}"
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    verb = "play" if len(names) > 1 else "plays"
    if origin["kind"] == "twice":
        return f"{listed} {verb} a tune in a {origin['mode']} key, and then again, {origin['second']}"
    tempo = f"{origin['tempo']} " if origin.get("tempo") in ("slow", "fast") else ""
    return f"{listed} {verb} a {tempo}tune in a {origin['mode']} key"


def _write_attribution(used: Sequence[Plan], versions: Mapping[Soundfont, str], out: Path) -> None:
    """``attribution.tsv``: every tune and soundfont used, with where it comes from and its licence."""
    lines = {"source\tname\tversion or collection\tby\tlicence"}
    for plan in used:
        for tune in plan.tunes:
            place = f"music21/{tune.collection}/{tune.file}#{tune.number}"
            lines.add("\t".join((place, tune.title, COLLECTIONS[tune.collection], tune.transcriber, LICENCE)))
        font = plan.font
        lines.add("\t".join((font.package, font.path, versions[font], "", font.licence)))
    text = "\n".join(sorted(lines, key=lambda line: (not line.startswith("source\t"), line)))
    (out / "attribution.tsv").write_text(text + "\n", "utf-8")
