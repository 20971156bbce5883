"""The chunk list of WAV, RF64, W64, AIFF, AU and CAF files: where the samples lie, and what sizes claim.

A size in a header is a claim. Programs that are killed or write to a pipe leave it 0 or huge, and some
leave it too small; how many bytes of samples are there is judged by what follows them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from lalm.audio import mpeg_frames
from lalm.audio.leftovers import harmless_end
from lalm.audio.windows import read_at, size_of

STREAMED_SIZE = 0x7FFF_0000  # data sizes above are what programs write to a pipe: length not known yet
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of W64's chunk names, but for its first
_LEAST_RECORDING = 128  # bytes of a recording behind another
_PLAIN_AIFC = (b"", b"NONE", b"twos", b"sowt", b"fl32", b"FL32", b"fl64")  # whose frames are samples


class Form(NamedTuple):
    """How one container writes its chunks; ``includes``: bytes of a chunk's head that ``size`` counts."""

    container: str
    first: int
    name_bytes: int
    size: str
    includes: int
    align: int
    data: bytes
    data_head: int  # bytes of the data chunk before the samples


_WAV = Form("WAV", 12, 4, "<I", 0, 2, b"data", 0)
_AIFF = Form("AIFF", 12, 4, ">I", 0, 2, b"SSND", 8)
_W64 = Form("W64", 40, 16, "<Q", 24, 8, b"data" + _W64_TAIL, 0)
_CAF = Form("CAF", 8, 4, ">Q", 0, 1, b"data", 4)


class Chunk(NamedTuple):
    """One chunk of the list; ``size`` is what its head states."""

    name: bytes
    place: int  # of its size field
    start: int  # of its payload
    size: int


@dataclass
class Layout:
    """Where the samples lie: ``there`` bytes from ``start``; ``declared`` bytes by the header, if it knows.

    ``patches`` are header fields as they should be. ``next_start`` is where another recording begins.
    ``fault`` is a sentence about a file that cannot be right; ``bare``: only the samples can be read.
    """

    container: str
    start: int
    there: int
    declared: int | None
    patches: dict[int, bytes] = field(default_factory=dict)
    format_tag: int | None = None
    rate: int | None = None
    channels: int | None = None
    bits: int = 0
    bytes_per_s: float = 0.0
    next_start: int | None = None
    notes: list[str] = field(default_factory=list)
    fault: str = ""
    bare: bool = False
    ds64: int | None = None  # where an RF64's long sizes lie
    frames: int | None = None  # what AIFF's COMM chunk counts


def layout(file: BinaryIO) -> Layout | None:
    """Read the chunks of ``file``; None when it is no such file, or one without a chunk of samples."""
    size = size_of(file)
    head = read_at(file, 0, 40)
    if head[:4] in (b".snd", b"dns.") and len(head) >= 24:
        return _au(file, head, size)
    form = _form(head)
    if form is None:
        return None
    found: Layout | None = None
    about: list[Chunk] = []
    for chunk in _chunks(file, form, size):
        if chunk.name == form.data and not _is_empty(file, form, chunk, size):
            found = _data(file, form, chunk, size, about)
            break
        about.append(chunk)
    empty = [chunk for chunk in about if chunk.name == form.data]
    if found is None and form.align == 2:
        found, about = _unpadded(file, form, size)
    if found is None:
        return None
    _describe(file, form, found, about)
    _look_behind(file, form, found, size)
    found.patches |= {chunk.place - form.name_bytes: b"JUNK" for chunk in empty}
    return found


def _is_empty(file: BinaryIO, form: Form, chunk: Chunk, size: int) -> bool:
    """Whether a chunk of samples is empty and another one follows, as some editors leave it."""
    if chunk.size:
        return False
    behind = [other.name for other in _chunks(file, form, size, chunk.start)]
    return form.data in behind and _is_chunk_list(file, form, chunk.start, size)


def _unpadded(file: BinaryIO, form: Form, size: int) -> tuple[Layout | None, list[Chunk]]:
    """The samples of a file whose writer forgot the byte that pads chunks of odd length."""
    about: list[Chunk] = []
    for chunk in _chunks(file, form._replace(align=1), size):
        if chunk.name == form.data:
            found = _data(file, form, chunk, size, about)
            found.fault = (
                "is not audio, or in a format that cannot be read: "
                "a chunk of odd length lacks its padding byte"
            )
            found.bare = True
            return found, about
        about.append(chunk)
    return None, about


def late_start(file: BinaryIO) -> int | None:
    """Where a WAV begins that has some bytes too many before it (a byte order mark, a blank line)."""
    head = read_at(file, 0, 4096 + 12)
    place = head.find(b"RIFF", 1)
    return place if 0 < place <= 4096 and head[place + 8 : place + 12] == b"WAVE" else None


def _form(head: bytes) -> Form | None:
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX") and head[8:12] == b"WAVE":
        return _WAV._replace(container=head[:4].decode(), size=">I") if head[:4] == b"RIFX" else _WAV
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _AIFF
    if head[:4] == b"riff" and head[24:28] == b"wave":
        return _W64
    return _CAF if head[:4] == b"caff" else None


def _chunks(file: BinaryIO, form: Form, size: int, place: int | None = None) -> Iterator[Chunk]:
    """Chunks from ``place`` on, the last one perhaps longer than the file."""
    place = form.first if place is None else place
    width = struct.calcsize(form.size)
    while place + form.name_bytes + width <= size:
        head = read_at(file, place, form.name_bytes + width)
        name = head[: form.name_bytes]
        length = struct.unpack(form.size, head[form.name_bytes :])[0]
        length -= form.includes if length else 0
        if not all(32 <= byte < 127 for byte in name[:4]) or length < 0:
            return
        start = place + len(head)
        yield Chunk(name, place + form.name_bytes, start, length)
        place = start + length + -(start + length) % form.align


def _data(file: BinaryIO, form: Form, chunk: Chunk, size: int, about: list[Chunk]) -> Layout:
    start = chunk.start + form.data_head
    available, declared, ds64 = max(0, size - start), chunk.size - form.data_head, None
    if form.container in ("WAV", "RF64") and chunk.size == 0xFFFF_FFFF:
        for other in about:
            if other.name == b"ds64" and other.size >= 16:
                declared, ds64 = struct.unpack("<Q", read_at(file, other.start + 8, 8))[0], other.start
    found = Layout(form.container, start, min(max(declared, 0), available), declared)
    found.ds64 = ds64
    unknown = declared <= 0 or (declared >= STREAMED_SIZE and declared > available)
    if unknown and not _is_chunk_list(file, form, start, size):
        found.declared, found.there = None, available
    elif declared <= 0:
        found.declared = found.there = 0
    return found


def _is_chunk_list(file: BinaryIO, form: Form, place: int, size: int) -> bool:
    """Whether what begins at ``place`` is chunks up to the end of the file; so is nothing at all."""
    end = place
    for chunk in _chunks(file, form, size, place):
        end = chunk.start + chunk.size
        if end > size + form.align:
            return False
        end += -end % form.align
    return end >= size


def _describe(file: BinaryIO, form: Form, found: Layout, about: list[Chunk]) -> None:
    """Rate, channels and bytes per second, from the chunk that states them."""
    for chunk in about:
        body = read_at(file, chunk.start, min(chunk.size, 64))
        if form.container in ("WAV", "RIFX") and chunk.name == b"fmt " and len(body) >= 16:
            order = form.size[0]
            tag, channels, rate, per_s, _, bits = struct.unpack(order + "HHIIHH", body[:16])
            if tag == 0xFFFE and len(body) >= 26:
                tag = struct.unpack(order + "H", body[24:26])[0]
            found.format_tag, found.channels, found.rate, found.bits = tag, channels, rate, bits
            found.bytes_per_s = rate * channels * bits / 8 if tag in (1, 3, 6, 7) else float(per_s)
        elif form is _W64 and chunk.name[:4] == b"fmt " and len(body) >= 16:
            tag, channels, rate, per_s = struct.unpack("<HHII", body[:12])
            found.format_tag, found.channels, found.rate, found.bytes_per_s = tag, channels, rate, per_s
        elif form is _AIFF and chunk.name == b"COMM" and len(body) >= 18:
            found.channels, frames, bits = struct.unpack(">HIH", body[:8])
            found.frames = frames if body[18:22] in _PLAIN_AIFC else None
            exponent, mantissa = struct.unpack(">HQ", body[8:18])
            found.rate = round(mantissa * 2.0 ** (exponent - 16_383 - 63)) if exponent < 16_500 else 0
            found.bytes_per_s = found.rate * found.channels * -(-bits // 8)
        elif form is _CAF and chunk.name == b"desc" and len(body) >= 32:
            rate, _, _, packet, frames, channels, _ = struct.unpack(">dIIIIII", body[:32])
            found.rate, found.channels = round(rate) if 0 <= rate < 1e9 else 0, channels
            found.bytes_per_s = rate * packet / frames if frames else 0.0


def _look_behind(file: BinaryIO, form: Form, found: Layout, size: int) -> None:
    """Judge what follows the samples: chunks, tags and text are no sound; a recording or samples are."""
    if found.declared is None:  # up to the end of the file: only the header has to be told so
        found.patches = _patches(form, found, size)
        return
    end = found.start + found.there
    padded = end + -end % form.align
    for place in (end, padded):
        head = read_at(file, place, 40)
        other = head[:4] in (b"fLaC", b"OggS") or head[4:8] == b"ftyp" or mpeg_frames.begins(file, place)
        if size - place > _LEAST_RECORDING and (other or _form(head) is not None):
            found.next_start = place
            return
    if found.declared > found.there and form is _CAF:  # libsndfile stumbles at such an end
        found.patches = _patches(form, found, size)
    if end >= size or padded >= size or any(_is_chunk_list(file, form, p, size) for p in (padded, end)):
        seconds = [c.size for c in _chunks(file, form, size, padded) if c.name == form.data]
        if seconds and found.bytes_per_s:
            found.notes.append(
                f"a second data chunk of {sum(seconds) / found.bytes_per_s:.2f} s follows and is not heard"
            )
        return
    if harmless_end(file, end, size) >= size:
        return
    if _copied_as_text(file, size):
        found.fault = "is damaged: it was copied as text, which put a byte before every line feed"
    elif found.bytes_per_s and size - end > 0.02 * found.bytes_per_s:
        found.there = size - found.start
        found.patches = _patches(form, found, size)


def _copied_as_text(file: BinaryIO, size: int) -> bool:
    """Whether every line feed follows a carriage return, as no samples have it."""
    data = read_at(file, 0, min(size, 4 << 20))
    feeds = data.count(b"\n")
    return feeds >= 8 and data.count(b"\r\n") == feeds


def _patches(form: Form, found: Layout, size: int) -> dict[int, bytes]:
    """Header fields that say how many bytes of samples are there."""
    if found.ds64 is not None:
        return {found.ds64: struct.pack("<QQ", size - 8, found.there)}
    width = struct.calcsize(form.size)
    length = found.there + form.data_head + form.includes
    limit = (1 << 8 * width) - 1
    place = found.start - form.data_head - width
    made = {place: struct.pack(form.size, min(length, limit))}
    if form is _W64:
        made[16] = struct.pack("<Q", size)
    elif form is not _CAF:
        made[4] = struct.pack(form.size, min(size - 8, limit))
    return made


def _au(file: BinaryIO, head: bytes, size: int) -> Layout:
    order = ">" if head[:4] == b".snd" else "<"
    start, declared, encoding, rate, channels = struct.unpack(order + "IIIII", head[4:24])
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding, 0)
    available = max(0, size - start)
    known = 0 < declared < STREAMED_SIZE or 0 < declared <= available
    found = Layout("AU", start, min(declared, available) if known else available, declared if known else None)
    found.rate, found.channels, found.bytes_per_s = rate, channels, float(width * rate * channels)
    end = start + found.there
    more = size - end > 0.02 * found.bytes_per_s > 0
    if known and more and harmless_end(file, end, size) < size:
        found.there = available
    if found.there != declared and declared != 0xFFFF_FFFF:
        found.patches = {8: struct.pack(order + "I", 0xFFFF_FFFF)}
    return found
