"""The box tree of an MP4, M4A or MOV file: whether it is all there, and what its index leaves out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from lalm.audio.asked import TOLERANCE_S, Asked, shown_s
from lalm.audio.leftovers import is_harmless
from lalm.audio.windows import read_at, size_of

_LARGEST_INDEX = 256 << 20
_LEAST_FRAGMENT_S = 0.25
_HIDDEN_SAMPLES = 4_096
_MOST_PIECES, _LARGEST_TABLE = 1 << 20, 1 << 20
_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"}


class Box(NamedTuple):
    """One box of the tree: the bytes [start, stop) are its payload."""

    name: bytes
    start: int  # of its payload
    stop: int


@dataclass
class Sound:
    """One audio track by its index: seconds of all its samples, bytes of all its samples.

    ``pieces`` are those of its fragments: (number of the fragment, first tick or None, ticks).
    """

    number: int = 0
    media_s: float = 0.0
    num_bytes: int = 0
    scale: int = 0  # ticks per second
    sample_ticks: int = 0  # of fragments that do not say
    pieces: list[tuple[int, int | None, int]] = field(default_factory=list)


@dataclass
class Movie:
    """``sounds`` by track id. ``cut``: the last box is not all there. ``media_bytes`` lie in mdat boxes."""

    sounds: dict[int, Sound] = field(default_factory=dict)
    cut: bool = False
    another: bool = False  # recording begins behind the last box
    fragmented: bool = False
    media_bytes: int = 0
    index_bytes: int = 0  # what all tracks' samples take up
    indexes: int = 0
    scale: int = 0  # ticks per second of the whole
    promised_s: float = 0.0  # of a movie in fragments

    def compare(self, asked: Asked, track: Any, heard_s: float) -> None:
        """Hold the index against what was decoded of ``track``."""
        sound = self.sounds.get(track.id)
        if self.fragmented:
            if sound is not None:
                self._compare_fragments(asked, sound, heard_s)
            if self.cut:
                asked.broken_off(heard_s)
            return
        if self.indexes > 1 or self.another:
            asked.found.note("a second recording follows the first in the file and is not heard")
        if sound is None:
            return
        hidden_s = sound.media_s - heard_s
        frames_s = _HIDDEN_SAMPLES / sound.scale if sound.scale else 0.0  # a codec's delay and its last frame
        if hidden_s > max(2 * TOLERANCE_S, frames_s) and not asked.found.holes:
            asked.found.note(
                f"its edit list leaves out {shown_s(hidden_s)} s of the {shown_s(sound.media_s)} s that its "
                f"track holds"
            )
        spare = self.media_bytes - self.index_bytes
        alone = self.indexes == len(self.sounds) == 1 and sound.num_bytes > 0
        if alone and spare > max(1024, 0.1 * self.index_bytes):
            more_s = sound.media_s * spare / self.index_bytes
            asked.found.note(f"its index leaves out {spare} bytes of its media, about {shown_s(more_s)} s")

    def _compare_fragments(self, asked: Asked, sound: Sound, heard_s: float) -> None:
        """Fragments that are missing between others, and at the end where the file says how long it is."""
        begin_s = next((first / sound.scale for _, first, _ in sound.pieces if first is not None), 0.0)
        at, before, lost_s = 0, None, 0.0
        for number, first, ticks in sound.pieces:
            at_s = at / sound.scale
            gap_s = 0.0 if first is None else first / sound.scale - begin_s - at_s - lost_s
            if before is not None and number > before + 1 and gap_s > TOLERANCE_S:
                lost_s += gap_s
                told = f"is damaged at {shown_s(at_s)} s: a fragment is missing"
                asked.hole(at_s, gap_s, "a fragment is missing", told)
            at, before = at + ticks, number
        stated_s = self.promised_s - begin_s - lost_s
        if self.promised_s and heard_s < stated_s - _LEAST_FRAGMENT_S:
            asked.truncated(heard_s, stated_s)


def movie(file: BinaryIO) -> Movie:
    """Read the boxes of ``file``."""
    found, size = Movie(), size_of(file)
    end, fragment = 0, 0
    for box in _boxes(file, 0, size):
        end = box.stop
        if box.stop > size:
            found.cut = True
            found.another = read_at(file, box.start - 8, 4) in (b"RIFF", b"OggS", b"fLaC")
        if box.name == b"mdat":
            found.media_bytes += min(box.stop, size) - box.start
        elif box.name == b"moof":
            found.fragmented = True
            fragment = _fragment(file, box, found, fragment)
        elif box.name == b"sidx" and box.stop <= size:
            found.promised_s = max(
                found.promised_s,
                _segments_s(read_at(file, box.start, min(box.stop - box.start, _LARGEST_TABLE))),
            )
        elif box.name == b"moov" and box.stop <= size and box.stop - box.start < _LARGEST_INDEX:
            found.indexes += 1
            _index(file, box, found)
    if 0 < size - end < 8 and found.fragmented and not is_harmless(read_at(file, end, 8)):
        found.cut = True
    return found


def _index(file: BinaryIO, moov: Box, found: Movie) -> None:
    for inner in _boxes(file, moov.start, moov.stop):
        body = read_at(file, inner.start, min(inner.stop - inner.start, 32))
        if inner.name == b"mvhd":
            found.scale = _number(body, 20 if body[:1] == b"\1" else 12)
        elif inner.name == b"trak":
            _track(file, inner, found)
        elif inner.name == b"mvex":
            found.fragmented = True
            _fragment_defaults(file, inner, found)


def _fragment_defaults(file: BinaryIO, mvex: Box, found: Movie) -> None:
    for box in _boxes(file, mvex.start, mvex.stop):
        body = read_at(file, box.start, min(box.stop - box.start, 24))
        if box.name == b"mehd" and found.scale:
            ticks = _number(body, 4, 8 if body[:1] == b"\1" else 4)
            found.promised_s = max(found.promised_s, ticks / found.scale)
        elif box.name == b"trex" and (sound := found.sounds.get(_number(body, 4))):
            sound.sample_ticks = _number(body, 12)


def _fragment(file: BinaryIO, moof: Box, found: Movie, number: int) -> int:
    """Keep what one fragment holds of every audio track; returns the fragment's number."""
    for box in _boxes(file, moof.start, moof.stop):
        if box.name == b"mfhd":
            number = _number(read_at(file, box.start, 8), 4)
        elif box.name == b"traf":
            _piece(file, box, found, number)
    return number


def _piece(file: BinaryIO, traf: Box, found: Movie, number: int) -> None:
    sound: Sound | None = None
    each, first, ticks = 0, None, 0
    for box in _boxes(file, traf.start, traf.stop):
        body = read_at(file, box.start, min(box.stop - box.start, _LARGEST_TABLE))
        flags = _number(body, 1, 3)
        if box.name == b"tfhd":
            sound = found.sounds.get(_number(body, 4))
            at = 8 + 8 * bool(flags & 1) + 4 * bool(flags & 2)
            each = _number(body, at) if flags & 8 else sound.sample_ticks if sound else 0
        elif box.name == b"tfdt":
            first = _number(body, 4, 8 if body[:1] == b"\1" else 4)
        elif box.name == b"trun":
            count, at = _number(body, 4), 8 + 4 * bool(flags & 1) + 4 * bool(flags & 4)
            width = 4 * sum(bool(flags & bit) for bit in (0x100, 0x200, 0x400, 0x800))
            if flags & 0x100:
                ticks += sum(_number(body, p) for p in range(at, min(len(body), at + count * width), width))
            else:
                ticks += each * min(count, 1 << 20)
    if sound is not None and sound.scale and len(sound.pieces) < _MOST_PIECES:
        sound.pieces.append((number, first, ticks))


def _segments_s(body: bytes) -> float:
    """Where the last of the segments ends that a sidx box lists, in seconds."""
    wide = body[:1] == b"\1"
    scale = _number(body, 8)
    first, at = (_number(body, 12, 8), 28) if wide else (_number(body, 12), 20)
    count = _number(body, at + 2, 2)
    ticks = first + sum(_number(body, at + 8 + 12 * i) for i in range(count))
    return ticks / scale if scale else 0.0


def _number(body: bytes, at: int, width: int = 4) -> int:
    return int.from_bytes(body[at : at + width], "big")


def _boxes(file: BinaryIO, place: int, stop: int) -> Iterator[Box]:
    while place + 8 <= stop:
        head = read_at(file, place, 16)
        length, start = int.from_bytes(head[:4], "big"), place + 8
        if length == 1:
            length, start = int.from_bytes(head[8:16], "big"), place + 16
        elif length == 0:
            length = stop - place
        if length < start - place:
            return
        yield Box(head[4:8], start, place + length)
        place += length


def _track(file: BinaryIO, trak: Box, found: Movie) -> None:
    """Count the samples of one track."""
    sound, number, scale, is_sound = Sound(), 0, 0, False
    for box in _inside(file, trak):
        body = read_at(file, box.start, min(box.stop - box.start, 32))
        wide = body[:1] == b"\1"
        if box.name == b"tkhd":
            number = _number(body, 20 if wide else 12)
        elif box.name == b"mdhd":
            scale = _number(body, 20 if wide else 12)
        elif box.name == b"hdlr":
            is_sound = body[8:12] == b"soun"
        elif box.name == b"stts":
            table = _numbers(file, box, 8, 2 * int.from_bytes(body[4:8], "big"))
            ticks = sum(a * b for a, b in zip(table[::2], table[1::2], strict=False))
            sound.media_s = ticks / scale if scale else 0.0
        elif box.name == b"stsz":
            each, count = (int.from_bytes(body[at : at + 4], "big") for at in (4, 8))
            sound.num_bytes = each * count if each else sum(_numbers(file, box, 12, count))
    found.index_bytes += sound.num_bytes
    if is_sound:
        sound.scale = scale
        sound.number = len(found.sounds)
        found.sounds[number] = sound


def _inside(file: BinaryIO, box: Box) -> Iterator[Box]:
    for inner in _boxes(file, box.start, box.stop):
        if inner.name in _PARENTS:
            yield from _inside(file, inner)
        else:
            yield inner


def _numbers(file: BinaryIO, box: Box, first: int, count: int) -> tuple[int, ...]:
    """32-bit numbers of a table; no more than the box holds."""
    data = read_at(file, box.start + first, max(0, min(4 * count, box.stop - box.start - first)))
    return tuple(int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data) - 3, 4))
