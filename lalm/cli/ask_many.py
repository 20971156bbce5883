"""The same asked about many recordings: a table with a row for each, which can be resumed."""

import csv
import glob
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from lalm.audio.load import Account
    from lalm.data.readers import Reading
    from lalm.data.sample import AudioPart
    from lalm.inference.engine import Engine, Options

ACCOUNT = (
    *("declared_s", "decoded_s", "heard_s", "container", "codec", "rate_hz", "num_channels", "channels"),
    *("track", "num_tracks", "holes", "peak", "rms", "silent_fraction", "notes"),
)
CHUNK_FILES = 16  # files that are decoded and answered together, and then written

Row: TypeAlias = dict[str, Any]
Answers: TypeAlias = Callable[[Sequence[str]], Sequence[Row | ValueError]]


@dataclass(frozen=True)
class Table:
    """A .csv or .jsonl of one row a file: ``audio``, ``asked``, the command's own columns, ``error`` and the
    account. ``asked`` says what was asked, so that a second run never mixes two questions."""

    out: Path
    columns: tuple[str, ...]
    asked: str

    @property
    def header(self) -> tuple[str, ...]:
        """All columns of a .csv."""
        return "audio", "asked", *self.columns, "error", *ACCOUNT


def is_files(word: str) -> bool:
    """Does a word stand for recordings: a file, a folder, or a pattern of files such as ``calls/*``?"""
    from lalm.audio.load import is_recording

    if is_recording(word):
        return True
    if not glob.has_magic(word):
        return False
    spaces = any(character.isspace() for character in word)
    return ("/" in word and not spaces) or any(True for _ in glob.iglob(word, recursive=True))  # noqa: PTH207


def recordings(words: Sequence[str]) -> list[str]:
    """The files that words name: files themselves, all recordings in a folder, or what a pattern fits.

    Raises ValueError for a folder without recordings and a pattern that fits nothing.
    """
    from lalm.audio.load import RECORDING_SUFFIXES

    found: list[str] = []
    for word in words:
        if Path(word).is_dir():
            paths = (path for path in Path(word).rglob("*") if path.suffix.lower() in RECORDING_SUFFIXES)
            inside = sorted(path for path in paths if path.is_file())
            if not inside:
                raise ValueError(f"the folder {word} holds no recordings")
            found += map(str, inside)
        elif glob.has_magic(word) and not Path(word).is_file():
            fitting = sorted(p for p in glob.glob(word, recursive=True) if Path(p).is_file())  # noqa: PTH207
            if not fitting:
                raise ValueError(f"no file fits {word}")
            found += fitting
        else:
            found.append(word)
    return list(dict.fromkeys(found))


def parts_of(words: Sequence[str], reading: "Reading | None" = None) -> "dict[str, AudioPart]":
    """What is asked about, by its name in the table: what ``recordings`` finds, and the recordings of a
    SOURCE: a manifest, a table, a toolkit's folder.

    A stretch of a file is named as on the web: ``talk.wav#t=0.5,2``.
    """
    found: dict[str, AudioPart] = {}
    for word in words:
        if _is_source(word, reading):
            found |= _of_source(word, reading)
        else:
            found |= {name: {"type": "audio", "audio": name} for name in recordings([word])}
    return found


def _is_source(word: str, reading: "Reading | None") -> bool:
    """Is a word data rather than a recording, a pattern or a folder of recordings?"""
    from lalm.audio.load import is_named_like_recording
    from lalm.data.readers import is_source

    if word.startswith("hf://") or (reading is not None and reading.columns):
        return True
    path = Path(word)
    if path.is_dir():
        return is_source(path)
    return path.is_file() and path.suffix != "" and not is_named_like_recording(path.name)


def _of_source(word: str, reading: "Reading | None") -> "dict[str, AudioPart]":
    from lalm.data.readers import open_samples

    samples = open_samples(word, reading)
    found: dict[str, AudioPart] = {}
    for number in range(len(samples)):
        for part in samples[number].audios:
            source = part["audio"]
            name = source if isinstance(source, str) and source[:5] != "data:" else samples.place(number)
            if "offset_s" in part or "duration_s" in part:
                start = part.get("offset_s", 0.0)
                end = f",{start + part['duration_s']:g}" if "duration_s" in part else ""
                name = f"{name}#t={start:g}{end}"
            found[name] = part
    return found


def check_out(out: Path) -> None:
    """Refuse a table of another kind, or in a folder that is not there."""
    if out.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"--out writes .csv or .jsonl, not '{out.name}'")
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder '{out.parent}' to write '{out.name}' to")


def check_one(word: str) -> None:
    """Refuse a folder or a pattern where one recording is asked for, with the way to ask about each file."""
    if word != "-" and is_files(word) and (Path(word).is_dir() or not Path(word).exists()):
        kind = "folder" if Path(word).is_dir() else "pattern" if glob.has_magic(word) else ""
        if kind:
            raise ValueError(f"'{word}' is a {kind}: with --out TABLE.csv each of its files gets a row")


def fill(table: Table, files: Sequence[str], answers: Answers) -> int:
    """Write a row for each file; those that the table has answers for are not asked again.

    Returns how many rows are errors, and says so on standard error, as it says the time left.
    """
    rows = {row["audio"]: row for row in _written(table) if not row.get("error")}
    _write(table, rows.values())
    left = [file for file in files if file not in rows]
    began, failed = time.monotonic(), 0
    for at in range(0, len(left), CHUNK_FILES):
        chunk = left[at : at + CHUNK_FILES]
        new: list[Row] = []
        for file, answer in zip(chunk, answers(chunk), strict=True):
            failed += isinstance(answer, ValueError)
            told = {"error": str(answer)} if isinstance(answer, ValueError) else answer
            new.append({"audio": file, "asked": table.asked, **told})
        _write(table, new, more=True)
        done = at + len(chunk)
        left_s = round((time.monotonic() - began) / done * (len(left) - done))
        clock = f"{left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02}"
        print(f"lalm: {done} of {len(left)}, time left {clock}", file=sys.stderr)
    errors = f", {failed} of them errors" if failed else ""
    print(f"lalm: {len(files)} rows in {table.out}{errors}", file=sys.stderr)
    return failed


def ask_many(
    engine: "Engine",
    parts: "Mapping[str, AudioPart]",
    question: str,
    options: "Options",
    out: Path,
    choice: dict[str, Any],
) -> int:
    """Ask one question about each of ``parts``; ``choice``: channel, track and lenient of all of them.

    Returns how many rows are errors.
    """
    from lalm.data.sample import Sample

    def sample(name: str) -> Sample:
        content: list[Any] = [{**parts[name], **choice}, {"type": "text", "text": question}]
        return Sample(({"role": "user", "content": content if question else content[:1]},))

    def answers(chunk: Sequence[str]) -> list[Row | ValueError]:
        found: list[Row | ValueError] = []
        for reply in engine.reply([sample(name) for name in chunk], options, errors="return"):
            if isinstance(reply, ValueError):
                found.append(reply)
                continue
            own = {"answer": reply.text, "finish_reason": reply.finish_reason}
            found.append(own | account_row(reply.heard[0].account))
        return found

    return fill(Table(out, ("answer", "finish_reason"), question), list(parts), answers)


def account_row(account: "Account | None") -> Row:
    """The columns of an account."""
    told = {} if account is None else account.to_json()
    return {name: told[name] for name in ACCOUNT if name in told}


def _written(table: Table) -> list[Row]:
    """The rows that a table holds already, but for one that a killed run left unfinished."""
    if not table.out.is_file():
        return []
    with table.out.open(encoding="utf-8", newline="") as file:
        if table.out.suffix.lower() == ".jsonl":
            lines = file.read().split("\n")
            rows = [_json_row(line, table.out) for line in lines[:-1] if line.strip()]
        else:
            text = file.read()
            whole = [row for row in csv.DictReader(io.StringIO(text)) if None not in row.values()]
            last = len(whole) if text.endswith("\n") else len(whole) - 1
            rows = [{k: v for k, v in row.items() if v} for row in whole[: max(0, last)]]
    if any("audio" not in row for row in rows):
        raise ValueError(
            f"'{table.out}' is not a table of this command: it has no column 'audio'; "
            "name another file with --out"
        )
    for row in rows:
        if row.get("asked", "") != table.asked:
            raise ValueError(
                f"'{table.out}' holds answers to another question ('{row.get('asked', '')}'): "
                "name another file with --out"
            )
    return rows


def _json_row(line: str, out: Path) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ValueError(
            f"'{out}' is not a table of this command: a line is no JSON object; name another file with --out"
        )
    return row


def _write(table: Table, rows: Iterable[Row], *, more: bool = False) -> None:
    """All rows, all or nothing; or ``more`` rows behind those that are there."""
    partial = table.out if more else table.out.with_name(table.out.name + ".partial")
    with partial.open("a" if more else "w", encoding="utf-8", newline="") as file:
        if table.out.suffix.lower() == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            written = csv.DictWriter(file, table.header)
            if not more:
                written.writeheader()
            written.writerows({key: _cell(row.get(key)) for key in table.header} for row in rows)
    if not more:
        partial.replace(table.out)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
