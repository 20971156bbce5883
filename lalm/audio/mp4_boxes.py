"""The box tree of an MP4, M4A or MOV file: whether it is all there, and what its index leaves out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from lalm.audio.asked import TOLERANCE_S, Asked, shown_s
from lalm.audio.windows import read_at, size_of

_LARGEST_INDEX = 256 << 20
_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"}


class Box(NamedTuple):
    """One box of the tree: the bytes [start, stop) are its payload."""

    name: bytes
    start: int  # of its payload
    stop: int


@dataclass
class Sound:
    """One audio track by its index: seconds of all its samples, bytes of all its samples."""

    number: int = 0
    media_s: float = 0.0
    num_bytes: int = 0


@dataclass
class Movie:
    """``sounds`` by track id. ``cut``: the last box is not all there. ``media_bytes`` lie in mdat boxes."""

    sounds: dict[int, Sound] = field(default_factory=dict)
    cut: bool = False
    fragmented: bool = False
    media_bytes: int = 0
    index_bytes: int = 0  # what all tracks' samples take up

    def compare(self, asked: Asked, track: Any, heard_s: float) -> None:
        """Hold the index against what was decoded of ``track``."""
        if self.cut and self.fragmented:
            asked.broken_off(heard_s)
        sound = self.sounds.get(track.id)
        if sound is None or self.fragmented:
            return
        hidden_s = sound.media_s - heard_s
        if hidden_s > 2 * TOLERANCE_S and not asked.found.holes:
            asked.found.note(
                f"its edit list leaves out {shown_s(hidden_s)} s of the {shown_s(sound.media_s)} s that its "
                f"track holds"
            )
        spare = self.media_bytes - self.index_bytes
        if len(self.sounds) == 1 and sound.num_bytes and spare > max(1024, 0.1 * self.index_bytes):
            more_s = sound.media_s * spare / self.index_bytes
            asked.found.note(f"its index leaves out {spare} bytes of its media, about {shown_s(more_s)} s")


def movie(file: BinaryIO) -> Movie:
    """Read the boxes of ``file``."""
    found, size = Movie(), size_of(file)
    for box in _boxes(file, 0, size):
        if box.stop > size:
            found.cut = True
        if box.name == b"mdat":
            found.media_bytes += min(box.stop, size) - box.start
        elif box.name == b"moof":
            found.fragmented = True
        elif box.name == b"moov" and box.stop <= size and box.stop - box.start < _LARGEST_INDEX:
            for inner in _boxes(file, box.start, box.stop):
                if inner.name == b"trak":
                    _track(file, inner, found)
                found.fragmented |= inner.name == b"mvex"
    return found


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
            number = int.from_bytes(body[20:24] if wide else body[12:16], "big")
        elif box.name == b"mdhd":
            scale = int.from_bytes(body[20:24] if wide else body[12:16], "big")
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
