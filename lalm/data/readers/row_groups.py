"""Reads parquet files one row group at a time, from disk or streamed from the Hugging Face Hub.

Nothing is downloaded or converted beforehand. A row is cheap when its group was read lately, so whoever
draws rows should draw them from near one another (``Samples.in_order``).
"""

import bisect
import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from lalm.data.readers.samples import ReaderError

REMOTE = "hf://"
GROUPS_KEPT = 16


class RowGroups:
    """A sequence of rows as dictionaries. ``paths`` are local files, or ``hf://datasets/USER/NAME/...``."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        self._open: dict[int, Any] = {}
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        counts = []
        for number in range(len(paths)):
            layout = self._file(number).metadata
            self._groups += [(number, group) for group in range(layout.num_row_groups)]
            counts += [layout.row_group(group).num_rows for group in range(layout.num_row_groups)]
        self._starts = [0, *accumulate(counts)]
        schema = self._file(0).schema_arrow
        self.column_names: list[str] = schema.names
        self.features = _features(schema.metadata or {})  # column -> what datasets knows of it

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: int) -> dict[str, Any]:
        at = bisect.bisect_right(self._starts, number) - 1
        rows = self._rows(self._groups[at])
        (row,) = rows.slice(number - self._starts[at], 1).to_pylist()
        return row

    def __getstate__(self) -> dict[str, Any]:
        """Open files and what was read stay where they are: a loader process opens its own."""
        return {**self.__dict__, "_open": {}, "_kept": OrderedDict()}

    def _rows(self, group: tuple[int, int]) -> Any:
        if group not in self._kept:
            import pyarrow

            try:
                self._kept[group] = self._file(group[0]).read_row_group(group[1])
            except (OSError, pyarrow.ArrowException) as error:
                raise ReaderError(f"'{self.paths[group[0]]}' cannot be read: {error}") from None
            if len(self._kept) > GROUPS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        return self._kept[group]

    def _file(self, number: int) -> Any:
        if number not in self._open:
            try:
                import pyarrow
                from pyarrow import parquet
            except ImportError:
                raise ReaderError("to read parquet files, install pyarrow: pip install 'lalm[hf]'") from None
            path = self.paths[number]
            try:
                self._open[number] = parquet.ParquetFile(
                    _hub().open(path) if path.startswith(REMOTE) else path
                )
            except (OSError, pyarrow.ArrowException) as error:
                raise ReaderError(f"'{path}' cannot be read as parquet: {error}") from None
        return self._open[number]


def remote_files(address: str) -> list[str]:
    """The parquet files at an ``hf://`` address: a file, a pattern, or a folder."""
    pattern = address if address.endswith(".parquet") else f"{address.rstrip('/')}/**.parquet"
    try:
        found = sorted(REMOTE + str(PurePosixPath(path)) for path in _hub().glob(pattern))
    except (OSError, ValueError) as error:
        raise ReaderError(f"'{address}' cannot be listed: {error}") from None
    if not found:
        raise ReaderError(f"'{address}' has no parquet files")
    return found


def local_files(path: Path) -> list[str]:
    """A parquet file, or those of a folder (or its ``data``) in order.

    Raises ReaderError for files of several splits, ``train-00000-of-00002.parquet`` and ``test-...``.
    """
    if "*" in path.name:
        fitting = sorted(path.parent.glob(path.name))
        if not fitting:
            raise ReaderError(f"no file fits '{path}'")
        return [str(file) for file in fitting]
    if not path.is_dir():
        return [str(path)]
    files = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    if not files:
        raise ReaderError(f"'{path}' has no parquet files")
    splits = {found[1] for file in files if (found := re.match(r"(.+)-\d+-of-\d+", file.name))}
    if len(splits) > 1:
        raise ReaderError(
            f"'{path}' holds the splits {', '.join(sorted(splits))}: name one, such as "
            f"'{files[0].parent}/{sorted(splits)[0]}-*.parquet'"
        )
    return [str(file) for file in files]


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """What datasets wrote about a parquet file's columns, by name."""
    try:
        found = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _hub() -> Any:
    from huggingface_hub import HfFileSystem

    return HfFileSystem()
