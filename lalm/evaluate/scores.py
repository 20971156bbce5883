"""Scores of a run: every metric of a task with its interval, also by category and by duration."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lalm.evaluate.judge import UNREFERENCED
from lalm.evaluate.lacking import Lacking
from lalm.evaluate.metrics import METRICS, Answer, Resources, unreadable
from lalm.evaluate.metrics.intervals import (
    Array,
    Difference,
    Interval,
    Measured,
    bounded,
    difference,
    interval,
)
from lalm.evaluate.task import Task

MAX_CATEGORIES = 30
JUDGED = ("judge", "judge_following")


@dataclass(frozen=True)
class Scored:
    """A task's answers under one control with their metrics. ``skipped`` and ``failed``: metric -> why it is
    not there, because something was not given or because it broke on these answers."""

    task: Task
    answers: tuple[Answer, ...]
    measured: dict[str, Measured]
    used: dict[str, str]
    skipped: dict[str, str]
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def leading(self) -> str | None:
        """The first metric that could be computed."""
        return next(iter(self.measured), None)

    @property
    def recordings(self) -> list[str]:
        return [answer.recording for answer in self.answers]


def score(task: Task, answers: Sequence[Answer], resources: Resources, *, judged: bool) -> Scored:
    """The task's metrics. One that lacks a judge, a folder or references is skipped, one that fails on these
    answers has failed; both say why, and the others stand."""
    measured: dict[str, Measured] = {}
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    resources.used = {}
    for name in task.metrics:
        if not answers:
            skipped[name] = "no item was answered"
            continue
        if name in JUDGED and not judged:
            skipped[name] = "no judge was given (--judge)"
            continue
        bare = next((a for a in answers if not a.sample.references), None)
        free = name == "judge" and task.judge in UNREFERENCED
        if METRICS[name].compares and not free and bare is not None:
            skipped[name] = f"'{bare.sample.id}' has no references to score by"
            continue
        try:
            found = METRICS[name].measure(answers, resources)
            if math.isfinite(found.value):
                measured[name] = bounded(found, METRICS[name].bounds)
            else:
                failed[name] = "it is undefined on these answers"
        except Lacking as error:
            skipped[name] = str(error)
        except Exception as error:  # whatever a metric stumbles over, the answers and the other metrics stay
            failed[name] = f"{type(error).__name__}: {error}"
    return Scored(task, tuple(answers), measured, dict(resources.used), skipped, failed)


def numbers(scored: Scored) -> dict[str, Any]:
    """The metrics with their intervals, as the card has them; what could not be read beside them."""
    found = {}
    for name, measured in list(scored.measured.items()):
        metric = METRICS[name]
        try:
            limits = interval(measured, scored.recordings)
        except Exception as error:  # as in ``score``
            del scored.measured[name]
            scored.failed[name] = f"{type(error).__name__}: {error}"
            continue
        found[name] = {
            **plain(limits),
            "percent": metric.percent,
            "lower_is_better": metric.lower_is_better,
            **({"by": scored.used[name]} if name in scored.used else {}),
        }
    return {
        "metrics": found,
        "skipped": scored.skipped,
        "failed": scored.failed,
        "unreadable": plain(_unreadable(scored)),
    }


def _unreadable(scored: Scored) -> Interval:
    if not scored.answers:
        return Interval(0.0, -math.inf, math.inf, 0, 0)
    return interval(unreadable(scored.answers), scored.recordings)


def gap(mine: Scored, other: Scored, name: str) -> Difference:
    """A metric of one run minus that of another on the same items, paired."""
    return difference(mine.measured[name], other.measured[name], mine.recordings)


def plain(found: Interval) -> dict[str, Any]:
    """For JSON, which has no infinity: an interval without bounds has None there."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(found).items()
    }


def part_of(measured: Measured, items: Sequence[int]) -> Measured:
    """The metric on some of the items."""
    places = np.asarray(items)

    def of_counts(counts: Array) -> Array:
        whole = np.zeros((len(counts), measured.num_items))
        whole[:, places] = counts
        return measured.of_counts(whole)

    shares = None if measured.shares is None else measured.shares[places]
    return replace(measured, num_items=len(places), of_counts=of_counts, of_items=None, shares=shares)


def groups(scored: Scored, names: Sequence[str]) -> list[tuple[str, Interval]]:
    """The leading metric by group; ``names`` gives each item's."""
    assert scored.leading is not None
    found = []
    for name in dict.fromkeys(sorted(names)):
        items = [i for i, own in enumerate(names) if own == name]
        own = [scored.recordings[i] for i in items]
        found.append((name, interval(part_of(scored.measured[scored.leading], items), own)))
    return found


def paper_table(scored: Scored) -> list[tuple[str, Interval]]:
    """The leading metric as a benchmark's own table has it (``Task.table``), and the mean of its columns.

    Empty where a part has no item: then the table is not that benchmark's.
    """
    own = [answer.sample.origin.get("category", "") for answer in scored.answers]
    if scored.leading is None or not scored.task.table:
        return []
    whole = scored.measured[scored.leading]
    made: dict[str, Measured] = {}
    for name, parts in scored.task.table.items():
        items = [[i for i, category in enumerate(own) if category in part] for part in parts]
        if not all(items):
            return []
        made[name] = _mean_of([_on(whole, part) for part in items], whole.num_items)
    made["average"] = _mean_of(list(made.values()), whole.num_items)
    return [(name, interval(measured, scored.recordings)) for name, measured in made.items()]


def _on(whole: Measured, items: Sequence[int]) -> Measured:
    """The metric on some of the items, drawn as all of them are."""
    kept = np.zeros(whole.num_items)
    kept[list(items)] = 1

    def of_counts(counts: Array) -> Array:
        drawn = counts * kept
        drawn[~drawn.any(1)] = kept  # a draw may lack a part
        return whole.of_counts(drawn)

    return Measured(whole.num_items, of_counts, bounds=whole.bounds)


def _mean_of(parts: Sequence[Measured], num_items: int) -> Measured:
    def of_counts(counts: Array) -> Array:
        return np.asarray(np.mean([part.of_counts(counts) for part in parts], axis=0))

    return Measured(num_items, of_counts, bounds=parts[0].bounds)


def categories(scored: Scored) -> list[str]:
    """Each item's category: what its origin says, or its first label, or its reference where they are few."""
    told = [answer.sample.origin.get("category", "") for answer in scored.answers]
    labels = [_group(answer) for answer in scored.answers]
    references = [
        answer.sample.references[0] if answer.sample.references else "" for answer in scored.answers
    ]
    for names in (told, labels if scored.task.parser != "label" else references, references):
        if all(names) and 1 < len(set(names)) <= MAX_CATEGORIES:
            return names
    return []


def _group(answer: Answer) -> str:
    return answer.sample.events[0]["label"].partition("/")[0] if answer.sample.events else ""


def confusion(scored: Scored) -> tuple[list[str], list[list[int]]]:
    """Labels and counts, a row what is right, a column what was said, the last one unreadable; else empty."""
    right = [answer.sample.references[0] if answer.sample.references else "" for answer in scored.answers]
    said = [answer.read for answer in scored.answers]
    names = sorted(set(right))
    if scored.task.parser not in ("label", "choice", "yes_no", "number", "nearest_choice", "first_named"):
        return [], []
    if not 1 < len(names) <= 20:
        return [], []
    counts = Counter(zip(right, said, strict=True))
    table = [
        [counts[a, b] for b in names]
        + [sum(n for (own, b), n in counts.items() if own == a and b not in names)]
        for a in names
    ]
    return names, table
