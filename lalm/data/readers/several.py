"""Several sources as one: the files that a pattern names, one after the other.

``part-*.csv``, and the ranges that WebDataset and NeMo write: ``{000..127}.tar``,
``sharded_manifests/manifest__OP_0..3_CL_.json`` (where a shell would take braces), ``[0..3]``, ``(0..3)``.
"""

import bisect
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lalm.data.readers.samples import ReaderError, Samples
from lalm.data.sample import Sample

RANGE = re.compile(r"(?:_OP_|[{\[(<])(\d+)\.\.(\d+)(?:_CL_|[}\])>])")
MOST_FILES = 100_000


def is_pattern(path: Path) -> bool:
    """Whether a path names several files."""
    return "*" in path.name or RANGE.search(str(path)) is not None


def fitting(path: Path) -> list[Path]:
    """The files that a pattern names, in its order. Raises ReaderError when one of a range is not there."""
    pieces = RANGE.split(str(path))  # text, first, last, text, first, last, ..., text
    numbers = []
    for first, last in zip(pieces[1::3], pieces[2::3], strict=True):
        if int(last) - int(first) >= MOST_FILES or int(last) < int(first):
            raise ReaderError(f"'{path}' names no range from {first} to {last}")
        width = len(first) if first.startswith("0") else 0
        numbers.append([str(number).zfill(width) for number in range(int(first), int(last) + 1)])
    found: list[Path] = []
    for chosen in itertools.islice(itertools.product(*numbers), MOST_FILES):
        texts = [text for pair in zip(pieces[::3], (*chosen, ""), strict=True) for text in pair]
        file = Path("".join(texts))
        some = sorted(file.parent.glob(file.name)) if "*" in file.name else [file]
        if not some or not all(one.exists() for one in some):
            raise ReaderError(f"'{path}' names '{file}', and there is no such file")
        found += some
    return found


class Several(Samples):
    """The samples of sources of one kind, in their order."""

    def __init__(self, parts: Sequence[Samples]) -> None:
        self._parts = list(parts)
        self._firsts = [0, *itertools.accumulate(len(part) for part in self._parts)]
        first = self._parts[0]
        self.columns, self.told = first.columns, first.told
        self.heavy = any(part.heavy for part in self._parts)
        self.in_order = any(part.in_order for part in self._parts)

    @property
    def folder(self) -> Path:
        """That of the first."""
        return self._parts[0].folder

    @folder.setter
    def folder(self, folder: Path) -> None:
        for part in self._parts:
            part.folder = folder

    def __len__(self) -> int:
        return self._firsts[-1]

    def _at(self, number: int) -> tuple[Samples, int]:
        part = bisect.bisect_right(self._firsts, number) - 1
        return self._parts[part], number - self._firsts[part]

    def place(self, number: int) -> str:
        part, inside = self._at(number)
        return part.place(inside)

    def row(self, number: int) -> Any:
        part, inside = self._at(number)
        return part.row(inside)

    def sample(self, number: int) -> Sample:
        part, inside = self._at(number)
        return part.sample(inside)
