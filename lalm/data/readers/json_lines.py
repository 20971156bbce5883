"""Reads JSON: a row a line (JSONL, plain or gzipped), or one document with a list of rows in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lalm.audio.load import is_named_like_recording
from lalm.data.readers.lines import Lines
from lalm.data.readers.samples import ReaderError, Samples
from lalm.data.sample import BOM

MAX_DOCUMENT_BYTES = 8 << 30
SEEN_LINES = 20


class JsonLines(Lines):
    """A row a line."""

    def row(self, number: int) -> Any:
        text = self.record(number).strip()
        try:
            return json.loads(text[:-1] if text.endswith("},") else text)
        except json.JSONDecodeError as error:
            raise ReaderError(
                f"{self.place(number)}: not JSON: {error.msg} at column {error.colno}"
            ) from None
        except RecursionError:
            raise ReaderError(f"{self.place(number)}: not JSON: nested too deeply") from None


class JsonList(Samples):
    """Rows of a file that is one JSON document."""

    def __init__(self, path: Path, rows: list[Any]) -> None:
        self.path, self.folder, self._rows = path, path.parent, rows

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, number: int) -> str:
        return f"{self.path.name}[{number}]"

    def row(self, number: int) -> Any:
        return self._rows[number]


def json_rows(path: Path) -> JsonLines | JsonList:
    """The rows of a JSON file, whichever way they lie there.

    A document is a list of rows (LLaMA-Factory's), an object with one list of rows in it ("data",
    "annotation") or rows by number, or pandas' ``to_json`` and ``to_dict``: columns, or rows by their name,
    or texts by the names of their recordings, or one row. Raises ReaderError where no line is JSON.
    """
    with path.open("rb") as file:
        first = file.read(1 << 16).lstrip(BOM + b" \t\r\n")
    if path.suffix != ".gz" and first.startswith(b"["):
        whole = _document(path)
        rows = whole if isinstance(whole, list) else [whole]
        return JsonList(path, [{"audio": row} if isinstance(row, str) else row for row in rows])
    lines = JsonLines(path)
    if path.suffix != ".json" or not first.startswith(b"{"):
        _check_lines(lines)
        return lines
    try:
        only = lines.row(0) if len(lines) == 1 else None
        if len(lines) > 1:
            lines.row(0)
            return lines
    except ReaderError:
        only = _document(path)
    inside = _rows_inside(only, path.name) if isinstance(only, dict) else None
    return JsonList(path, [only] if inside is None else inside)


def _check_lines(rows: JsonLines) -> None:
    """Raise ReaderError when none of the first lines is JSON."""
    told = ""
    for number in range(min(len(rows), SEEN_LINES)):
        try:
            rows.row(number)
            return
        except ReaderError as error:
            told = told or str(error)
    if told:
        name = rows.path.name
        spread = rows.record(0).rstrip()[-1:] in ("{", "[", ",")
        way = f"; a row is one line: jq -c . {name} > lines-{name} makes it so" if spread else ""
        raise ReaderError(told + way)


def _rows_inside(document: Mapping[str, Any], file: str) -> list[Any] | None:
    """The rows of a document that is an object; None for one that is a row itself."""
    if "messages" in document or "conversations" in document:
        return None
    lists = [value for value in document.values() if _objects(value)]
    if len(lists) == 1:
        return list(lists[0])
    if lists:
        names = [name for name, value in document.items() if _objects(value)]
        raise ReaderError(
            f"{file} holds several lists of rows, {', '.join(names)}: write the one to read as a file of its "
            f"own (jq '.{names[0]}' {file} > {names[0]}.json)"
        )
    if document and all(is_named_like_recording(k) and isinstance(v, str) for k, v in document.items()):
        return [{"audio": name, "answer": text} for name, text in document.items()]
    numbered = [value for value in document.values() if isinstance(value, dict) and "0" in value]
    if len(numbered) == 1 and len(document) > 1 and _objects(list(numbered[0].values())):
        return list(numbered[0].values())  # as Audio Flamingo's data have it
    columns = list(document.values())
    lists = [column for column in columns if isinstance(column, list)]
    if len(columns) == len(lists) > 1 and len({len(column) for column in lists}) == 1:  # of pandas' to_dict
        return [dict(zip(document, cells, strict=True)) for cells in zip(*lists, strict=True)]
    if columns and all(isinstance(column, dict) for column in columns):
        if not any(isinstance(cell, dict) for cell in columns[0].values()) and "0" in columns[0]:
            return [{name: column.get(key) for name, column in document.items()} for key in columns[0]]
        return [{"id": name, **row} for name, row in document.items()]
    return None


def _objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value[:20])


def _document(path: Path) -> Any:
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise ReaderError(f"{path.name} is larger than {MAX_DOCUMENT_BYTES >> 30} GiB: write a row a line")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise ReaderError(f"{path.name}: the file is not UTF-8 text: save it as such") from None
    except json.JSONDecodeError as error:
        raise ReaderError(f"{path.name}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ReaderError(f"{path.name}: not JSON: nested too deeply") from None
