"""One question about many recordings: a table with a row for each, which can be resumed."""

import csv
import glob
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lalm.inference.engine import Engine, Options

SUFFIXES = {
    *(".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".m4a", ".aac", ".mp4", ".webm", ".mkv", ".mov"),
    *(".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".wma", ".amr", ".3gp", ".spx", ".wv", ".mp2", ".avi"),
}
COLUMNS = (
    *("audio", "answer", "finish_reason", "error", "declared_s", "decoded_s", "heard_s", "container"),
    *("codec", "rate_hz", "num_channels", "channels", "track", "holes", "peak", "rms", "silent_fraction"),
    "notes",
)
CHUNK_FILES = 16  # files that are decoded and answered together, and then written


def recordings(words: Sequence[str]) -> list[str]:
    """The files that words name: files themselves, all recordings in a folder, or what a pattern fits."""
    found: list[str] = []
    for word in words:
        if Path(word).is_dir():
            inside = sorted(p for p in Path(word).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
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


def ask_many(
    engine: "Engine",
    files: Sequence[str],
    question: str,
    options: "Options",
    out: Path,
    choice: dict[str, Any],
) -> int:
    """Write a row for each file; those that ``out`` has an answer for are not asked again.

    ``choice``: channel, track and lenient of every part. Returns how many rows are errors.
    """
    from lalm.data.sample import Sample

    rows = {row["audio"]: row for row in _written(out) if not row.get("error")}
    left = [file for file in files if file not in rows]
    began, failed = time.monotonic(), 0
    for at in range(0, len(left), CHUNK_FILES):
        chunk = left[at : at + CHUNK_FILES]
        samples = [
            Sample.from_json(_line(file, question, choice), place=file) for file in chunk
        ]  # paths are taken from where we stand
        for file, reply in zip(chunk, engine.reply(samples, options, errors="return"), strict=True):
            if isinstance(reply, ValueError):
                failed += 1
                rows[file] = {"audio": file, "error": str(reply)}
                continue
            [heard] = reply.heard
            account = heard.account.to_json() if heard.account else {}
            rows[file] = {"audio": file, "answer": reply.text, "finish_reason": reply.finish_reason} | {
                k: account[k] for k in account if k in COLUMNS
            }
        _write(out, rows.values())
        done = at + len(chunk)
        left_s = (time.monotonic() - began) / done * (len(left) - done)
        print(f"lalm: {done} of {len(left)}, {left_s:.0f} s left", file=sys.stderr)
    return failed


def _line(file: str, question: str, choice: dict[str, Any]) -> dict[str, Any]:
    parts = [{"type": "audio", "audio": file, **choice}, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": parts}]}


def check_out(out: Path) -> None:
    """Refuse a table of another kind, or in a folder that is not there."""
    if out.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"--out writes .csv or .jsonl, not '{out.name}'")
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder '{out.parent}' to write '{out.name}' to")


def _written(out: Path) -> list[dict[str, Any]]:
    """The rows that a table holds already."""
    if not out.is_file():
        return []
    with out.open(encoding="utf-8", newline="") as file:
        if out.suffix.lower() == ".jsonl":
            rows: list[dict[str, Any]] = [json.loads(line) for line in file if line.strip()]
        else:
            rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    if any("audio" not in row for row in rows):
        raise ValueError(f"'{out}' is not a table of this command: it has no column audio")
    return rows


def _write(out: Path, rows: Iterable[dict[str, Any]]) -> None:
    """All rows, all or nothing."""
    partial = out.with_name(out.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        if out.suffix.lower() == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows({key: _cell(row.get(key)) for key in COLUMNS} for row in rows)
    partial.replace(out)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
