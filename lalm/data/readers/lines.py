"""Files of lines: where each record begins and ends is kept in memory, and records are read one by one."""

import codecs
import gzip
import io
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lalm.data.readers.samples import ReaderError, Samples

BLOCK_BYTES = 1 << 24
MAX_UNPACKED_BYTES = 8 << 30
SEEN_BYTES = 1 << 16  # tell what a file is
SHORT_LINE = 64  # bytes; only shorter lines are looked at for being blank
NEWLINE = 10
CONTROLS = bytes({*range(32)} - {*b"\t\n\v\f\r\x1b"})  # not in text
MOST_CONTROLS = 0.05  # of the bytes of a text
# How files begin that are named like text and are none, and what to do with them.
NOT_TEXT = {
    b"PK\x03\x04": "a zip file or an Excel workbook: save it as CSV, or unzip it",
    b"PAR1": "a parquet file: name it .parquet",
    b"\x1f\x8b": "packed with gzip: name it .gz",
    b"RIFF": "a recording",
    b"fLaC": "a recording",
    b"OggS": "a recording",
    b"ID3": "a recording",
}


class Lines(Samples):
    """A record a line, or more lines where a line break stands in double quotes around a field.

    Blank lines are skipped. A ``.gz`` is unpacked into memory, UTF-16 (as Excel saves it) and the line breaks
    of old Macs turned into UTF-8 and ours. Subclasses parse ``record(number)``.
    """

    def __init__(self, path: Path, quoted: str = "", empty: str = "") -> None:
        """``quoted``: what stands between fields that may be quoted, "" where quotes are text; ``empty``:
        characters that are nothing, so that a line of them alone is blank."""
        self.path, self.folder = path, path.parent
        self._unpacked = unpacked(path) if path.suffix == ".gz" else _recoded(path)
        nothing = b" \t\r\n\xef\xbb\xbf" + empty.encode()
        with self._open() as file:
            ends, numbers = _quoted_ends(file, path.name, quoted) if quoted else _line_ends(file)
            starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
            blank = [
                i
                for i in np.flatnonzero(ends - starts < SHORT_LINE)
                if not _bytes(file, int(starts[i]), int(ends[i])).strip(nothing)
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


def _line_ends(file: BinaryIO) -> tuple[np.ndarray, np.ndarray]:
    """Where each line break is (the last one's may be the end of the file), and the lines' numbers from 1."""
    found = [np.zeros(0, np.int64)]
    at = 0
    while block := file.read(BLOCK_BYTES):
        found.append(np.flatnonzero(np.frombuffer(block, np.uint8) == NEWLINE) + at)
        at += len(block)
    ends = np.concatenate(found)
    if at and (not len(ends) or ends[-1] != at - 1):
        ends = np.append(ends, at)
    return ends, np.arange(1, len(ends) + 1)


def _quoted_ends(file: BinaryIO, name: str, delimiter: str) -> tuple[np.ndarray, np.ndarray]:
    """The same of records, which go on behind a line break inside a quoted field.

    A quote opens a field only at its beginning; elsewhere (5" nails) it is text. Raises ReaderError for a
    quote that is never closed.
    """
    mark = re.escape(delimiter.encode())
    closing = re.compile(rb'[^"]*(?:""[^"]*)*"[^%b]*(?:%b|\Z)' % (mark, mark))
    field = re.compile(rb' *(?:"[^"]*(?:""[^"]*)*(?:("|\Z)[^%b]*)|[^%b]*)(?:%b|\Z)' % (mark, mark, mark))
    ends, numbers = list[int](), list[int]()
    at, first, opened = 0, 1, False
    for number, line in enumerate(file, 1):
        at += len(line)
        if opened or b'"' in line:
            opened = _goes_on(line.removeprefix(codecs.BOM_UTF8), closing if opened else None, field)
        if not opened:
            ends.append(at - line.endswith(b"\n"))
            numbers.append(first)
            first = number + 1
    if opened:
        raise ReaderError(f"{name}:{first}: a double quote opens a field there and is never closed")
    return np.array(ends, np.int64), np.array(numbers, np.int64)


def _goes_on(line: bytes, closing: re.Pattern[bytes] | None, field: re.Pattern[bytes]) -> bool:
    """Whether a quoted field goes on behind a line; ``closing`` ends one that the line begins in."""
    at = 0
    if closing is not None:
        if (found := closing.match(line)) is None:
            return True
        at = found.end()
    while at < len(line) and (found := field.match(line, at)):
        if found[1] == b"":
            return True
        at = found.end()
    return False


def _bytes(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _recoded(path: Path) -> bytes | None:
    """A UTF-16 file, or one with the line breaks of old Macs, as UTF-8 with ours; None for any other.

    Raises ReaderError for a file that is no text.
    """
    with path.open("rb") as file:
        begin = file.read(SEEN_BYTES)
        coding = _coding(begin)
        if not coding and b"\n" not in begin and b"\r" in begin.rstrip(b"\r"):
            coding = "utf-8"
        if not coding:
            _check_text(begin, path.name)
            return None
        file.seek(0)
        data = file.read(MAX_UNPACKED_BYTES + 1)
    if len(data) > MAX_UNPACKED_BYTES:
        raise ReaderError(f"{path.name} is larger than {MAX_UNPACKED_BYTES >> 30} GiB: save it as UTF-8")
    if coding == "utf-8":
        return data.replace(b"\r", b"\n")
    try:
        return data.decode(coding).encode()
    except UnicodeDecodeError:
        raise ReaderError(f"{path.name} begins like UTF-16 text, but is not") from None


def _coding(begin: bytes) -> str:
    """The name of a text's coding in two bytes, with a mark at its beginning or without; "" for another."""
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    half = len(begin) // 2
    if half and begin[1::2].count(0) > 0.8 * half and not begin[::2].count(0):
        return "utf-16-le"
    return "utf-16-be" if half and begin[::2].count(0) > 0.8 * half and not begin[1::2].count(0) else ""


def _check_text(begin: bytes, name: str) -> None:
    for magic, what in NOT_TEXT.items():
        if begin.startswith(magic):
            raise ReaderError(f"{name} is no text but {what}")
    if sum(begin.count(code) for code in CONTROLS) > MOST_CONTROLS * len(begin):
        raise ReaderError(f"{name} is no text")


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
