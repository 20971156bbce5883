"""An answer and which it is, and the rows of JSON lines that keep answers."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lalm.errors import LalmError

SPARED = ("failed", "tokens", "accounts", "thinking_cut")  # what a row has only where there is something
UNANSWERED = "no answer to it is in the file"  # why an item of a file of answers is left out


class RowError(LalmError, ValueError):
    """A file of answers that is not one; the text names file and line."""


@dataclass(frozen=True)
class Said:
    """One answer; seconds of each recording given, and heard where that is known. ``likelihood``: nats that
    the known answer costs the model, and its tokens, where that was asked for. ``finish_reason``: why it
    ended ("stop", "length", "repetition"; "too_long" where the question did not fit into the model), where
    that is known. ``failed``: why there is no answer, such as a recording that cannot be read; such an item
    is left out of the scores. ``tokens``: of the prompt and of the answer, as an endpoint counts them.
    ``accounts``: of each recording, as JSON. ``thinking_cut``: the budget for its thinking was spent."""

    text: str
    given_s: tuple[float, ...] = ()
    heard_s: tuple[float, ...] | None = None
    likelihood: tuple[float, int] | None = None
    finish_reason: str = ""
    failed: str = ""
    tokens: tuple[int, int] | None = None
    accounts: tuple[dict[str, Any], ...] = ()
    thinking_cut: bool = False


@dataclass(frozen=True)
class Key:
    """Which answer: of a task, under a control, to an item."""

    task: str
    control: str
    id: str


def row_of(key: Key, said: Said) -> dict[str, Any]:
    """An answer as a row of ``predictions.jsonl``."""
    row = asdict(key) | asdict(said)
    return {name: value for name, value in row.items() if value or name not in SPARED}


def said_of(row: dict[str, Any]) -> Said:
    """The answer of such a row."""
    heard, tokens = row.get("heard_s"), row.get("tokens")
    return Said(
        str(row.get("text")),
        tuple(row.get("given_s") or ()),
        tuple(heard) if heard is not None else None,
        likelihood_of(row),
        str(row.get("finish_reason") or ""),
        str(row.get("failed") or ""),
        (int(tokens[0]), int(tokens[1])) if tokens else None,
        tuple(row.get("accounts") or ()),
        bool(row.get("thinking_cut")),
    )


def likelihood_of(row: dict[str, Any]) -> tuple[float, int] | None:
    """What a row says of the known answer's likelihood."""
    found = row.get("likelihood")
    return None if found is None else (float(found[0]), int(found[1]))


def rows_of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place, row) of a JSONL file."""
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise RowError(f"{path.name}:{number}: not JSON") from None
        if not isinstance(row, dict):
            raise RowError(f"{path.name}:{number}: not a JSON object")
        rows.append((f"{path.name}:{number}", row))
    return rows
