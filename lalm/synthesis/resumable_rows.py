"""Manifests whose rows an LLM answers, written batch by batch so that a killed run goes on where it stopped.

``out`` is the manifest; ``<out>.json`` says how it was made, and going on with other settings is refused;
``<out>.dropped`` lists the ids of rows that no good reply was found for.
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
    """Rows written now, rows that lay there already, and of all asked now or before, how many replies the
    token limit cut off and how many rows were dropped because no reply was any good. ``again`` counts the
    replies of this run that were no good and were asked for anew."""

    written: int
    already: int
    truncated: int
    dropped: int = 0
    again: int = 0


class Request(Protocol):
    """A row to be."""

    @property
    def row_id(self) -> str:
        """Its name, which a later run knows it by."""


R = TypeVar("R", bound=Request)
T = TypeVar("T")  # what is made of a request: a reply, or several
# What is made of requests, in order; the number says how often they were asked before.
Answer = Callable[[Sequence[R], int], list[T]]
# The row that comes of it, or None if it is no good.
Row = Callable[[R, T], Sample | None]


def write_rows(
    wanted: Sequence[R],
    out: Path,
    answer: Answer[R, T],
    row: Row[R, T],
    made: Mapping[str, object],
    *,
    batch_size: int,
    tries: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Counts:
    """Answer the requests that ``out`` lacks, one batch on the disk before the next is begun.

    ``made`` says how, and is kept beside ``out``. A reply that makes no row is asked for ``tries`` times
    in all.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{out}.lock", timeout=0):
            _note(out, made)
            return _write(wanted, out, answer, row, batch_size, tries, progress)
    except Timeout:
        raise RowsError(f"another run is writing {out}") from None


def _write(
    wanted: Sequence[R],
    out: Path,
    answer: Answer[R, T],
    row: Row[R, T],
    batch_size: int,
    tries: int,
    progress: Callable[[int, int], None] | None,
) -> Counts:
    lost = out.with_name(out.name + ".dropped")
    out.touch()
    done, truncated = _resume(out)
    dropped = set(whole_lines(lost).decode().split("\n")[:-1])
    requests = [r for r in wanted if r.row_id not in done and r.row_id not in dropped]
    written = again = 0
    for at in range(0, len(requests), batch_size):
        batch = list(requests[at : at + batch_size])
        left: list[R] = batch
        rows: dict[str, Sample] = {}
        for attempt in range(tries):
            again += len(left) if attempt else 0
            for request, reply in zip(left, answer(left, attempt), strict=True):
                if (sample := row(request, reply)) is not None:
                    rows[request.row_id] = sample
            left = [request for request in left if request.row_id not in rows]
            if not left:
                break
        samples = [rows[request.row_id] for request in batch if request.row_id in rows]
        append(out, [json.dumps(sample.to_json(out.parent), ensure_ascii=False) for sample in samples])
        append(lost, [request.row_id for request in left])
        written += len(samples)
        truncated += sum(sample.truncated for sample in samples)
        dropped.update(request.row_id for request in left)
        if progress:
            progress(at + len(batch), len(requests))
    return Counts(written, len(done), truncated, len(dropped), again)


def append(path: Path, lines: Sequence[str]) -> None:
    """Add lines and wait until they are on the disk."""
    if lines:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())


def whole_lines(path: Path) -> bytes:
    """What a file holds up to its last line break; a half-written last line is taken away."""
    raw = path.read_bytes() if path.exists() else b""
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return whole


def _resume(out: Path) -> tuple[set[str], int]:
    """Ids already written, and how many of their replies were cut off."""
    try:
        rows = [json.loads(line) for line in whole_lines(out).splitlines()]
        return {row["id"] for row in rows}, sum(bool(row.get("truncated")) for row in rows)
    except (ValueError, KeyError, TypeError):
        raise RowsError(f"{out} exists and is not a manifest this command wrote") from None


def _note(out: Path, made: Mapping[str, object]) -> None:
    """``<out>.json``: how the rows were made; going on with other settings is refused."""
    path = out.with_name(out.name + ".json")
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else made
    for key, value in made.items():
        if before.get(key, value) != value:
            raise RowsError(f"{out} was begun with {key}={before[key]!r}, not {value!r}: choose another file")
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
