"""Reads calls in chunks of which only the whole call has a transcript, in a set of its own beside them.

So the Open ASR leaderboard has Earnings-22: ``Earnings22-Cleaned-AA-chunked`` holds ``audio/`` and a table of
``file_name``, ``parent_id`` and ``chunk_index``; its parent ``Earnings22-Cleaned-AA`` a table of ``id`` and
text. Every chunk is asked by itself; the metric joins a call's answers before it compares.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lalm.data.sample import Sample, ask
from lalm.tasks.published_tables import Row, rows_of
from lalm.tasks.sources import Source, SourceError

TABLES = (".parquet", ".jsonl", ".json", ".csv")
TEXTS = ("text", "sentence", "normalized_text", "transcript", "transcription")  # in their order there
ENDING = "-chunked"


def chunked_calls(source: Source) -> Iterator[Sample]:
    """A chunk a sample, in order; its reference is the whole call's text, and its recording the call."""
    calls = _calls(source.path)
    rows = _tables(source.path, ("file_name", "parent_id", "chunk_index"))
    for row in sorted(rows, key=lambda row: (str(row["parent_id"]), int(row["chunk_index"]))):
        call, place = str(row["parent_id"]), str(row["chunk_index"])
        if call not in calls:
            raise SourceError(
                f"the call '{call}' of {source.path.name} has no transcript: get both sets anew"
            )
        path = source.clip(str(row["file_name"]), "audio", ".")
        yield Sample(
            ask([str(path)], "").messages,
            id=f"{call}-{place}",
            references=(calls[call],),
            origin={"recording": call, "call": call, "chunk": place},
        )


def _calls(folder: Path) -> dict[str, str]:
    """The text of each call, from the set beside ``folder``."""
    parent = folder.with_name(folder.name.removesuffix(ENDING))
    if parent == folder or not parent.is_dir():
        raise SourceError(
            f"'{folder}' needs the transcripts of its calls beside it: the set without '{ENDING}' in its name"
        )
    found: dict[str, str] = {}
    for row in _tables(parent, ("id",)):
        text = next((row[name] for name in TEXTS if isinstance(row.get(name), str)), None)
        if text is not None:
            found[str(row["id"])] = text
    if not found:
        raise SourceError(f"'{parent}' has no table of id and text in it")
    return found


def _tables(folder: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of all tables below the folder that have these columns, without their recordings."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in TABLES) if folder.is_dir() else []
    found = [_bare(row) for path in files for row in rows_of(path) if all(name in row for name in columns)]
    if not found:
        raise SourceError(f"'{folder}' has no table with the columns {', '.join(columns)} in it")
    return found


def _bare(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if isinstance(value, str | int)}
