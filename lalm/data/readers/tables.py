"""Reads Hugging Face data sets: ``save_to_disk`` folders, Arrow files, and parquet on disk or from the Hub.

Needs ``pip install 'lalm[hf]'``; addresses on the Hub are ``hf://datasets/USER/NAME/FOLDER``.
The audio column holds bytes or paths; which it is, and which the answer, a column map says, or the usual
names do (``lalm.data.readers.columns``). A row with ``messages`` or ``conversations`` is read as a manifest
row. Labels that are numbers of names are told by name. Rows are read when asked for.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lalm.data.readers.columns import SEEN_ROWS, ColumnMap, Reading, holds_audio
from lalm.data.readers.row_groups import REMOTE, RowGroups, local_files, remote_files
from lalm.data.readers.samples import ReaderError, Samples
from lalm.data.sample import Sample

HELD = "held.wav"  # stands for audio that lies in its row


class Table(Samples):
    """Rows of a data set, by a path or an ``hf://`` address."""

    heavy = True

    def __init__(self, source: str | Path, reading: Reading) -> None:
        self.path = path = Path(source)
        self.folder = path if path.is_dir() else path.parent
        if (path / "dataset_dict.json").is_file():
            splits = json.loads((path / "dataset_dict.json").read_text()).get("splits", [])
            raise ReaderError(
                f"'{path}' holds the splits {', '.join(splits)}: name one, such as {path / splits[0]}"
            )
        data: Any
        if str(source).startswith(REMOTE):
            data = RowGroups(remote_files(str(source)))
        elif path.suffix == ".parquet" or (path.is_dir() and not (path / "state.json").is_file()):
            data = RowGroups(local_files(path))
        else:
            data = _arrow(path)
        self.in_order = isinstance(data, RowGroups)
        columns = data.column_names
        self._data = data
        self._labels = _label_names(data)
        self._whole = next((name for name in ("messages", "conversations") if name in columns), None)
        self._audio = "audio"
        if self._whole is None or reading.columns:
            remote = str(source).startswith(REMOTE)  # nothing is read of it before it is asked for
            count = 0 if remote else min(1 if self.in_order else SEEN_ROWS, len(data))
            seen = [self._named(data[number]) for number in range(count)]
            folder = reading.audio or (None if remote else self.folder)
            name = str(source) if remote else path.name
            self.columns = ColumnMap(columns, seen, reading.columns, name, folder)
            self._audio = self.columns.columns["audio"][0]
            self.told = self.columns.told

    def __len__(self) -> int:
        return len(self._data)

    def place(self, number: int) -> str:
        return f"{self.path.name}[{number}]"

    def row(self, number: int) -> Any:
        row = self._named(self._data[number])
        if self.columns is None:
            return {key: value for key, value in row.items() if value is not None and key != "audio"}
        if holds_audio(row[self._audio]):
            row = {**row, self._audio: {"path": HELD}}
        return row

    def sample(self, number: int) -> Sample:
        made = super().sample(number)
        column = self._data[number].get(self._audio)
        held = column.get("bytes") if isinstance(column, dict) else column
        if self.columns is None and isinstance(column, dict) and held is None and column.get("path"):
            held = str(self.folder / column["path"])
        if held is None or (self.columns is not None and not isinstance(held, bytes)):
            return made
        parts = made.audios
        if len(parts) != 1:
            raise ReaderError(f"{self.place(number)}: one audio column, but {len(parts)} audio places")
        messages: Any = [
            m
            if isinstance(m["content"], str)
            else {
                **m,
                "content": [{**p, "audio": held} if p["type"] == "audio" else p for p in m["content"]],
            }
            for m in made.messages
        ]
        return replace(made, messages=tuple(messages))

    def _named(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with names in the place of labels' numbers."""
        if not self._labels:
            return row
        named = {
            key: names[row[key]]
            for key, names in self._labels.items()
            if isinstance(row.get(key), int) and 0 <= row[key] < len(names)
        }
        return {**row, **named}


def _label_names(data: Any) -> dict[str, list[str]]:
    """The names behind columns of numbered labels, as datasets keeps them with its tables."""
    features = getattr(data, "features", None)
    if features is None:
        return {}
    if not isinstance(features, dict):
        return {}
    found = {}
    for column, feature in features.items():
        names = feature.get("names") if isinstance(feature, dict) else getattr(feature, "names", None)
        if isinstance(names, list):
            found[str(column)] = [str(name) for name in names]
    return found


def _arrow(path: Path) -> Any:
    """A ``save_to_disk`` folder or an ``.arrow`` file, its audio as bytes."""
    try:
        import datasets
    except ImportError:
        raise ReaderError(f"to read '{path}', install datasets: pip install 'lalm[hf]'") from None
    try:
        if path.is_dir():
            data: Any = datasets.load_from_disk(str(path))
        else:
            data = datasets.Dataset.from_file(str(path))
    except Exception as error:  # pyarrow's and datasets' errors have no parent of their own
        raise ReaderError(f"'{path}' cannot be read as a data set: {error}") from None
    for name, feature in data.features.items():
        if isinstance(feature, datasets.Audio):
            data = data.cast_column(name, datasets.Audio(decode=False))
    return data
