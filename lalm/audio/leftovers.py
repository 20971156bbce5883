"""What may lie before, between and behind the sound without being damage: tags, text, padding."""

import re
from typing import BinaryIO

from lalm.audio.windows import read_at

LOOKED_AT = 1 << 16  # bytes by which a leftover is judged


def id3v2_end(file: BinaryIO, place: int = 0) -> int:
    """Where the ID3v2 tags that begin at ``place`` end; ``place`` itself when there is none."""
    while (head := read_at(file, place, 10))[:3] == b"ID3" and len(head) == 10:
        if any(byte > 127 for byte in head[6:]):
            break
        size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        place += 10 + size + (10 if head[5] & 16 else 0)
    return place


def tag_end(file: BinaryIO, place: int) -> int:
    """Where a tag that begins at ``place`` ends (ID3v1, ID3v2, APE, Lyrics3); ``place`` if it is none."""
    head = read_at(file, place, 32)
    if head[:3] == b"ID3":
        return id3v2_end(file, place)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        return place + int.from_bytes(head[12:16], "little") + (32 if head[23] & 0x20 else 0)
    if head[:3] == b"TAG":
        return place + (227 if head[3:4] == b"+" else 128)
    if head[:11] == b"LYRICSBEGIN":
        found = re.search(rb"LYRICS(END|200)", read_at(file, place, 1 << 20))
        return place + found.end() if found else place
    return place


def is_harmless(data: bytes) -> bool:
    """Whether bytes are text (HTML, JSON, a log) or padding, which nobody would call sound."""
    if not data.strip(b"\x00") or not data.strip(b"\xff"):
        return True
    printable = sum(data.count(byte) for byte in (*range(32, 127), 9, 10, 13))
    if printable > 0.9 * len(data):
        return True
    try:
        text = data[:-3].decode("utf-8") if len(data) > 3 else data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return sum(c.isprintable() or c.isspace() for c in text) > 0.95 * len(text)


def harmless_end(file: BinaryIO, place: int, stop: int) -> int:
    """Where tags, text and padding from ``place`` on end; ``stop`` when nothing else follows."""
    while place < stop:
        after = min(stop, tag_end(file, place))
        if after > place:
            place = after
            continue
        return stop if is_harmless(read_at(file, place, min(LOOKED_AT, stop - place))) else place
    return stop
