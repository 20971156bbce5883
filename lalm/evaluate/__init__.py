"""Ask a model a manifest of questions and score the answers, with intervals and controls.

A control asks the same questions with the audio spoiled: ``silent`` (as long, all zeros), ``shuffled``
(another item's audio), or with the true caption in the audio's place (``caption``: what the same LLM would
answer if it heard perfectly).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lalm.audio import SAMPLE_RATE, load_audio
from lalm.evaluate.intervals import Interval, bootstrap
from lalm.evaluate.scoring import SCORERS
from lalm.sample import Sample, read_manifest

Control = Literal["audio", "silent", "shuffled", "caption"]
Answerer = Callable[[Sequence[Sample]], list[str]]


@dataclass(frozen=True)
class Item:
    """One question with its answer. ``score`` is None when the answer could not be read."""

    sample: Sample
    answer: str
    score: float | None

    @property
    def recording(self) -> str:
        return self.sample.origin.get("recording", self.sample.id)


@dataclass(frozen=True)
class Report:
    """Every item of one run, and the numbers by task."""

    items: tuple[Item, ...]

    def tasks(self) -> list[str]:
        return sorted({item.sample.task for item in self.items})

    def of(self, task: str) -> list[Item]:
        return [item for item in self.items if item.sample.task == task]

    def accuracy(self, task: str) -> Interval:
        """Share of right answers; one that could not be read is wrong."""
        items = self.of(task)
        return bootstrap([item.score or 0.0 for item in items], [item.recording for item in items])

    def unreadable(self, task: str) -> float:
        items = self.of(task)
        return sum(item.score is None for item in items) / len(items)

    def gain_over(self, other: "Report", task: str) -> Interval:
        """This run's accuracy minus another's on the same questions, paired by item."""
        mine, theirs = self.of(task), other.of(task)
        if [item.sample.id for item in mine] != [item.sample.id for item in theirs]:
            raise ValueError(f"{task}: the two runs did not answer the same questions")
        differences = [(a.score or 0.0) - (b.score or 0.0) for a, b in zip(mine, theirs, strict=True)]
        return bootstrap(differences, [item.recording for item in mine])


def questions(path: Path, *, tasks: Sequence[str] = (), per_task: int = 0, seed: int = 0) -> list[Sample]:
    """Questions of a manifest, at most ``per_task`` of each task (0: all), drawn with ``seed``."""
    by_task: dict[str, list[Sample]] = {}
    for sample in read_manifest(path):
        if sample.task not in SCORERS:
            raise ValueError(f"{path}: sample '{sample.id}' has task '{sample.task}', which has no scorer")
        if not tasks or sample.task in tasks:
            by_task.setdefault(sample.task, []).append(sample)
    chosen = []
    for task in sorted(by_task):
        order = np.random.default_rng(seed).permutation(len(by_task[task]))
        chosen += [by_task[task][i] for i in sorted(order[: per_task or None])]
    return chosen


def spoil(samples: Sequence[Sample], control: Control, *, seed: int = 0) -> list[Sample]:
    """The same questions under a control."""
    if control == "audio":
        return list(samples)
    if control == "shuffled":
        donors = _donors(samples, seed)
        return [_with_audio(s, donors[i].audios[0]["audio"]) for i, s in enumerate(samples)]
    if control == "silent":
        return [_with_audio(s, np.zeros_like(load_audio(s.audios[0]["audio"]))) for s in samples]
    return [_with_caption(s) for s in samples]


def run(samples: Sequence[Sample], answer: Answerer) -> Report:
    """Ask and score. ``answer`` maps samples to texts in the same order."""
    answers = answer(samples)
    return Report(
        tuple(
            Item(sample, text, SCORERS[sample.task](sample, text))
            for sample, text in zip(samples, answers, strict=True)
        )
    )


def _donors(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """For each item another item of its task about a different recording."""
    generator = np.random.default_rng(seed)
    donors = []
    for sample in samples:
        mine = sample.origin.get("recording", sample.id)
        pool = [s for s in samples if s.task == sample.task and s.origin.get("recording", s.id) != mine]
        if not pool:
            raise ValueError(f"task '{sample.task}' has one recording only: nothing to shuffle with")
        donors.append(pool[generator.integers(len(pool))])
    return donors


def _with_audio(sample: Sample, audio: object) -> Sample:
    """Another clip in the place of the sample's own."""
    part = {"type": "audio", "audio": audio}
    return _replaced(sample, part | {"rate": SAMPLE_RATE} if isinstance(audio, np.ndarray) else part)


def _with_caption(sample: Sample) -> Sample:
    """The true caption as text where the audio was; the processor treats it as it treats audio."""
    return _replaced(sample, {"type": "caption", "text": sample.origin["caption"]})


def _replaced(sample: Sample, other: dict[str, Any]) -> Sample:
    """The sample with every audio part exchanged for ``other``."""
    messages: list[Any] = []
    for message in sample.messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [other if part["type"] == "audio" else part for part in content]  # type: ignore[misc]
        messages.append({**message, "content": content})
    return replace(sample, messages=tuple(messages))
