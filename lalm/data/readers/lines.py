"""Files of lines: where each record begins and ends is kept in memory, and records are read one by one."""

import codecs
import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lalm.data.readers.samples import ReaderError, Samples

BLOCK_BYTES = 1 << 24
MAX_UNPACKED_BYTES = 8 << 30
SHORT_LINE = 64  # bytes; only shorter lines are looked at for being blank
NEWLINE, QUOTE = 10, 34


class Lines(Samples):
    """A record a line, or more lines where a line break stands in double quotes (``quoted``).

    Blank lines are skipped. A ``.gz`` is unpacked into memory, UTF-16 (as Excel saves it) turned into UTF-8.
    Subclasses parse ``record(number)``.
    """

    def __init__(self, path: Path, quoted: bool = False) -> None:
        self.path, self.folder = path, path.parent
        self._unpacked = unpacked(path) if path.suffix == ".gz" else _from_utf_16(path)
        with self._open() as file:
            ends, numbers = _record_ends(file, quoted)
            starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
            blank = [
                i
                for i in np.flatnonzero(ends - starts < SHORT_LINE)
                if not _bytes(file, int(starts[i]), int(ends[i])).strip(b" \t\r\n\xef\xbb\xbf")
            ]
        kept = np.delete(np.arange(len(ends), dtype=np.int32), blank)
        self._starts, self._ends, self._numbers = starts[kept], ends[kept], numbers[kept]

    def _open(self) -> BinaryIO:
        return self.path.open("rb") if self._unpacked is None else io.BytesIO(self._unpacked)

    def __len__(self) -> int:
        return len(self._starts)

    def row(self, number: int) -> Any:
        """The record as text."""
        return self.record(number)

    def place(self, number: int) -> str:
        return f"{self.path.name}:{self._numbers[number]}"

    def record(self, number: int) -> str:
        """The text of a record. Raises ReaderError when it is not UTF-8."""
        with self._open() as file:
            line = _bytes(file, int(self._starts[number]), int(self._ends[number]))
        try:
            return line.decode("utf-8-sig" if self._starts[number] == 0 else "utf-8")
        except UnicodeDecodeError:
            raise ReaderError(
                f"{self.path.name}:{self._numbers[number]}: the line is not UTF-8 text; "
                f"iconv -f WINDOWS-1252 -t UTF-8 {self.path.name} > utf8-{self.path.name} converts a file "
                "that Windows saved"
            ) from None


def _record_ends(file: BinaryIO, quoted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where each record's line break is (the last one's may be the end of the file), and the number of the
    line, from 1, that each begins in."""
    found: list[np.ndarray] = []
    lines: list[np.ndarray] = []
    at, quotes, line = 0, 0, 0
    while block := file.read(BLOCK_BYTES):
        values = np.frombuffer(block, np.uint8)
        breaks = np.flatnonzero(values == NEWLINE)
        numbers = np.arange(line + 1, line + 1 + len(breaks))
        line += len(breaks)
        if quoted:
            marks = values == QUOTE
            outside = (quotes + np.cumsum(marks)[breaks]) % 2 == 0
            quotes += int(marks.sum())
            breaks, numbers = breaks[outside], numbers[outside]
        found.append(breaks + at)
        lines.append(numbers)
        at += len(block)
    ends = np.concatenate([np.zeros(0, np.int64), *found])
    last = np.concatenate([np.zeros(0, np.int64), *lines])
    if at and (not len(ends) or ends[-1] != at - 1):
        ends, last = np.append(ends, at), np.append(last, line + 1)
    first = np.concatenate([[1], last[:-1] + 1]).astype(np.int64)
    return ends, first[: len(ends)]


def _bytes(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _from_utf_16(path: Path) -> bytes | None:
    """A UTF-16 file as UTF-8; None for any other."""
    with path.open("rb") as file:
        if not file.read(2).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return None
        file.seek(0)
        data = file.read(MAX_UNPACKED_BYTES + 1)
    if len(data) > MAX_UNPACKED_BYTES:
        raise ReaderError(f"{path.name} is larger than {MAX_UNPACKED_BYTES >> 30} GiB: save it as UTF-8")
    try:
        return data.decode("utf-16").encode()
    except UnicodeDecodeError:
        raise ReaderError(f"{path.name} begins like UTF-16 text, but is not") from None


def unpacked(path: Path) -> bytes:
    """A gzip file's contents, at most 8 GiB. Raises ReaderError for one that is not whole."""
    try:
        with gzip.open(path) as file:
            data = file.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ReaderError(f"{path.name} is not a whole gzip file: {error}") from None
    if len(data) > MAX_UNPACKED_BYTES:
        raise ReaderError(f"{path.name} unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB")
    return data
