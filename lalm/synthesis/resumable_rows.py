"""Resumable writing of manifests whose rows an LLM answers: a killed run continues where it stopped.

``out`` is the manifest. ``<out>.json`` holds the settings; a run with other settings is refused.
``<out>.dropped`` lists the ids of rows without an acceptable reply.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from filelock import FileLock, Timeout

from lalm.data.sample import Sample
from lalm.errors import LalmError


class RowsError(LalmError, ValueError):
    """An existing file that does not belong to this run, or is being written by another."""


@dataclass(frozen=True)
class Counts:
    """Rows written by this run, rows that existed before, and, of all rows, how many replies the token limit
    truncated and how many rows were dropped without an acceptable reply. ``retried`` counts the replies of
    this run that were unacceptable and requested again."""

    written: int
    existing: int
    truncated: int
    dropped: int = 0
    retried: int = 0


class Request(Protocol):
    """A row to write."""

    @property
    def row_id(self) -> str:
        """The row's id, by which a later run recognises it."""


R = TypeVar("R", bound=Request)
T = TypeVar("T")  # the reply to a request, or several replies
# Requests and the number of earlier attempts -> their replies, in order.
MakeReplies = Callable[[Sequence[R], int], list[T]]
# A request and its reply -> the row, or None if the reply is unacceptable.
MakeRow = Callable[[R, T], Sample | None]


def write_rows(
    requests: Sequence[R],
    out: Path,
    make_replies: MakeReplies[R, T],
    make_row: MakeRow[R, T],
    settings: Mapping[str, object],
    *,
    batch_size: int,
    tries: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Counts:
    """Answer the requests that ``out`` lacks; each batch is on disk before the next begins.

    ``settings`` are stored beside ``out``. A request is attempted up to ``tries`` times until a reply makes
    a row.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{out}.lock", timeout=0):
            _check_settings(out, settings)
            return _write(requests, out, make_replies, make_row, batch_size, tries, progress)
    except Timeout:
        raise RowsError(
            f"another run is writing '{out}': wait until it is done, or name another file"
        ) from None


def _write(
    requests: Sequence[R],
    out: Path,
    make_replies: MakeReplies[R, T],
    make_row: MakeRow[R, T],
    batch_size: int,
    tries: int,
    progress: Callable[[int, int], None] | None,
) -> Counts:
    dropped_path = out.with_name(out.name + ".dropped")
    out.touch()
    done, truncated = _resume(out)
    dropped = set(whole_lines(dropped_path).decode().split("\n")[:-1])
    requests = [r for r in requests if r.row_id not in done and r.row_id not in dropped]
    written = retried = 0
    for at in range(0, len(requests), batch_size):
        batch = list(requests[at : at + batch_size])
        left: list[R] = batch
        rows: dict[str, Sample] = {}
        for attempt in range(tries):
            retried += len(left) if attempt else 0
            for request, reply in zip(left, make_replies(left, attempt), strict=True):
                if (sample := make_row(request, reply)) is not None:
                    rows[request.row_id] = sample
            left = [request for request in left if request.row_id not in rows]
            if not left:
                break
        samples = [rows[request.row_id] for request in batch if request.row_id in rows]
        append(out, [json.dumps(sample.to_json(out.parent), ensure_ascii=False) for sample in samples])
        append(dropped_path, [request.row_id for request in left])
        written += len(samples)
        truncated += sum(sample.truncated for sample in samples)
        dropped.update(request.row_id for request in left)
        if progress:
            progress(at + len(batch), len(requests))
    return Counts(written, len(done), truncated, len(dropped), retried)


def append(path: Path, lines: Sequence[str]) -> None:
    """Add lines and wait until they are on the disk."""
    if lines:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())


def whole_lines(path: Path) -> bytes:
    """A file's content up to its last line break; an incomplete last line is removed from the file."""
    raw = path.read_bytes() if path.exists() else b""
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return whole


def _resume(out: Path) -> tuple[set[str], int]:
    """Ids already written, and how many of their replies were truncated."""
    try:
        rows = [json.loads(line) for line in whole_lines(out).splitlines()]
        return {row["id"] for row in rows}, sum(bool(row.get("truncated")) for row in rows)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RowsError(f"{out} exists and is not a manifest this command wrote: name another file") from None


def _check_settings(out: Path, settings: Mapping[str, object]) -> None:
    """Write the settings to ``<out>.json``. Raises RowsError if it holds other settings."""
    path = out.with_name(out.name + ".json")
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    for key, value in settings.items():
        if before.get(key, value) != value:
            raise RowsError(f"{out} was begun with {key}={before[key]!r}, not {value!r}: choose another file")
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
