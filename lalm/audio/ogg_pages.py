"""The pages of an Ogg file: its recordings one after the other, checksums, missing pages, the end mark."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from lalm.audio.windows import read_at, size_of

LARGEST_PAGE = 65_307
_READ = 1 << 20
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_NO_GRANULE = (1 << 64) - 1
_LONGEST_PAGE_S = 40  # 255 packets of Opus at 120 ms are 31 s
_SOUNDS = {"vorbis", "opus", "flac", "speex"}


class Page(NamedTuple):
    """``granule`` counts the samples that are complete with this page (None: no packet ends in it)."""

    place: int
    stop: int
    serial: int
    number: int
    granule: int | None
    first: bool
    last: bool
    whole: bool  # its checksum is right
    body: bytes  # the first bytes of its payload


@dataclass
class Stream:
    """One logical stream: what it holds, and what is wrong with it, at which granule."""

    codec: str
    rate: int
    channels: int
    pre_skip: int = 0
    number: int = 0
    pages: int = 0
    start: int | None = None  # granule where the sound begins
    granule: int = 0
    highest: int = 0
    ended: bool = False
    goes_on: bool = False  # behind its end mark
    damage: list[tuple[int, str]] = field(default_factory=list)

    def seconds(self, granule: int) -> float:
        """Seconds from the start of the stream's sound to ``granule``."""
        return max(0, granule - (self.start or 0) - self.pre_skip) / max(1, self.rate)


@dataclass
class Link:
    """The bytes [start, stop) of streams that play together; a chained file has several, in turn."""

    start: int
    stop: int
    streams: dict[int, Stream] = field(default_factory=dict)
    broken_off: bool = False

    @property
    def sounds(self) -> list[Stream]:
        """The streams that are audio."""
        return [stream for stream in self.streams.values() if stream.codec in _SOUNDS]


def links(file: BinaryIO) -> list[Link]:
    """Every recording of an Ogg file, in order. Bytes between pages count as damage."""
    size = size_of(file)
    found: list[Link] = []
    end, opening = 0, False
    for page in _pages(file, size):
        if page.first and page.whole and not opening:
            if found:
                found[-1].stop = page.place
            found.append(Link(page.place, page.place))
        opening = page.first
        if not found:
            found.append(Link(page.place, page.place))
        link = found[-1]
        if page.place > end and page.serial in link.streams:
            stream = link.streams[page.serial]
            stream.damage.append((stream.granule, "bytes between its pages are not a page"))
        _count(link, page)
        end = link.stop = page.stop
    if found and end < size and read_at(file, end, 4)[:4] == b"OggS"[: size - end]:
        found[-1].broken_off = True
    return found


def _count(link: Link, page: Page) -> None:
    stream = link.streams.get(page.serial)
    if page.first or stream is None:
        link.streams[page.serial] = stream = _opened(page)
    elif page.number != stream.number + 1:
        what = "a page is missing" if page.number > stream.number else "a page comes again or late"
        stream.damage.append((stream.granule, what))
    elif not page.whole:
        stream.damage.append((stream.granule, "a page's checksum is wrong"))
    stream.number = page.number
    stream.pages += 1
    stream.goes_on |= stream.ended
    stream.ended |= page.last
    if page.granule is not None and page.whole:
        if stream.start is None and page.granule > 0:
            # A recording of a running broadcast begins at whatever its clock says.
            stream.start = 0 if page.granule <= _LONGEST_PAGE_S * stream.rate else page.granule
        stream.granule = page.granule
        stream.highest = max(stream.highest, page.granule)


def _opened(page: Page) -> Stream:
    """What a stream's first page says it holds."""
    body = page.body
    if body[:8] == b"OpusHead" and len(body) >= 12:
        return Stream("opus", 48_000, body[9], int.from_bytes(body[10:12], "little"), page.number)
    if body[:7] == b"\x01vorbis" and len(body) >= 16:
        return Stream("vorbis", int.from_bytes(body[12:16], "little"), body[11], number=page.number)
    if body[:5] == b"\x7fFLAC" and len(body) >= 31:
        packed = int.from_bytes(body[27:31], "big")
        return Stream("flac", packed >> 12, (packed >> 9 & 7) + 1, number=page.number)
    if body[:8] == b"Speex   " and len(body) >= 52:
        rate, channels = (int.from_bytes(body[at : at + 4], "little") for at in (36, 48))
        return Stream("speex", rate, channels, number=page.number)
    return Stream("", 0, 0, number=page.number)


def _pages(file: BinaryIO, size: int) -> Iterator[Page]:
    """Every complete page; bytes that are none are skipped."""
    data, base, at = b"", 0, 0
    while True:
        if len(data) - at < LARGEST_PAGE and base + len(data) < size:
            more = read_at(file, base + len(data), _READ)
            data, base, at = data[at:] + more, base + at, 0
        at = data.find(b"OggS", at)
        if at < 0:
            if base + len(data) >= size:
                return
            base, data, at = base + len(data) - 3, data[-3:], 0
            continue
        if len(data) - at < LARGEST_PAGE and base + len(data) < size:
            continue
        page = _page(data, at, base)
        if page is None:
            at += 4
            continue
        yield page
        at = page.stop - base


def _page(data: bytes, at: int, base: int) -> Page | None:
    """The page at ``at``, or None when it is none or not all there."""
    head = data[at : at + 27]
    if len(head) < 27 or head[4] != 0:
        return None
    table = data[at + 27 : at + 27 + head[26]]
    stop = at + 27 + head[26] + sum(table)
    if len(table) < head[26] or stop > len(data):
        return None
    stated = int.from_bytes(head[22:26], "little")
    whole = checksum(data[at : at + 22] + bytes(4) + data[at + 26 : stop]) == stated
    if not whole and data[stop : stop + 4] != b"OggS" and stop < len(data):
        return None  # not a page at all, or one whose size is damaged
    granule = int.from_bytes(head[6:14], "little")
    body = at + 27 + head[26]
    return Page(
        *(base + at, base + stop, int.from_bytes(head[14:18], "little")),
        int.from_bytes(head[18:22], "little"),
        None if granule == _NO_GRANULE else granule,
        *(bool(head[5] & 2), bool(head[5] & 4), whole),
        data[body : body + 64],
    )


def checksum(page: bytes) -> int:
    """Ogg's CRC-32, whose bits run the other way than zlib's."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{mirrored:032b}"[::-1], 2)
