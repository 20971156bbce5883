"""What a finished run found: each cell's scores, the contrasts with their verdicts, judges, what is beside"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lalm.evaluate.agreement import agreement
from lalm.evaluate.metrics import METRICS, Answer, Resources
from lalm.evaluate.metrics.intervals import SHARE, UNBOUNDED, Measured, each
from lalm.evaluate.parsers import PARSERS
from lalm.evaluate.run import read_answers, read_card
from lalm.reproduce.estimates import Estimate, Item, Scores, estimate, verdict, whole_verdict
from lalm.reproduce.experiment import Asked, Contrast, Side, of_size, seeds_of, two_trainings
from lalm.reproduce.planning import Plan
from lalm.reproduce.steps import states

CONSTANT = "constant"


def scores(
    folder: Path, asked: Asked, control: str, metric: str | None = None, tasks: Sequence[str] = ()
) -> Scores:
    """The scores of one evaluation: of the set's tasks, or of ``tasks``, under a control. CIDEr-D and the
    like are each item's own share, so that all metrics are means over items; items without a right answer
    are left out where the metric compares with one."""
    card = read_card(folder)
    kept = read_answers(folder, "audio" if control == CONSTANT else control)
    points, recordings, limits = dict[Item, float](), dict[Item, str](), list[tuple[float, float]]()
    for name in tasks or asked.tasks or card["tasks"]:
        answers = [one.answer for one in kept.get(name, [])]
        leading = metric or asked.metric or next(iter(card["tasks"][name]["metrics"]))
        if METRICS[leading].compares:
            answers = [one for one in answers if one.sample.references]
        if not answers:
            continue
        measured = METRICS[leading].measure(answers, Resources())
        own = (
            _best_constant(answers, leading, card["tasks"][name]["parser"])
            if control == CONSTANT
            else each(measured)
        )
        for answer, value in zip(answers, own, strict=True):
            item = (name, str(answer.sample.id))
            points[item], recordings[item] = float(value), answer.recording
        limits.append(_bounds(measured, METRICS[leading].bounds))
    bounds = (min(low for low, _ in limits), max(high for _, high in limits)) if limits else UNBOUNDED
    return Scores(points, recordings, bounds)


def _bounds(measured: Measured, known: tuple[float, float]) -> tuple[float, float]:
    """What a score can be at least and at most."""
    if measured.proportion:
        return SHARE
    return max(measured.bounds[0], known[0]), min(measured.bounds[1], known[1])


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
                runs = [*_runs(plan, work, key, Side(cell=cell, control=control)).values()]
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
) -> dict[int, Scores]:
    """The scores of a side by seed, of those that have any."""
    asked = plan.experiment.sets[key]
    found = dict[int, Scores]()
    for one in plan.evaluations:
        folder = work / one.folder
        if (one.cell, one.set) != (side.cell, key):
            continue
        own = scores(folder, asked, side.control, metric, tasks)
        if own.points:
            found[one.seed] = own
    return found


def _contrast(plan: Plan, work: Path, one: Contrast) -> dict[str, Any]:
    plus, minus = (_runs(plan, work, one.set, side, one.metric, one.tasks) for side in (one.plus, one.minus))
    both = sorted({*plus} & {*minus})  # seeds that both have
    found = estimate([plus[seed] for seed in both], [minus[seed] for seed in both])
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
    apart = two_trainings(plan.experiment, plan.size, one.plus.cell, one.minus.cell)
    return {**told, **_plain(found), "verdict": verdict(found, one.worth, two_trainings=apart)}


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
        picture = of_size(one.picture, plan.size) or ""
        files = [work / file for file in (one.numbers, picture) if file]
        if name in to_do or not all(file.is_file() for file in files):
            continue
        told: dict[str, Any] = {"name": name, "about": one.about, "table": one.table, "paper": one.paper}
        if one.numbers:
            rows = json.loads((work / one.numbers).read_text(encoding="utf-8"))
            told["rows"] = [{column: row[column] for column in one.columns} for row in rows]
        if picture:
            told["picture"] = str(work / picture)
        found.append(told)
    return found


def _by_task(runs: Sequence[Scores]) -> dict[str, Any]:
    found = {}
    for task in sorted({task for one in runs for task, _ in one.points}):
        own = [replace(one, points={i: v for i, v in one.points.items() if i[0] == task}) for one in runs]
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
