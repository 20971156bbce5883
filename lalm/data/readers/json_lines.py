"""Reads JSONL manifests by line number, plain or gzipped, and files that are one JSON list.

Only where each line begins is kept in memory; lines are read and parsed one by one.
"""

import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lalm.data.readers.samples import ReaderError, Samples
from lalm.data.sample import BOM

BLOCK_BYTES = 1 << 24
MAX_UNPACKED_BYTES = 8 << 30
SHORT_LINE = 64  # bytes; only shorter lines are looked at for being blank
NEWLINE = 10


def is_json_list(path: Path) -> bool:
    """True for a file whose first character is ``[``."""
    with path.open("rb") as file:
        return file.read(64).lstrip(BOM + b" \t\r\n").startswith(b"[")


class JsonLines(Samples):
    """A line a row; blank lines are skipped. A ``.gz`` is unpacked into memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent
        self._unpacked = _unpack(path) if path.suffix == ".gz" else None
        with self._open() as file:
            ends = _line_ends(file)
            starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
            short = np.flatnonzero(ends - starts < SHORT_LINE)
            blank = [
                i
                for i in short
                if not _line(file, int(starts[i]), int(ends[i])).strip(b" \t\r\n\xef\xbb\xbf")
            ]
        kept = np.delete(np.arange(len(ends), dtype=np.int32), blank)
        self._starts, self._ends, self._numbers = starts[kept], ends[kept], kept

    def _open(self) -> BinaryIO:
        return self.path.open("rb") if self._unpacked is None else io.BytesIO(self._unpacked)

    def __len__(self) -> int:
        return len(self._starts)

    def place(self, number: int) -> str:
        return f"{self.path.name}:{self._numbers[number] + 1}"

    def row(self, number: int) -> Any:
        with self._open() as file:
            line = _line(file, int(self._starts[number]), int(self._ends[number]))
        try:
            return json.loads(line.decode("utf-8-sig" if self._numbers[number] == 0 else "utf-8"))
        except UnicodeDecodeError:
            raise ReaderError(f"{self.place(number)}: the line is not UTF-8 text") from None
        except json.JSONDecodeError as error:
            raise ReaderError(
                f"{self.place(number)}: not JSON: {error.msg} at column {error.colno}"
            ) from None
        except RecursionError:
            raise ReaderError(f"{self.place(number)}: not JSON: nested too deeply") from None


class JsonList(Samples):
    """A file that is one JSON list of rows, as LLaMA-Factory's are."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent
        try:
            self._rows = json.loads(path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError:
            raise ReaderError(f"{path.name}: the file is not UTF-8 text") from None
        except json.JSONDecodeError as error:
            raise ReaderError(f"{path.name}:{error.lineno}: not JSON: {error.msg}") from None

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, number: int) -> str:
        return f"{self.path.name}[{number}]"

    def row(self, number: int) -> Any:
        return self._rows[number]


def _line_ends(file: BinaryIO) -> np.ndarray:
    """Where each line's line break is; the last line's may be the end of the file."""
    found, at = [], 0
    while block := file.read(BLOCK_BYTES):
        found.append(np.flatnonzero(np.frombuffer(block, np.uint8) == NEWLINE) + at)
        at += len(block)
    ends = np.concatenate([np.zeros(0, np.int64), *found])
    if at and (not len(ends) or ends[-1] != at - 1):
        ends = np.append(ends, at)
    return ends


def _line(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _unpack(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            data = file.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ReaderError(f"{path.name} is not a whole gzip file: {error}") from None
    if len(data) > MAX_UNPACKED_BYTES:
        raise ReaderError(f"{path.name} unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB")
    return data
