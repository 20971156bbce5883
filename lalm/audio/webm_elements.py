"""The elements of a WebM or Matroska file: whether the last one is all there."""

from typing import BinaryIO

from lalm.audio.windows import read_at, size_of

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675


def breaks_off(file: BinaryIO) -> bool:
    """Whether a file ends in the midst of an element, as what a lost connection leaves does."""
    size, place = size_of(file), 0
    while place < size:
        head = read_at(file, place, 12)
        name_width = _width(head[0])
        if not 1 <= name_width <= 4 or len(head) <= name_width:
            return len(head) <= name_width
        name = int.from_bytes(head[:name_width], "big")
        width = _width(head[name_width])
        if not width:
            return False
        if len(head) < name_width + width:
            return True
        length = int.from_bytes(head[name_width : name_width + width], "big") & ((1 << 7 * width) - 1)
        start = place + name_width + width
        unknown = length == (1 << 7 * width) - 1
        if name in (_SEGMENT, _CLUSTER):
            if not unknown and start + length > size:
                return True
            place = start
        elif unknown:
            return False
        else:
            place = start + length
    return place > size


def _width(first: int) -> int:
    """Bytes of a variable-length number, by its first byte; 0 for none."""
    return 9 - first.bit_length() if first else 0
