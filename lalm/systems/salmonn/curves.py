"""SALMONN's figures 2, 3 and 21: what tasks score along activation tuning's steps, or along LoRA's scale.

Every task that ``lalm eval`` knows is scored by its own metrics (with a judge those that need one), and where
answers are known their perplexity is measured. Each place on an axis is one measurement of all tasks.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lalm.data.mixture import open_manifest, subset
from lalm.data.sample import Sample, message_text
from lalm.errors import LalmError
from lalm.evaluate.items import put, with_reference
from lalm.evaluate.judge import Judge
from lalm.evaluate.metrics import Answer, Resources
from lalm.evaluate.metrics.instruction_following import STORY_TOKENS
from lalm.evaluate.parsers import PARSERS
from lalm.evaluate.perplexity import perplexities
from lalm.evaluate.scores import numbers, score
from lalm.evaluate.task import Task, known_tasks
from lalm.inference.engine import Engine, Options
from lalm.inference.final_answer import without_reasoning

ANSWER_TOKENS = 64  # of an answer to anything but a story
PERPLEXITY = "perplexity"


class CurveError(LalmError, ValueError):
    """A curve that cannot be measured or drawn."""


@dataclass(frozen=True)
class Measure:
    """One number of one task with its 95 % interval (None: unknown), over so many items."""

    task: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    num_items: int


@dataclass(frozen=True)
class Place:
    """All measures at one place of an axis: its name there (a step, a scale, a stage)."""

    name: str
    measures: tuple[Measure, ...]


def measure(
    engine: Engine, samples: Sequence[Sample], *, lora_scale: float | None = None, judge: Judge | None = None
) -> tuple[Measure, ...]:
    """By task: its metrics and unreadable answers if ``lalm eval`` knows it, and the perplexity of known
    answers, at a LoRA scale (None: as trained)."""
    found: list[Measure] = []
    for name in sorted({sample.task for sample in samples}):
        own = [sample for sample in samples if sample.task == name]
        if (task := known_tasks().get(name)) is not None:
            found += _scored(engine, task, own, lora_scale, judge)
        if known := [sample for sample in own if sample.target]:
            pooled = perplexities(engine, known, lora_scale)[0].pooled
            found.append(Measure(name, PERPLEXITY, pooled, None, None, len(known)))
    return tuple(found)


def _scored(
    engine: Engine, task: Task, samples: Sequence[Sample], lora_scale: float | None, judge: Judge | None
) -> list[Measure]:
    options = Options(STORY_TOKENS if task.name == "story" else ANSWER_TOKENS, lora_scale=lora_scale)
    samples = [with_reference(sample) for sample in samples]
    asked = [put(task, sample) for sample in samples]
    answers = [
        Answer(sample, without_reasoning(reply.text), PARSERS[task.parser](sample, reply.text))
        for sample, reply in zip(samples, engine.reply(asked, options), strict=True)
    ]
    judged = judge is not None and "judge" in task.metrics
    if judge is not None and judged:
        answers = judge.judged(task, answers)
    scored = numbers(score(task, answers, Resources(), judged=judged))
    rows = {**scored["metrics"], "unreadable": scored["unreadable"]}
    return [
        Measure(task.name, metric, row["mean"], row["low"], row["high"], len(samples))
        for metric, row in rows.items()
    ]


def of_each_task(manifests: Sequence[Path], count: int) -> list[Sample]:
    """At most ``count`` samples of each task of each manifest, spread evenly."""
    found: list[Sample] = []
    for path in manifests:
        samples = open_manifest(path)
        for task in sorted({sample.task for sample in samples}):
            found += subset([sample for sample in samples if sample.task == task], count)
    return found


def by_task(measures: Sequence[Measure]) -> dict[str, dict[str, float]]:
    """The means by task and metric, with how many items there were as "n"."""
    found: dict[str, dict[str, float]] = {}
    for one in measures:
        found.setdefault(one.task, {"n": float(one.num_items)})[one.metric] = one.mean
    return found


def about(samples: Sequence[Sample], **facts: object) -> dict[str, str]:
    """What makes measures comparable: the items and the given facts."""
    told = [f"{s.id} {s.task} {message_text(s.messages[-1])} {s.target} {s.references}" for s in samples]
    digest = hashlib.sha256("\0".join(told).encode()).hexdigest()[:16]
    return {"items": digest, **{name: str(value) for name, value in facts.items()}}


def write(places: Sequence[Place], file: Path, measured: Mapping[str, str]) -> None:
    """The measures as JSON, with what was ``measured``, so that a killed command goes on."""
    draft = file.with_name(file.name + ".partial")
    whole = {"about": dict(measured), "places": [asdict(place) for place in places]}
    draft.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    draft.replace(file)


def read(file: Path, measured: Mapping[str, str]) -> list[Place]:
    """What ``write`` wrote about the same; nothing where it is not there. Raises CurveError for a file of
    something else."""
    if not file.is_file():
        return []
    try:
        whole: Any = json.loads(file.read_text(encoding="utf-8"))
        other = next((k for k in measured if whole["about"].get(k) != measured[k]), None)
        rows = whole["places"]
        places = [Place(row["name"], tuple(Measure(**one) for one in row["measures"])) for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CurveError(f"'{file}' does not hold measures: {' '.join(str(error).split())}") from None
    if other is not None:
        raise CurveError(f"'{file}' was measured with other {other}: delete it, or give another --out")
    return places


def check_plots() -> None:
    """Raise CurveError unless figures can be drawn, before anything is measured."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise CurveError("figures need matplotlib: pip install 'lalm[plot]'") from None


def draw(
    places: Sequence[Place], file: Path, axis: str, *, perplexity: bool, chosen: Mapping[str, Sequence[str]]
) -> bool:
    """A panel a task and metric over the places, with intervals; or one of all tasks' perplexities.

    ``chosen``: the metrics of a task that are drawn, where not all are. False where there is nothing to draw.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [(i, one) for i, place in enumerate(places) for one in place.measures]
    rows = [(i, one) for i, one in rows if (one.metric == PERPLEXITY) == perplexity]
    rows = [(i, one) for i, one in rows if one.metric in chosen.get(one.task, (one.metric,))]
    panels = list(dict.fromkeys((one.task, one.metric) for _, one in rows))
    if not panels:
        return False
    groups = [panels] if perplexity else [[panel] for panel in panels]
    width = min(4, len(groups))
    height = -(-len(groups) // width)
    size = (6.4, 4.4) if perplexity else (3.0 * width, 2.3 * height)
    figure, grid = pyplot.subplots(height, width, figsize=size, layout="constrained", squeeze=False)
    for axes, group in zip(grid.flat, groups, strict=False):
        for number, panel in enumerate(group):
            line = [(i, one) for i, one in rows if (one.task, one.metric) == panel]
            x, means = [i for i, _ in line], [one.mean for _, one in line]
            axes.plot(x, means, "o-", color=f"C{number}", markersize=3, label=panel[0])
            low = [one.mean if one.low is None else one.low for _, one in line]
            high = [one.mean if one.high is None else one.high for _, one in line]
            if low != means and all(math.isfinite(v) for v in (*low, *high)):
                axes.fill_between(x, low, high, color=f"C{number}", alpha=0.15)
        names = [place.name for place in places]
        axes.set_xticks(range(len(places)), names, fontsize="x-small")
        if any(len(name) > 3 for name in names):  # a stage among the steps
            axes.tick_params("x", labelrotation=60)
        axes.set_title("perplexity of known answers" if perplexity else "\n".join(group[0]), fontsize="small")
    for axes in list(grid.flat)[len(groups) :]:
        axes.axis("off")
    if perplexity:
        grid.flat[0].set_yscale("log")
        grid.flat[0].legend(fontsize="small")
    figure.supxlabel(axis, fontsize="small")
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return True


def drawn_metrics(leading: int = 2) -> dict[str, tuple[str, ...]]:
    """The metrics that figures show: a task's first ones, as the paper's figures show a score and a rate."""
    return {
        name: (*task.metrics[:leading], *(m for m in task.metrics if "following" in m), PERPLEXITY)
        for name, task in known_tasks().items()
    }
