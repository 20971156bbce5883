"""The frames of an MP3 (layers I to III) or of AAC in ADTS: a bare stream that states no length.

Its frames are walked from the first byte to the last, so that nothing depends on what a Xing, Info or VBRI
frame counts, and tags, junk between frames and a frame that is cut short are seen for what they are.
"""

from array import array
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from lalm.audio.leftovers import harmless_end, tag_end
from lalm.audio.windows import read_at, size_of

DECODER_DELAY = 529  # samples by which a layer III decoder's output is late
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_BIT_RATES = {  # kbit/s by (MPEG 1, layer); layers count down: 3 is layer I
    (True, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_AAC_RATES = (
    *(96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000),
    *(22_050, 16_000, 12_000, 11_025, 8_000, 7_350),
)
_ENCODERS = (b"LAME", b"Lavf", b"Lavc", b"GOGO")  # whose Xing frames hold delay and padding
_CHAIN = 3  # frames in a row by which a stream is recognised
_READ = 1 << 20
_NO_COUNT = (0, 0xFFFF_FFFF)  # what encoders write that could not go back to the first frame


class Head(NamedTuple):
    """One frame's header; frames of one stream share the first four."""

    codec: str
    rate: int
    samples: int
    version: int
    size: int  # in bytes, the header included
    channels: int
    protected: bool


@dataclass
class Link:
    """Frames of one stream; a file of several, one after another, has several. ``holes``: (frame, bytes)."""

    head: Head
    places: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("l"))
    delay: int = 0  # samples before the sound and after it, as its encoder says
    padding: int = 0
    declared: int | None = None  # frames that its first frame counts
    holes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def num_samples(self) -> int:
        """Samples of sound in all its frames, without the encoder's delay and padding."""
        return max(0, len(self.places) * self.head.samples - self.skipped - self.spare)

    @property
    def promised_samples(self) -> int:
        """The same of as many frames as its first frame counts."""
        spare = max(0, self.padding - DECODER_DELAY) if self.delay else 0
        return max(0, (self.declared or 0) * self.head.samples - self.skipped - spare)

    @property
    def skipped(self) -> int:
        """Samples before the sound."""
        return self.delay + DECODER_DELAY if self.delay else 0

    @property
    def spare(self) -> int:
        """Samples behind the sound; unknown when the frames are not those that were counted."""
        counted = self.declared in (None, len(self.places))
        return max(0, self.padding - DECODER_DELAY) if self.delay and counted else 0


@dataclass
class Stream:
    """All frames of a file. ``cut_short``: the last frame is not all there. ``junk``: bytes behind it, with
    which ``another`` recording begins."""

    links: list[Link]
    cut_short: bool = False
    junk: int = 0
    another: bool = False


class _Bytes:
    """Quick small reads from a file, mostly forward."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size = file, size_of(file)
        self._start, self._data = 0, b""

    def at(self, place: int, count: int) -> bytes:
        offset = place - self._start
        if offset < 0 or offset + count > len(self._data):
            self._start, self._data, offset = place, read_at(self.file, place, max(count, _READ)), 0
        return self._data[offset : offset + count]


def stream(file: BinaryIO) -> Stream | None:
    """Walk all frames of ``file``; None when it does not begin like a stream of frames."""
    data = _Bytes(file)
    tags_end = harmless_end(file, 0, data.size)
    first = _next_frame(data, tags_end, min(data.size, tags_end + (1 << 16)), None)
    if first is None:
        return None
    found = Stream([])
    place = first
    while place < data.size:
        head = header(data.at(place, 10))
        if head is not None and found.links and head[:4] != found.links[-1].head[:4]:
            head = head if _is_chain(data, place, _CHAIN) else None
        if head is None:
            after = _behind(data, place, found)
            if after is None:
                break
            place = after
            continue
        if place + head.size > data.size:
            found.cut_short = True
            break
        _add(found, data, place, head)
        place += head.size
    return found if any(link.places for link in found.links) else None


def begins(file: BinaryIO, place: int) -> bool:
    """Whether a stream of frames begins at ``place``, perhaps with an ID3 tag."""
    data = _Bytes(file)
    start = tag_end(file, place)
    return data.size - start > 64 and _is_chain(data, start, 2 * _CHAIN)


def header(data: bytes) -> Head | None:
    """The frame header at the start of ``data``, or None."""
    if len(data) < 7 or data[0] != 0xFF or data[1] < 0xE0:
        return None
    version, layer = data[1] >> 3 & 3, data[1] >> 1 & 3
    if layer == 0:
        return _adts(data) if data[1] >= 0xF0 else None
    bits, rate_index, mode = data[2] >> 4, data[2] >> 2 & 3, data[3] >> 6
    if version == 1 or rate_index == 3 or bits in (0, 15):
        return None
    rate, padded = _RATES[version][rate_index], data[2] >> 1 & 1
    bit_rate = 1000 * _BIT_RATES[version == 3, layer][bits - 1]
    if layer == 3:
        samples, size = 384, (12 * bit_rate // rate + padded) * 4
    else:
        samples = 576 if layer == 1 and version != 3 else 1152
        size = samples // 8 * bit_rate // rate + padded
    codec = {3: "mp1", 2: "mp2", 1: "mp3"}[layer]
    return Head(codec, rate, samples, version, size, 1 if mode == 3 else 2, not data[1] & 1)


def _adts(data: bytes) -> Head | None:
    rate_index = data[2] >> 2 & 15
    size = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
    if rate_index >= len(_AAC_RATES) or size < 7:
        return None
    channels = (data[2] & 1) << 2 | data[3] >> 6
    samples = 1024 * ((data[6] & 3) + 1)
    return Head("aac", _AAC_RATES[rate_index], samples, data[1] >> 3 & 1, size, channels, not data[1] & 1)


def _add(found: Stream, data: _Bytes, place: int, head: Head) -> None:
    """Keep one frame; the frame that counts the others opens a link instead."""
    counts = _counts(data.at(place, min(head.size, 192)), head) if head.codec == "mp3" else None
    if counts is not None or not found.links or found.links[-1].head[:4] != head[:4]:
        found.links.append(Link(head))
    link = found.links[-1]
    if counts is not None:
        link.declared, link.delay, link.padding = counts
        return
    link.places.append(place)
    link.sizes.append(head.size)


def _counts(frame: bytes, head: Head) -> tuple[int | None, int, int] | None:
    """(frames, delay, padding) of a Xing, Info or VBRI frame; None for a frame of sound."""
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        return _count(frame[50:54]), 0, 0
    side = (32, 17) if head.version == 3 else (17, 9)
    for at in (4 + side[head.channels == 1], 6 + side[head.channels == 1]):
        if frame[at : at + 4] in (b"Xing", b"Info"):
            break
    else:
        return None
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    frames = _count(frame[at + 8 : at + 12]) if flags & 1 else None
    encoder = at + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
    trim = frame[encoder + 21 : encoder + 24]
    if frame[encoder : encoder + 4] not in _ENCODERS or len(trim) < 3:
        return frames, 0, 0
    return frames, trim[0] << 4 | trim[1] >> 4, (trim[1] & 15) << 8 | trim[2]


def _count(field: bytes) -> int | None:
    count = int.from_bytes(field, "big")
    return None if count in _NO_COUNT else count


def _behind(data: _Bytes, place: int, found: Stream) -> int | None:
    """Where the frames go on after what is no frame at ``place``; None when they do not."""
    after = harmless_end(data.file, place, data.size)
    if after >= data.size:
        return None
    if after > place and _is_chain(data, after, _CHAIN):
        return after
    frame = _next_frame(data, after, data.size, found.links[-1].head)
    if frame is None:
        found.junk = data.size - after
        found.another = data.at(after, 4) in (b"RIFF", b"OggS", b"fLaC")
        return None
    link = found.links[-1]
    link.holes.append((len(link.places), frame - after))
    return frame


def _next_frame(data: _Bytes, place: int, stop: int, like: Head | None) -> int | None:
    """The first place from ``place`` on where frames follow one another, up to ``stop``."""
    while place < stop:
        block = data.at(place, min(1 << 16, data.size - place))
        at = block.find(b"\xff")
        if at < 0:
            place += max(1, len(block))
            continue
        place += at
        if place < stop and _is_chain(data, place, _CHAIN, like):
            return place
        place += 1
    return None


def _is_chain(data: _Bytes, place: int, wanted: int, like: Head | None = None) -> bool:
    """Whether ``wanted`` frames of one stream follow each other, or fewer and then the end or a tag."""
    for count in range(wanted):
        head = header(data.at(place, 10))
        if head is None or (like is not None and head[:4] != like[:4]):
            ends = place >= data.size or tag_end(data.file, place) > place
            if count > 1 and not ends:
                ends = harmless_end(data.file, place, data.size) >= data.size
            return count > 0 and ends
        like = head
        place += head.size
    return place <= data.size or wanted > 1
