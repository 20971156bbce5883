"""An excerpt of a tune for other instruments: melody, accompaniment on every beat, drums, tempo and key.

The harmony is made here: in each bar the tonic's, subdominant's or dominant's triad that holds most of the
melody. So the key is the notated one, moved; ``heard`` says whether the notes by themselves tell it, too.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from lalm.corpus.tunes import Melody, Note

NAMES = ("C", "D flat", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
PITCHES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
DEGREES = {
    "major": ((0, 4, 7), (5, 9, 0), (7, 11, 2)),
    "minor": ((0, 3, 7), (5, 8, 0), (10, 2, 5), (7, 10, 2)),
}
# How much each degree is heard in a key: Krumhansl and Kessler 1982, as in Krumhansl 1990, table 2.1.
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
DRUMS = "instrument/drum kit"
KICK, SNARE, HIHAT = 36, 38, 42
LOUDNESS = {"melody": 100, "bass": 84, "chords": 66, "voice": 76, "drums": 78}
Rng = np.random.Generator


@dataclass(frozen=True)
class Instrument:
    """A General MIDI instrument: its programs, its comfortable pitches, and what it plays below a melody."""

    label: str
    programs: tuple[int, ...]
    low: int
    high: int
    plays: str  # "chords", "bass" or "voice": a note of the chord


@dataclass(frozen=True)
class Part:
    """What one instrument plays: notes and how loud each is (1 to 127); drums have no program."""

    label: str
    program: int | None
    notes: tuple[tuple[Note, int], ...]


@dataclass(frozen=True)
class Piece:
    """An arranged excerpt. ``marked``: something sounds on every beat, so that the tempo can be told."""

    parts: tuple[Part, ...]
    key: str  # "B flat"
    mode: str
    heard: bool
    metre: str
    quarters_a_beat: float
    beats_a_minute: int
    marked: bool
    quarters: float

    @property
    def seconds(self) -> float:
        """How long the bars last; the last note may ring on."""
        return self.quarters / self.quarters_a_beat * 60 / self.beats_a_minute


@cache
def instruments() -> tuple[Instrument, ...]:
    """The instruments that melodies are given to."""
    text = (resources.files("lalm.corpus") / "instruments.tsv").read_text("utf-8")
    return tuple(
        Instrument(
            r["label"], tuple(map(int, r["programs"].split())), int(r["low"]), int(r["high"]), r["plays"]
        )
        for r in csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    )


def arranged(
    melody: Melody,
    key: tuple[str, str],
    band: Sequence[Instrument],
    beats_a_minute: int,
    seconds: float,
    rng: Rng,
    *,
    drums: bool = False,
) -> Piece:
    """About ``seconds`` of a melody for a band of one to three; ``key`` is (notated tonic, mode).

    The first plays the melody; others bass, chords or a second voice, as they can. An instrument alone plays
    chords below its melody every second time, if it can. A stretch that is too short is played again.
    """
    tonic, mode = key
    move = int(rng.integers(-5, 7))
    root = (PITCHES[tonic[0]] + {"#": 1, "b": -1}.get(tonic[1:], 0) + move) % 12
    bar_s = melody.beats_a_bar * 60 / beats_a_minute
    num_bars = max(1, round(seconds / bar_s))
    tune = _excerpt(melody, num_bars, move, rng)
    chords = [_chord(tune, at * melody.bar, melody.bar, root, mode) for at in range(num_bars)]
    alone = len(band) == 1 and band[0].plays == "chords" and rng.random() < 0.5
    lead = band[0]
    parts = [_part(lead, _fitted(tune, lead), "melody", rng)]
    for player in [lead] if alone else band[1:]:
        parts.append(_below(player, chords, melody, rng))
    if drums:
        parts.append(_drums(num_bars, melody, rng))
    notes = [note for part in parts if part.label != DRUMS for note, _ in part.notes]
    return Piece(
        parts=tuple(parts),
        key=NAMES[root],
        mode=mode,
        heard=heard_key(notes) == (root, mode),
        metre=melody.metre,
        quarters_a_beat=melody.quarters_a_beat,
        beats_a_minute=beats_a_minute,
        marked=len(parts) > 1,
        quarters=num_bars * melody.bar,
    )


def heard_key(notes: Sequence[Note]) -> tuple[int, str]:
    """The pitch class and mode whose profile fits best how long each pitch class sounds."""
    sounding = np.zeros(12)
    for note in notes:
        sounding[note.pitch % 12] += note.length
    fits = {
        (root, mode): float(np.corrcoef(np.roll(sounding, -root), profile)[0, 1])
        for mode, profile in PROFILES.items()
        for root in range(12)
    }
    return max(fits, key=lambda name: fits[name])


def midi(piece: Piece) -> Any:
    """The piece as a mido MidiFile, half a second in; raises MusicError where mido is missing."""
    from lalm.corpus.tunes import MusicError

    try:
        import mido
    except ImportError:
        raise MusicError("music is written by mido: pip install 'lalm[music]'") from None
    file = mido.MidiFile(ticks_per_beat=480)
    tempo = mido.bpm2tempo(piece.beats_a_minute * piece.quarters_a_beat)
    file.tracks.append(mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=tempo)]))
    for number, part in enumerate(piece.parts):
        channel = 9 if part.program is None else number
        events = []
        for note, velocity in part.notes:
            start, stop = (round(480 * at) for at in (note.onset, note.onset + 0.95 * note.length))
            events += [(start, 1, note.pitch, velocity), (max(stop, start + 1), 0, note.pitch, 0)]
        track = mido.MidiTrack()
        if part.program is not None:
            track.append(mido.Message("program_change", program=part.program, channel=channel))
        now = 0
        for at, on, pitch, velocity in sorted(events):
            kind = "note_on" if on else "note_off"
            track.append(mido.Message(kind, note=pitch, velocity=velocity, time=at - now, channel=channel))
            now = at
        file.tracks.append(track)
    return file


def _excerpt(melody: Melody, num_bars: int, move: int, rng: Rng) -> list[Note]:
    """``num_bars`` of the melody from a bar drawn on, from its beginning again where it ends."""
    first = int(rng.integers(max(1, melody.num_bars - num_bars + 1)))
    found = []
    for at in range(num_bars):
        start = (first + at) % melody.num_bars * melody.bar
        for note in melody.notes:
            if start - 1e-6 <= note.onset < start + melody.bar - 1e-6:
                onset = note.onset - start + at * melody.bar
                length = min(note.length, num_bars * melody.bar - onset)
                found.append(Note(onset, length, note.pitch + move))
    return found


def _chord(tune: Sequence[Note], start: float, bar: float, root: int, mode: str) -> tuple[int, ...]:
    """The triad (pitch classes, its root first) that holds most of a bar of the melody."""
    triads = [tuple((root + step) % 12 for step in triad) for triad in DEGREES[mode]]
    own = [note for note in tune if start - 1e-6 <= note.onset < start + bar - 1e-6]
    fits = [sum(note.length for note in own if note.pitch % 12 in triad) for triad in triads]
    fits[0] += bar / 8
    return triads[int(np.argmax(fits))]


def _fitted(tune: Sequence[Note], player: Instrument) -> list[Note]:
    """The tune in octaves that the instrument plays."""
    if not tune:
        return []
    middle = (player.low + player.high) / 2 - float(np.mean([note.pitch for note in tune]))
    moved = [note._replace(pitch=note.pitch + 12 * round(middle / 12)) for note in tune]
    return [note._replace(pitch=_within(note.pitch, player.low, player.high)) for note in moved]


def _within(pitch: int, low: int, high: int) -> int:
    while pitch < low:
        pitch += 12
    while pitch > high:
        pitch -= 12
    return pitch


def _below(player: Instrument, chords: Sequence[tuple[int, ...]], melody: Melody, rng: Rng) -> Part:
    """Something on every beat: a bass on the first and a chord on the others, a bass line, or a voice."""
    beat, notes = melody.quarters_a_beat, []
    deep = player.low + int(rng.integers(5))
    high = max(player.low, min(55, player.high - 12))
    for number in range(len(chords) * melody.beats_a_bar):
        triad = chords[number // melody.beats_a_bar]
        strong = number % melody.beats_a_bar == 0
        if player.plays == "bass":
            pitches = [_within(60 + triad[0 if strong or rng.random() < 0.5 else 2] - 48, deep, deep + 11)]
        elif player.plays == "chords" and not strong:
            pitches = [_within(60 + tone - 48, high, high + 11) for tone in triad]
        elif player.plays == "chords":
            pitches = [_within(60 + triad[0] - 48, deep, deep + 11)]
        else:
            pitches = [_within(60 + triad[int(rng.integers(3))], player.low, player.low + 11)]
        notes += [Note(number * beat, beat, pitch) for pitch in pitches]
    return _part(player, notes, player.plays, rng)


def _part(player: Instrument, notes: Sequence[Note], role: str, rng: Rng) -> Part:
    """The notes with one of the instrument's programs, each about as loud as its role asks."""
    program = player.programs[int(rng.integers(len(player.programs)))]
    loud = LOUDNESS[role] + rng.integers(-8, 9, len(notes))
    return Part(player.label, program, tuple((n, int(v)) for n, v in zip(notes, loud, strict=True)))


def _drums(num_bars: int, melody: Melody, rng: Rng) -> Part:
    """Kick on the first beat of a bar, snare on the others (or the second and fourth), hi-hat between."""
    beat, hits = melody.quarters_a_beat, []
    steps = 3 if beat == 1.5 else 2
    for number in range(num_bars * melody.beats_a_bar):
        place = number % melody.beats_a_bar
        kick = place == 0 or (melody.beats_a_bar == 4 and place == 2)
        hits.append(Note(number * beat, beat / 2, KICK if kick else SNARE))
        hits += [Note((number + step / steps) * beat, beat / 4, HIHAT) for step in range(steps)]
    loud = LOUDNESS["drums"] + rng.integers(-8, 9, len(hits))
    return Part(DRUMS, None, tuple((n, int(v)) for n, v in zip(hits, loud, strict=True)))
