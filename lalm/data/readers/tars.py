"""Reads WebDataset tars: ``0001.flac`` with ``0001.txt`` or ``0001.json`` makes one sample.

The JSON may be a whole manifest row whose audio is the member's name, or an object with the text under one
of ``TEXT_KEYS``, or where the columns of a ``Reading`` say, or else under another usual name, which is told.
Audio stays in the tar and is read from there.
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lalm.audio import archives
from lalm.audio.load import AUDIO_SUFFIXES
from lalm.data.readers.columns import ROLES, SEEN_ROWS, ColumnMap, Reading
from lalm.data.readers.samples import ReaderError, Samples, spoken

TEXT = "text"  # what the .txt is called among the columns
TEXTS = ("txt", "cls", "caption", "lab")  # suffixes of members that are the text
TEXT_KEYS = ("text", "caption", "transcript", "transcription", "sentence")


class Tars(Samples):
    """Samples of several tars, in the order of the tars and of their members."""

    def __init__(self, paths: Sequence[Path], reading: Reading) -> None:
        self.folder = paths[0].parent
        self._samples: list[tuple[Path, str, tuple[str, ...]]] = []  # tar, name, suffixes
        for path in paths:
            groups: dict[str, list[str]] = {}
            for member in archives.members(path):
                name, suffix = _split(member)
                if not PurePosixPath(member).name.startswith("."):  # "._0001.wav" of a Mac
                    groups.setdefault(name, []).append(suffix)
            self._samples += [(path, name, tuple(found)) for name, found in groups.items()]
        tables = [f"{name}.{s}" for _, name, found in self._samples for s in found if s in ("csv", "tsv")]
        if tables and not any(len(found) > 1 for *_, found in self._samples):
            raise ReaderError(
                f"'{paths[0]}' holds the table {tables[0]} and clips, and no shards: unpack it (tar -xf "
                f"{paths[0].name}) and name the table"
            )
        if reading.columns or self._needs_columns():
            seen = self._seen()
            names = list(dict.fromkeys(name for row in seen for name in row))
            given = {"audio": "audio", "id": "id", **reading.columns}
            self.columns = ColumnMap(names, seen, given, paths[0].name, None)
            self.told = self.columns.told

    def __len__(self) -> int:
        return len(self._samples)

    def place(self, number: int) -> str:
        tar, name, _ = self._samples[number]
        return f"{tar.name}/{name}"

    def row(self, number: int) -> Any:
        tar, _, suffixes = self._samples[number]
        fields = self._fields(number)
        if "messages" in fields or "conversations" in fields:
            return _inside(fields, tar)
        row = self._columns_of(number, fields)
        if self.columns is not None:
            return row
        text = row.get(TEXT) if set(TEXTS) & set(suffixes) else None
        text = text if text is not None else next((t for key in TEXT_KEYS if (t := fields.get(key))), None)
        if not isinstance(text, str):
            raise ReaderError(
                f"{self.place(number)} has no text: neither .txt nor {', '.join(TEXT_KEYS)} in .json; "
                "--columns answer=KEY names another key"
            )
        language = fields.get("language")
        origin = {"language": language} if isinstance(language, str) else {}
        return spoken({"audio": row["audio"]}, text, id=self._samples[number][1], origin=origin)

    def _fields(self, number: int) -> dict[str, Any]:
        """The object in a sample's .json; an empty one without."""
        tar, name, suffixes = self._samples[number]
        if "json" not in suffixes:
            return {}
        try:
            fields = json.loads(archives.read(tar, f"{name}.json"))
        except (ValueError, RecursionError) as error:
            raise ReaderError(f"{self.place(number)}.json: not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise ReaderError(f"{self.place(number)}.json must be a JSON object")
        return fields

    def _columns_of(self, number: int, fields: dict[str, Any]) -> dict[str, Any]:
        """A sample as a row of columns: what its .json has, ``id``, ``audio``, ``text`` from its .txt."""
        tar, name, suffixes = self._samples[number]
        audio = next((s for s in suffixes if f".{s.lower()}" in AUDIO_SUFFIXES), None)
        if audio is None:
            raise ReaderError(f"{self.place(number)} has no audio ({', '.join(AUDIO_SUFFIXES)})")
        row = {"id": name, **fields, "audio": f"{tar.name}/{name}.{audio}"}
        if suffix := next((s for s in TEXTS if s in suffixes), ""):
            try:
                row[TEXT] = archives.read(tar, f"{name}.{suffix}").decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                raise ReaderError(
                    f"{self.place(number)}.{suffix} is not UTF-8 text: save it as such"
                ) from None
        return row

    def _needs_columns(self) -> bool:
        """Whether the first sample has an object with other keys than ``TEXT_KEYS``, and no text."""
        if not self._samples or set(TEXTS) & set(self._samples[0][2]):
            return False
        try:
            fields = self._fields(0)
        except ReaderError:
            return False
        usual = set(ROLES["answer"]) & set(fields)
        return bool(usual) and not {"messages", "conversations", *TEXT_KEYS} & set(fields)

    def _seen(self) -> list[dict[str, Any]]:
        """The first samples as rows, but for those that cannot be read."""
        rows = []
        for number in range(min(len(self), SEEN_ROWS)):
            try:
                rows.append(self._columns_of(number, self._fields(number)))
            except ReaderError:
                continue
        return rows


def _split(member: str) -> tuple[str, str]:
    """("a/0001", "flac"): the name ends at the first dot of the file name, as WebDataset has it."""
    path = PurePosixPath(member)
    name, _, suffix = path.name.partition(".")
    return str(path.parent / name), suffix


def _inside(row: dict[str, Any], tar: Path) -> dict[str, Any]:
    """A manifest row whose audio members are named from the tar's folder."""

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(item) for item in value]
        if isinstance(value, dict):
            return {
                key: f"{tar.name}/{item}" if key == "audio" and isinstance(item, str) else named(item)
                for key, item in value.items()
            }
        return value

    made: dict[str, Any] = named(row)
    if isinstance(made.get("audios"), list):
        made["audios"] = [f"{tar.name}/{item}" for item in made["audios"]]
    return made
