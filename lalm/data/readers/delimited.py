"""Reads tables as text: CSV, TSV, and fields between semicolons or bars, with or without a header.

Fields between commas and semicolons may be in double quotes, with line breaks inside; between tabs and bars
quotes are text, but for those around a whole field. Without a header (LJSpeech's ``metadata.csv``) columns
are called 1, 2, 3, ...
"""

import ast
import csv
from pathlib import Path
from typing import Any, Literal

from lalm.audio.load import AUDIO_SUFFIXES, is_named_like_recording
from lalm.data.readers.columns import ROLES, SEEN_ROWS, ColumnMap, Reading
from lalm.data.readers.lines import Lines
from lalm.data.readers.placing import FOLDERS
from lalm.data.readers.samples import ReaderError

DELIMITERS = "\t|;,"  # a tie goes to the first
LONGEST_NAME = 200  # of a file; longer cells are texts

csv.field_size_limit(1 << 30)  # a cell may hold a recording as a data: URL


class Delimited(Lines):
    """Rows of a table, by its columns."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self._marked, self._delimiter = _delimiter(path)
        between = self._delimiter
        super().__init__(path, quoted=between if between in ",;" else "", empty=f'{between}"')
        self.folder = reading.audio or path.parent
        if not len(self):
            raise ReaderError(f"{path.name} is empty")
        self._first = int(self._marked)  # Excel's first line, which says what stands between fields
        self._names = [name.strip() for name in self._fields(self._first)]
        self._header = self._first + 1
        usual = {name for names in ROLES.values() for name in names}
        if twice := next((name for name in self._names if name and self._names.count(name) > 1), None):
            raise ReaderError(f"{path.name} has two columns '{twice}': give each a name of its own")
        known = {name.lower().replace(" ", "_").replace("-", "_") for name in self._names} & usual
        columns = dict(reading.columns)
        if not (known or self._titled()) and all(column.isdecimal() for column in columns.values()):
            self._header = self._first
            self._names = [str(number) for number in range(1, len(self._names) + 1)]
            columns = columns or self._guessed()
        seen = [self.row(number) for number in range(min(len(self), SEEN_ROWS)) if self._whole(number)]
        self.columns = ColumnMap(self._names, seen, columns, path.name, self.folder)
        self.told = self.columns.told
        if self._header == self._first and not reading.columns:
            shown = ",".join(f"{role}={column}" for role, column in columns.items())
            self.told = f"{path.name} has no header: {shown} by number; --columns says otherwise"

    def __len__(self) -> int:
        return super().__len__() - getattr(self, "_header", 0)

    def place(self, number: int) -> str:
        return super().place(number + getattr(self, "_header", 0))

    def row(self, number: int) -> Any:
        fields = self._cells(number)
        if len(fields) != len(self._names):
            more = self._delimiter == "," and len(fields) > len(self._names)
            advice = "; put a text with a comma in double quotes" if more else ""
            held = f"{len(fields)} field{'s' * (len(fields) != 1)}"
            raise ReaderError(f"{self.place(number)}: the row has {held}, not {len(self._names)}{advice}")
        return {name: _listed(field) for name, field in zip(self._names, fields, strict=True)}

    def _whole(self, number: int) -> bool:
        return len(self._cells(number)) == len(self._names)

    def _cells(self, number: int) -> list[str]:
        """The fields of a row, without empty ones behind the last column."""
        fields = self._fields(number + self._header)
        while len(fields) > len(self._names) and not fields[-1].strip():
            fields.pop()
        return fields

    def _fields(self, number: int) -> list[str]:
        text = self.record(number).rstrip("\r\n")
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._delimiter in ",;" else csv.QUOTE_NONE
        try:
            lines = csv.reader([text], delimiter=self._delimiter, quoting=quoting, skipinitialspace=True)
            (fields,) = lines
        except (csv.Error, ValueError) as error:
            raise ReaderError(f"{self.path.name}:{self._numbers[number]}: not a row: {error}") from None
        return fields if quoting == csv.QUOTE_MINIMAL else [_bare(field) for field in fields]

    def _titled(self) -> bool:
        """Whether the second line names a recording and the first one does not."""
        lines = [self._fields(self._first + n) for n in range(min(2, super().__len__() - self._first))]
        named = [any(is_named_like_recording(cell.strip()) for cell in line) for line in lines]
        return named == [False, True]

    def _guessed(self) -> dict[str, str]:
        """Columns of a table without a header: a file that is there, and the last text beside it."""
        first = self._fields(self._first)
        for number, cell in enumerate(first, 1):
            names = [f"{before}{cell}{after}" for before in FOLDERS for after in ("", *AUDIO_SUFFIXES)]
            here = len(cell) < LONGEST_NAME and any((self.folder / name).is_file() for name in names)
            if cell and (here or is_named_like_recording(cell)):
                others = [n for n in range(1, len(first) + 1) if n != number and first[n - 1].strip()]
                return {"audio": str(number), **({"answer": str(others[-1])} if others else {})}
        raise ReaderError(
            f"{self.path.name}: its first line ({', '.join(first)[:80]}) names no column that is usual, and "
            "no audio file that is there: say --columns audio=COLUMN,answer=COLUMN (by name, or by number "
            "from 1 where there is no header)"
        )


def _delimiter(path: Path) -> tuple[bool, str]:
    """Whether the first line only says so ("sep=;"), and what stands between fields."""
    first = Lines(path)
    line = first.record(0).strip() if len(first) else ","
    if line.lower().startswith("sep=") and len(line) == 5:
        return True, line[4]
    if path.name.lower().removesuffix(".gz").endswith(".tsv"):
        return False, "\t"
    return False, max(DELIMITERS, key=line.count)


def _listed(field: str) -> str | list[str]:
    """A list of texts that JSON, Python or pandas wrote into a cell; any other cell as it is."""
    if not (field.startswith("[") and field.endswith("]")):
        return field
    try:
        texts = ast.literal_eval(field)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return field
    return texts if texts and all(isinstance(text, str) for text in texts) else field


def _bare(field: str) -> str:
    """A field without quotes around all of it; such as begin or end a sentence stay."""
    inner = field[1:-1]
    if len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return field
