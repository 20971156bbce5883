"""Part of a file as a file of its own: what decoders are given when only some bytes are the recording."""

import io
from collections.abc import Mapping
from typing import Any, BinaryIO, cast


class Window(io.RawIOBase):
    """The bytes [start, stop) of a seekable file; ``patches`` (place in it -> bytes) lie over them."""

    def __init__(self, file: BinaryIO, start: int, stop: int, patches: Mapping[int, bytes] | None = None):
        self._file, self._start, self._size = file, start, max(0, stop - start)
        self._patches = dict(patches or {})
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(0, self._size - self._at))
        if not wanted:
            return 0
        self._file.seek(self._start + self._at)
        data = bytearray(self._file.read(wanted) or b"")
        for place, patch in self._patches.items():
            first, last = max(place, self._at), min(place + len(patch), self._at + len(data))
            if first < last:
                data[first - self._at : last - self._at] = patch[first - place : last - place]
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def window(file: BinaryIO, start: int, stop: int, patches: Mapping[int, bytes] | None = None) -> BinaryIO:
    """``Window`` as the type that decoders ask for."""
    return cast(BinaryIO, Window(file, start, stop, patches))


def size_of(file: BinaryIO) -> int:
    """Bytes in a seekable file, which is left at its start."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


def read_at(file: BinaryIO, place: int, count: int) -> bytes:
    """Up to ``count`` bytes from ``place`` on; fewer only at the end of the file."""
    file.seek(place)
    data = b""
    while len(data) < count and (more := file.read(count - len(data))):
        data += more
    return data
