"""What may stand beside a leaderboard, and why not; the files that a benchmark's own program scores."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from lalm.evaluate.items import Asked, question_of
from lalm.evaluate.metrics import Answer
from lalm.evaluate.official.board import Board
from lalm.evaluate.task import Task, known_tasks

FOLDER = "submissions"
HUB_FOLDER = "eval_results"  # to be copied into a model repository as .eval_results
AS_ASKED = ("prompts", "system", "beams", "temperature", "repetition_penalty", "min_tokens", "stop")


def standing(opened: Asked, entry: Mapping[str, Any], kind: str, judge: str) -> dict[str, Any] | None:
    """What the card says of the leaderboard of a task; None for a task that has none. ``kind`` is the model
    card's, ``judge`` the judge's name."""
    board = opened.task.official
    if board is None:
        return None
    against = _against(opened, board, entry, judge)
    found = entry["metrics"].get(board.metric)
    told: dict[str, Any] = {
        "metric": board.metric,
        "value": found["mean"] if found else None,
        "board": board.board,
        "may_stand_beside": not against,
        "because": against,
    }
    if kind == "predictions" and not against:
        told["provided"] = "the answers were made elsewhere: that the items were asked so is not known here"
    return told


def _against(opened: Asked, board: Board, entry: Mapping[str, Any], judge: str) -> list[str]:
    """Every reason why the run's number must not stand beside the leaderboard's."""
    same_words = bool(board.words) and f"prompt {board.words}" in judge
    able = bool(board.needs) and all(find_spec(name) is not None for name in board.needs)
    reasons = [board.unlike] if board.unlike and not same_words and not able else []
    if board.metric not in entry["metrics"]:
        why = {**entry["skipped"], **entry["failed"]}.get(board.metric, "it was not asked for")
        reasons.append(f"{board.metric} is not there: {why}")
    whole = board.items or len(opened.samples) + opened.missing + opened.undrawn
    scored = len(opened.samples) - sum(entry.get(name, 0) for name in ("failed_items", "unanswered"))
    if scored != whole:
        reasons.append(f"{scored} of {whole} items are scored")
    shipped = known_tasks().get(opened.task.name)
    if changed := _changed(opened.task, shipped):
        reasons.append(f"asked otherwise than lalm's task of this name: another {', '.join(changed)}")
    if entry.get("extracted", {}).get("read"):
        reasons.append("an LLM read answers that the rules could not read")
    if board.judge and board.judge not in judge:
        reasons.append(f"judged by {judge.split(',')[0] or 'nobody'}, not by {board.judge}")
    return reasons


def _changed(task: Task, shipped: Task | None) -> list[str]:
    if shipped is None:
        return []
    return [name for name in AS_ASKED if getattr(task, name) != getattr(shipped, name)]


def write_submission(out: Path, task: Task, answers: Sequence[Answer]) -> str | None:
    """The answers as the benchmark's own program takes them; the file's name below ``out``, None where the
    task does not say what it takes."""
    board = task.official
    if board is None or not board.submission:
        return None
    rows = [{key: _field(answer, name) for key, name in board.submission.items()} for answer in answers]
    path = out / FOLDER / f"{task.name}.{board.file}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if board.file == "json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path.relative_to(out))


def _field(answer: Answer, name: str) -> Any:
    sample = answer.sample
    if name == "text":
        return answer.text
    if name == "raw":
        return answer.raw or answer.text
    if name == "reference":
        return sample.references[0] if sample.references else ""
    if name == "choices":
        return list(sample.choices)
    if name.startswith("choice_"):
        place = "abcdefghij".index(name.removeprefix("choice_"))
        return sample.choices[place] if place < len(sample.choices) else ""
    if name == "question":
        return sample.origin.get("question") or question_of(sample)
    if name == "id":
        return sample.id
    text = sample.origin.get(name, "")
    try:
        value = json.loads(text) if text[:1] in ("[", "{") else text
    except (ValueError, RecursionError):
        value = text
    return value


def write_hub_results(out: Path, card: Mapping[str, Any], tasks: Sequence[Task], date: str) -> list[str]:
    """The numbers that may stand beside leaderboards of the Hub, one YAML file a dataset; their names.

    The form is that of .eval_results in model repositories (huggingface.co/docs/hub/eval-results)."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for task in tasks:
        entry, board = card["tasks"][task.name], task.official
        if board is None or not board.dataset or not entry["leaderboard"]["may_stand_beside"]:
            continue
        found = entry["metrics"][board.metric]
        value = round(found["mean"] * (100 if found["percent"] else 1), 4)
        row = {"dataset": {"id": board.dataset, "task_id": board.task_id}, "value": value, "date": date}
        rows.setdefault(board.dataset.rpartition("/")[2].lower(), []).append(
            {**row, "notes": f"lalm {card['versions']['lalm']}, {board.metric}"}
        )
    for name, own in rows.items():
        path = out / HUB_FOLDER / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(own, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return [f"{HUB_FOLDER}/{name}.yaml" for name in rows]
