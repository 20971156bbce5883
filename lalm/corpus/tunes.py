"""Tunes of old collections, as music21 brings them along, and which of them training never sees.

Only collections whose music is out of copyright and whose files state no restriction: music21's Bach chorales
("used by permission"), Palestrina ("rights reserved") and Essen folk songs (non-commercial) are left alone.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lalm.corpus.catalogue import TEST_SHARE, VALID_SHARE
from lalm.errors import LalmError

COLLECTIONS = {
    "ryansMammoth": "Ryan's Mammoth Collection, 1883",
    "oneills1850": "O'Neill's Music of Ireland, 1903",
    "airdsAirs": "Aird's Selection of Airs, 1782 to 1803",
}
UNSEEN = "airdsAirs"  # never trained on
LICENCE = "music in the public domain; the transcriber states no restriction"
BEATS = {  # of each metre: quarters in a beat, beats in a bar; "C|" is notated in halves and felt in quarters
    "2/4": (1.0, 2),
    "3/4": (1.0, 3),
    "4/4": (1.0, 4),
    "C": (1.0, 4),
    "C|": (1.0, 4),
    "6/8": (1.5, 2),
    "9/8": (1.5, 3),
}
KEY = re.compile(r"([A-G][#b]?) ?(maj|major|m|min|minor)?", re.IGNORECASE)
DENSE = 3.0  # notes a beat: in a simple metre with more of them the half of a beat is felt as one
MIN_BARS = 4
OPENING_NOTES = 16


class MusicError(LalmError, ValueError):
    """Music that cannot be made: a library, program or soundfont is missing, or there are no tunes."""


class Note(NamedTuple):
    """A note: onset and length in quarters, MIDI pitch."""

    onset: float
    length: float
    pitch: int


@dataclass(frozen=True)
class Tune:
    """A tune of a collection, not read yet."""

    collection: str
    file: str
    number: str
    title: str
    transcriber: str
    tonic: str  # "Bb"
    mode: str  # "major" or "minor"
    metre: str
    abc: str

    @property
    def id(self) -> str:
        """Stable short name."""
        return f"{self.collection}-{hashlib.sha1(self.abc.encode()).hexdigest()[:10]}"

    @property
    def family(self) -> str:
        """What versions of one tune share: the letters of its title without the dance's name."""
        title = self.title.lower().replace("the ", "")
        title = re.sub(
            r"\b(an? |jig|slip jig|reel|hornpipe|strathspey|clog|march|air|a|version)\b", "", title
        )
        return re.sub(r"[^a-z]", "", title) or self.id

    @property
    def opening(self) -> tuple[int, ...]:
        """Steps of the scale between the first notes as they are written, whatever the key and the rhythm."""
        body = self.abc.split("\nK:")[-1].partition("\n")[2]
        body = re.sub(r'(?m)^[A-Za-z]:.*$|"[^"\n]*"|\{[^}\n]*\}|![^!\n]*!|%.*$', "", body)
        written = re.findall(r"([A-Ga-g])([,']*)", body)[:OPENING_NOTES]
        steps = [
            "CDEFGAB".index(letter.upper()) + 7 * (letter.islower() + octaves.count("'") - octaves.count(","))
            for letter, octaves in written
        ]
        return tuple(later - first for first, later in pairwise(steps))

    @property
    def split(self) -> str:
        """The tune's split, which depends on its title alone, so that it is the same in every build."""
        if self.collection == UNSEEN:
            return "test_unseen"
        draw = int(hashlib.sha256(self.family.encode()).hexdigest()[:8], 16) / 16**8
        if draw < TEST_SHARE:
            return "test_known"
        return "valid" if draw < TEST_SHARE + VALID_SHARE else "train"


@dataclass(frozen=True)
class Melody:
    """A tune's longest stretch of whole bars: notes from quarter 0 on, and what a beat and a bar are."""

    notes: tuple[Note, ...]
    quarters_a_beat: float
    beats_a_bar: int
    num_bars: int

    @property
    def bar(self) -> float:
        """A bar's quarters."""
        return self.quarters_a_beat * self.beats_a_bar

    @property
    def metre(self) -> str:
        """How it is felt: "3/4", "6/8"."""
        compound = self.quarters_a_beat == 1.5
        return f"{self.beats_a_bar * 3}/8" if compound else f"{self.beats_a_bar}/4"


@cache
def tunes() -> tuple[Tune, ...]:
    """All tunes in major or minor whose metre and key are written once, but held-out ones only where no tune
    that is trained on has their title or their first sixteen notes.

    Raises MusicError where music21 is missing, or came without its scores.
    """
    try:
        import music21
    except ImportError:
        raise MusicError("music is made from the scores of music21: pip install 'lalm[music]'") from None
    root = Path(music21.__file__).parent / "corpus"
    found = [
        tune
        for collection in COLLECTIONS
        for path in sorted((root / collection).glob("*.abc"))
        for tune in read_tunes(path.read_text("utf-8", "replace"), collection, path.name)
    ]
    if not found:
        raise MusicError(f"music21 has no scores in '{root}': pip install --force-reinstall music21")
    trained = [tune for tune in found if tune.split == "train"]
    titles, openings = {tune.family for tune in trained}, {tune.opening for tune in trained}
    return tuple(
        tune
        for tune in found
        if tune.split == "train" or (tune.family not in titles and tune.opening not in openings)
    )


def read_tunes(text: str, collection: str, file: str) -> list[Tune]:
    """The tunes of an ABC file that say one metre and one key, major or minor."""
    found = []
    for abc in re.split(r"(?m)^(?=X:)", text)[1:]:
        fields = {
            letter: [value.strip() for value in re.findall(rf"(?m)^{letter}:([^%\n]*)", abc)]
            for letter in "XTMKZ"
        }
        key = KEY.fullmatch(fields["K"][0]) if len(fields["K"]) == 1 else None
        if not key or len(fields["M"]) != 1 or fields["M"][0] not in BEATS or "[K:" in abc or "[M:" in abc:
            continue
        mode = "minor" if (key[2] or "").lower() in ("m", "min", "minor") and key[2] != "M" else "major"
        number, title, transcriber = ([*fields[letter], ""][0].strip('"') for letter in "XTZ")
        found.append(
            Tune(
                collection,
                file,
                number,
                title,
                transcriber,
                key[1][0].upper() + key[1][1:],
                mode,
                fields["M"][0],
                abc,
            )
        )
    return found


def melody_of(tune: Tune) -> Melody | None:
    """The tune's longest stretch of whole bars; None where it cannot be read or is shorter than four bars."""
    from music21 import converter
    from music21.exceptions21 import Music21Exception

    try:
        score: Any = converter.parseData(tune.abc, format="abc")
    except (Music21Exception, ValueError, IndexError, AttributeError, TypeError):
        return None  # some transcriptions are not ABC to the letter
    part = score.parts[0] if score.parts else score
    part.stripTies(inPlace=True)
    quarters, beats = BEATS[tune.metre]
    starts, ends = _whole_bars(part, quarters * beats)
    if ends - starts < MIN_BARS * quarters * beats - 1e-6:
        return None
    notes = [
        Note(float(item.offset) - starts, float(item.quarterLength), int(pitch.midi))
        for item in part.flatten().notes
        if item.quarterLength > 0 and "ChordSymbol" not in item.classes  # grace notes last nothing
        for pitch in item.pitches
        if starts - 1e-6 <= item.offset < ends - 1e-6
    ]
    num_bars = round((ends - starts) / (quarters * beats))
    if quarters == 1.0 and len(notes) > DENSE * beats * num_bars and beats == 2:
        quarters, beats = 0.5, 4
    return Melody(tuple(notes), quarters, beats, num_bars) if notes else None


def _whole_bars(part: Any, bar: float) -> tuple[float, float]:
    """Where the longest stretch of bars of the right length begins and ends, in quarters."""
    best, start, end = (0.0, 0.0), -1.0, -1.0
    for measure in part.getElementsByClass("Measure"):
        at, size = float(measure.offset), float(measure.duration.quarterLength)
        whole = abs(size - bar) < 1e-6
        start = at if not whole or abs(at - end) > 1e-6 or start < 0 else start
        end = at + size if whole else -1.0
        if whole and end - start > best[1] - best[0]:
            best = (start, end)
    return best


def of_split(split: str) -> dict[str, Sequence[Tune]]:
    """The tunes of a split, by mode."""
    own = [tune for tune in tunes() if tune.split == split]
    return {mode: [tune for tune in own if tune.mode == mode] for mode in ("major", "minor")}
