"""Evaluating a loaded model or a model folder in one call: what ``lalm.evaluate_model`` is."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lalm.evaluate.answering import Local
from lalm.evaluate.controls import RELIANCE
from lalm.evaluate.items import open_task
from lalm.evaluate.run import Job, run
from lalm.inference.engine import Engine
from lalm.models.load import model_folder

CONTROL_ITEMS = 100  # a task, asked under controls unless told otherwise


def evaluate_model(
    model: str | Path | Engine | None,
    tasks: Sequence[str],
    out: str | Path,
    *,
    data: str | Path = "data",
    controls: Sequence[str] | None = None,
    limit: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Ask a model the items of the tasks, score its answers, and return the card: numbers with intervals.

    ``tasks`` are names (``lalm tasks`` lists them), with their file or folder behind "=" where it does not
    lie in ``data``. ``out`` receives every answer, card.json and report.html; the same call again goes on
    where it stopped. ``model``: None is the embedded small one. ``limit``: items of a task, 0 for all.
    ``controls`` are names of ``lalm.evaluate.controls``; None asks those of the audio reliance table, of at
    most 100 items a task.
    Example: ``lalm.evaluate_model(None, ["manifest=questions.jsonl"], "eval/small")``.
    Raises TaskError, RunError, and what the model refuses.
    """
    opened = [asked for spec in tasks for asked in open_task(spec, Path(data), limit=limit, seed=seed)]
    engine = model if isinstance(model, Engine) else Engine.load(None if model is None else str(model))
    folder = model_folder(model) if isinstance(model, str | Path) else None
    job = Job(opened, Path(out), controls or (), limit, seed, folder)
    if controls is None:
        job = replace(job, controls=RELIANCE, control_items=CONTROL_ITEMS, cheap=True)
    result = run(job, Local(engine, seed=seed))
    assert result is not None  # only a process that is not the first has none
    return result.card
