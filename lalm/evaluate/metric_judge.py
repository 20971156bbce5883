"""The metric that leads a task rates replies, for preference pairs (``lalm build preferences``)."""

from collections.abc import Sequence
from dataclasses import replace

from lalm.data.sample import Sample
from lalm.evaluate.metrics import METRICS, Answer, Resources
from lalm.evaluate.metrics.intervals import each
from lalm.evaluate.parsers import PARSERS
from lalm.evaluate.scores import score
from lalm.evaluate.task import known_tasks
from lalm.synthesis.preferences import Judge, PreferenceError


def judge_by_metric() -> Judge:
    """The metric that leads the task a sample names (``lalm tasks``): word errors, accuracy and so on."""

    def rate(answers: Sequence[tuple[Sample, str]]) -> list[float | None]:
        ratings: list[float | None] = [None] * len(answers)
        for name in {sample.task for sample, _ in answers}:
            places = [place for place, (sample, _) in enumerate(answers) if sample.task == name]
            for place, rating in zip(places, _rated(name, [answers[p] for p in places]), strict=True):
                ratings[place] = rating
        return ratings

    def lacks(sample: Sample) -> str:
        task = known_tasks().get(sample.task)
        if task is None:
            return f"a task that `lalm tasks` lists, and its 'task' is '{sample.task}'"
        return "" if _accepted(sample) or not METRICS[task.metrics[0]].compares else "references"

    return Judge("metric", rate, lacks)


def _accepted(sample: Sample) -> tuple[str, ...]:
    return sample.references or tuple(text for text in [sample.target] if text)


def _rated(name: str, answers: Sequence[tuple[Sample, str]]) -> list[float]:
    """The leading metric of the task for each answer alone, higher is better."""
    task = known_tasks()[name]
    read = [
        Answer(replace(sample, references=_accepted(sample)), text, PARSERS[task.parser](sample, text))
        for sample, text in answers
    ]
    scored = score(task, read, Resources(), judged=False)
    metric = task.metrics[0]
    if metric not in scored.measured:
        raise PreferenceError(f"the task '{name}' cannot be judged by {metric}: {scored.skipped[metric]}")
    sign = -1.0 if METRICS[metric].lower_is_better else 1.0
    return [sign * float(value) for value in each(scored.measured[metric])]
