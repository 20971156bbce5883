"""What a finished run found: each cell's scores and the contrasts, with intervals over seeds and items

An estimate's variance is that of its items (recordings are drawn, each with all that is asked about it) plus
that of its seeds; the interval is Student's t with Satterthwaite's degrees of freedom, so that three seeds
that differ make a wide one. With one seed it is over items alone.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lalm.evaluate.agreement import agreement
from lalm.evaluate.metrics import METRICS, Answer, Resources
from lalm.evaluate.metrics.intervals import each
from lalm.evaluate.parsers import PARSERS
from lalm.evaluate.run import read_answers, read_card
from lalm.reproduce.experiment import Asked, Contrast, Plan, Side, seeds_of
from lalm.reproduce.steps import states
from lalm.training.sweep import T_POINTS

CONFIRMED, NOT_CONFIRMED, CANNOT_TELL, NOT_RUN = "confirmed", "not confirmed", "cannot tell", "not run"
CONSTANT = "constant"
Item = tuple[str, str]  # a task and an item's id


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks of means over items, with its 95 % interval over ``seeds`` and items."""

    mean: float
    low: float
    high: float
    num_items: int
    num_recordings: int
    seeds: tuple[float, ...]  # each seed's own mean


@dataclass(frozen=True)
class Scores:
    """Each item's score, and the recording it is about."""

    points: Mapping[Item, float]
    recordings: Mapping[Item, str]


def scores(
    folder: Path, asked: Asked, control: str, metric: str | None = None, tasks: Sequence[str] = ()
) -> Scores:
    """The scores of one evaluation: of the set's tasks, or of ``tasks``, under a control. CIDEr-D and the
    like are each item's own share, so that all metrics are means over items; items without a right answer
    are left out where the metric compares with one."""
    card = read_card(folder)
    kept = read_answers(folder, "audio" if control == CONSTANT else control)
    points, recordings = dict[Item, float](), dict[Item, str]()
    for name in tasks or asked.tasks or card["tasks"]:
        answers = [one.answer for one in kept.get(name, [])]
        leading = metric or asked.metric or next(iter(card["tasks"][name]["metrics"]))
        if METRICS[leading].compares:
            answers = [one for one in answers if one.sample.references]
        if not answers:
            continue
        own = (
            _best_constant(answers, leading, card["tasks"][name]["parser"])
            if control == CONSTANT
            else _each(answers, leading)
        )
        for answer, value in zip(answers, own, strict=True):
            item = (name, str(answer.sample.id))
            points[item], recordings[item] = float(value), answer.recording
    return Scores(points, recordings)


def _each(answers: Sequence[Answer], metric: str) -> Any:
    return each(METRICS[metric].measure(answers, Resources()))


def _best_constant(answers: Sequence[Answer], metric: str, parser: str) -> Any:
    """Every item's score under the one known answer that would score best if it were always given."""
    best: Any = None
    for text in sorted({answer.sample.references[0] for answer in answers}):
        said = [Answer(one.sample, text, PARSERS[parser](one.sample, text), raw=text) for one in answers]
        own = _each(said, metric)
        best = own if best is None or own.mean() > best.mean() else best
    return best


def estimate(runs: Sequence[Scores], minus: Sequence[Scores] = ()) -> Estimate | None:
    """The mean over tasks, or of ``runs`` minus ``minus`` item by item; runs are paired in the order of their
    seeds, as many as both have. None where they share no item."""
    pairs = list(zip(runs, minus, strict=False)) if minus else [(one, None) for one in runs]
    if not pairs:
        return None
    shared = set.intersection(*({*a.points} & {*(b or a).points} for a, b in pairs))
    items = sorted(shared)
    if not items:
        return None
    table = np.array([[a.points[i] - (b.points[i] if b else 0.0) for i in items] for a, b in pairs])
    tasks, counts = np.unique([task for task, _ in items], return_counts=True)
    share = dict(zip(tasks, 1 / (len(tasks) * counts), strict=True))
    weights = np.array([share[task] for task, _ in items])
    own = table @ weights  # (seeds,)
    recordings = [pairs[0][0].recordings[i] for i in items]
    _, which = np.unique(recordings, return_inverse=True)
    groups = int(which.max()) + 1
    means = table.mean(0)
    centre = np.array([means[[t == task for t, _ in items]].mean() for task, _ in items])
    of_groups = np.bincount(which, weights * (means - centre))
    of_items = float((of_groups**2).sum()) * groups / max(groups - 1, 1) if groups > 1 else math.inf
    of_seeds = float(own.var(ddof=1)) / len(own) if len(own) > 1 else 0.0
    half = _half_width(of_items, groups - 1, of_seeds, len(own) - 1)
    middle = float(own.mean())
    seeds = tuple(float(value) for value in own)
    low, high = middle - half, middle + half
    if all(
        {*one.points.values()} <= {0.0, 1.0} for pair in pairs for one in pair if one
    ):  # shares are bounded
        low, high = max(low, -1.0 if minus else 0.0), min(high, 1.0)
    return Estimate(middle, low, high, len(items), groups, seeds)


def _half_width(of_items: float, free_items: int, of_seeds: float, free_seeds: int) -> float:
    """Half of the 95 % interval from two variances and their degrees of freedom. Where no item differs from
    another it is the rule of three's: of n recordings without an exception, 3 / n may be ones."""
    whole = of_items + of_seeds
    if not math.isfinite(whole):
        return whole
    if whole < 1e-12:
        return 3 / (free_items + 1)
    below = of_items**2 / max(free_items, 1) + (of_seeds**2 / free_seeds if free_seeds > 0 else 0)
    degrees = int(min(whole**2 / below, 1e6)) if below else 10**6
    point = T_POINTS[max(degrees, 1) - 1] if degrees <= len(T_POINTS) else 1.960
    return point * math.sqrt(whole)


def verdict(found: Estimate | None, worth: float) -> str:
    """By the rule of ``experiment.Contrast``: below what would matter comes first, so that a difference which
    is surely there and surely too small is not confirmed."""
    if found is None:
        return NOT_RUN
    if found.high < worth or found.high <= 0:
        return NOT_CONFIRMED
    return CONFIRMED if found.low > 0 else CANNOT_TELL


def whole_verdict(verdicts: Sequence[str]) -> str:
    """Of a claim from those that decide: confirmed when all are, not when any is not."""
    if not verdicts or NOT_RUN in verdicts:
        return NOT_RUN
    if NOT_CONFIRMED in verdicts:
        return NOT_CONFIRMED
    return CONFIRMED if set(verdicts) == {CONFIRMED} else CANNOT_TELL


def findings(plan: Plan, work: Path) -> dict[str, Any]:
    """Everything measured, for JSON: cells by set, contrasts, the verdict. Only evaluations that the plan's
    own steps made count."""
    found_states = states(plan, work)
    done = {one.step.name for one in found_states if one.state == "done"}
    to_do = {one.step.name for one in found_states} - done
    plan = replace(plan, evaluations=tuple(one for one in plan.evaluations if one.step in done))
    experiment, cells = plan.experiment, list[dict[str, Any]]()
    for key, asked in experiment.sets.items():
        for cell in dict.fromkeys(one.cell for one in plan.evaluations if one.set == key):
            for control in ("audio", *(asked.controls if cell in asked.controlled else ())):
                runs = _runs(plan, work, key, Side(cell=cell, control=control))
                row = {"cell": cell, "set": key, "control": control, "paper": None}
                if control == "audio":
                    row["paper"] = experiment.cells[cell].paper.get(key)
                    row["tasks"] = _by_task(runs)
                cells.append({**row, **_plain(estimate(runs))})
    compared = [one for one in experiment.contrasts if plan.size in one.sizes]
    asked_of = {(one.cell, one.set) for one in plan.evaluations}

    def shown(side: Side, key: str) -> bool:
        """Whether it was asked, or is to be in this size."""
        return (side.cell, key) in asked_of or seeds_of(experiment.cells[side.cell], plan.size) > 0

    compared = [one for one in compared if shown(one.plus, one.set) and shown(one.minus, one.set)]
    contrasts = [_contrast(plan, work, one) for one in compared]
    deciding = [row["verdict"] for row in contrasts if row["decides"]]
    found = {"verdict": whole_verdict(deciding), "contrasts": contrasts, "cells": cells}
    return found | {"judges": _judges(plan, work), "beside": _beside(plan, work, to_do)}


def _runs(
    plan: Plan, work: Path, key: str, side: Side, metric: str | None = None, tasks: Sequence[str] = ()
) -> list[Scores]:
    asked = plan.experiment.sets[key]
    found = []
    for one in plan.evaluations:
        folder = work / one.folder
        if (one.cell, one.set) != (side.cell, key):
            continue
        own = scores(folder, asked, side.control, metric, tasks)
        if own.points:
            found.append(own)
    return found


def _contrast(plan: Plan, work: Path, one: Contrast) -> dict[str, Any]:
    sides = [_runs(plan, work, one.set, side, one.metric, one.tasks) for side in (one.plus, one.minus)]
    found = estimate(sides[0], sides[1]) if all(sides) else None
    if found and one.lower_is_better:
        turned = tuple(-value for value in found.seeds)
        found = Estimate(-found.mean, -found.high, -found.low, found.num_items, found.num_recordings, turned)
    told: dict[str, Any] = {
        "about": one.about,
        "set": one.set,
        "plus": in_words(one.plus),
        "minus": in_words(one.minus),
    }
    told |= {"metric": one.metric, "tasks": one.tasks}
    told |= {"decides": one.decides, "worth": one.worth, "paper": one.paper}
    return {**told, **_plain(found), "verdict": verdict(found, one.worth)}


def in_words(side: Side) -> str:
    """A side in words: "A2" or "A2, shuffled"."""
    return side.cell if side.control == "audio" else f"{side.cell}, {side.control}"


def _judges(plan: Plan, work: Path) -> list[dict[str, Any]]:
    """How well each judge agrees with the exact metric of its set: Cohen's kappa, right being half of the
    points and more, over the answers of all cells and seeds."""
    found = []
    for key, asked in plan.experiment.sets.items():
        mine, exact, name = dict[Item, float](), dict[Item, float](), ""
        for one in plan.evaluations:
            if asked.exact is None or one.set != key:
                continue
            folder = work / one.folder
            for task, kept in read_answers(folder).items():
                answers = [own.answer for own in kept if own.answer.judged is not None]
                answers = [answer for answer in answers if answer.sample.references]
                name = read_card(folder)["tasks"][task]["judge"]
                right = _each(answers, asked.exact) if answers else ()
                for answer, value in zip(answers, right, strict=True):
                    item = (task, f"{one.cell} {one.seed} {answer.sample.id}")
                    mine[item], exact[item] = float((answer.judged or 0) >= 0.5), float(value >= 0.5)
        if len(mine) > 1:
            same = sum(mine[item] == exact[item] for item in mine) / len(mine)
            kappa = agreement(mine, exact).kappa
            limits = kappa and [round(value, 3) for value in (kappa.mean, kappa.low, kappa.high)]
            row = {"set": key, "judge": name, "exact": asked.exact, "same": round(same, 3)}
            found.append({**row, "kappa": limits, "num_answers": len(mine)})
    return found


def _beside(plan: Plan, work: Path, to_do: set[str]) -> list[dict[str, Any]]:
    """What was measured beside the contrasts: rows of numbers, and where a picture of them lies."""
    found = []
    for name, one in plan.beside.items():
        files = [work / file for file in (one.numbers, one.picture) if file]
        if name in to_do or not all(file.is_file() for file in files):
            continue
        told: dict[str, Any] = {"name": name, "about": one.about, "table": one.table}
        if one.numbers:
            rows = json.loads((work / one.numbers).read_text(encoding="utf-8"))
            told["rows"] = [{column: row[column] for column in one.columns} for row in rows]
        if one.picture:
            told["picture"] = str(work / one.picture)
        found.append(told)
    return found


def _by_task(runs: Sequence[Scores]) -> dict[str, Any]:
    found = {}
    for task in sorted({task for one in runs for task, _ in one.points}):
        own = [Scores({i: v for i, v in one.points.items() if i[0] == task}, one.recordings) for one in runs]
        found[task] = _plain(estimate(own))
    return found


def _plain(found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {"mean": None, "low": None, "high": None, "num_items": 0, "num_recordings": 0, "seeds": []}
    rounded = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(found).items()
    }
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in rounded.items()} | {
        "seeds": [round(v, 4) for v in found.seeds]
    }
