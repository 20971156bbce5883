"""Answers that were made elsewhere: a file of them, by lalm's ids or the benchmark's own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lalm.data.sample import Sample
from lalm.evaluate.answer_settings import Decoding
from lalm.evaluate.said import UNANSWERED, Key, RowError, Said, rows_of, said_of

# Where benchmarks' own programs keep an answer, in the order in which they are looked for.
TEXTS = (
    "text",
    "model_output",
    "model_prediction",
    "answer_prediction",
    "response",
    "prediction",
    "pred_text",
)
IDS = ("id", "uniq_id", "key")


class Recorded:
    """Answers of a file: JSON lines, or a JSON list, of rows with "id" and "text", and "task" and "control"
    where several are. A benchmark's own submission file is one as well: "model_output", "response" and the
    like are the text, and its ids are taken.

    A ``predictions.jsonl`` that this program wrote is such a file. Raises ValueError for one that is not, and
    for two answers to one item. An item without an answer is left out and counted.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._said: dict[tuple[str, str, str], Said] = {}
        self._used: set[tuple[str, str, str]] = set()
        for place, row in _rows(path):
            ours = "control" in row or isinstance(
                row.get("text"), str
            )  # a benchmark's "task" is another thing
            task = str(row.get("task", "")) if ours else ""
            control = str(row.get("control", "audio"))
            name = next((row[key] for key in IDS if isinstance(row.get(key), str | int)), None)
            text = next((row[key] for key in TEXTS if isinstance(row.get(key), str)), None)
            if name is None or isinstance(name, bool) or text is None:
                raise RowError(f"{place}: an answer needs an id and a text, both strings")
            key = task, control, str(name)
            if key in self._said:
                raise RowError(f"{place}: a second answer to '{name}'")
            self._said[key] = said_of({**row, "text": text})

    def answer(self, keys: Sequence[Key], samples: Sequence[Sample], decoding: Decoding) -> list[Said]:
        """The recorded answers; those that are not there have failed."""
        return [self._of(key) or Said("", failed=UNANSWERED) for key in keys]

    def _of(self, key: Key) -> Said | None:
        """By the sample's id, or by what is behind the task's name in it: "audio_choice-17" is "17"."""
        names = dict.fromkeys((key.id, key.id.partition("-")[2] or key.id))
        for name in names:
            for task in (key.task, ""):
                if (found := self._said.get((task, key.control, name))) is not None:
                    self._used.add((task, key.control, name))
                    return found
        return None

    def unasked(self) -> list[str]:
        """The ids of answers to items that were not asked for: of another set, or misspelled."""
        return [key[2] for key in self._said if key not in self._used and key[1] == "audio"]


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Rows of JSON lines, or of one JSON list."""
    if path.suffix != ".json":
        return rows_of(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RowError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RowError(f"{path.name} is not a list of objects")
    return [(f"{path.name}:{number}", row) for number, row in enumerate(rows)]
