"""Reads Hugging Face data sets: ``save_to_disk`` folders, Arrow files, and parquet on disk or from the Hub.

Needs ``pip install 'lalm[hf]'``; addresses on the Hub are ``hf://datasets/USER/NAME/FOLDER``.
The audio column is ``audio`` (bytes or a path); the answer is the first of ``TEXT_COLUMNS`` that is there,
or a row has ``messages`` or ``conversations`` and is read as a manifest row. Rows are read when asked for.
"""

import json
from pathlib import Path
from typing import Any

from lalm.data.readers.row_groups import REMOTE, RowGroups, local_files, remote_files
from lalm.data.readers.samples import ReaderError, Samples, spoken
from lalm.data.sample import Sample

TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "normalized_text", "caption", "captions")


class Table(Samples):
    """Rows of a data set, by a path or an ``hf://`` address."""

    heavy = True

    def __init__(self, source: str | Path) -> None:
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
        self._whole = next((name for name in ("messages", "conversations") if name in columns), None)
        self._text = next((name for name in TEXT_COLUMNS if name in columns), None)
        if self._whole is None and ("audio" not in columns or self._text is None):
            raise ReaderError(
                f"'{path}' has the columns {', '.join(columns)}; needed are audio and one of "
                f"{', '.join(TEXT_COLUMNS)}, or messages"
            )
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def place(self, number: int) -> str:
        return f"{self.path.name}[{number}]"

    def row(self, number: int) -> Any:
        row = self._data[number]
        if self._whole is not None:
            return {key: value for key, value in row.items() if value is not None and key != "audio"}
        text = row[str(self._text)]
        text = text[0] if isinstance(text, list) and text else text
        name = row.get("id")
        language = row.get("language") or row.get("locale")
        origin = {"language": language} if isinstance(language, str) else {}
        return spoken({"audio": "."}, text, id=str(name) if name is not None else "", origin=origin)

    def sample(self, number: int) -> Sample:
        made = super().sample(number)
        column = self._data[number].get("audio")
        if column is None:
            return made
        audio = column.get("bytes") or column.get("path") if isinstance(column, dict) else column
        if not isinstance(audio, bytes | str):
            raise ReaderError(f"{self.place(number)}: the audio column holds neither bytes nor a path")
        if isinstance(audio, str):
            audio = str(self.folder / audio)
        parts = made.audios
        if len(parts) != 1:
            raise ReaderError(f"{self.place(number)}: one audio column, but {len(parts)} audio places")
        messages: Any = [
            m
            if isinstance(m["content"], str)
            else {
                **m,
                "content": [{**p, "audio": audio} if p["type"] == "audio" else p for p in m["content"]],
            }
            for m in made.messages
        ]
        return Sample(tuple(messages), id=made.id, task=made.task, origin=made.origin)


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
    if "audio" in data.column_names and isinstance(data.features["audio"], datasets.Audio):
        data = data.cast_column("audio", datasets.Audio(decode=False))
    return data
