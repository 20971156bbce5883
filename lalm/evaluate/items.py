"""A task's items: opened from its corpus or any manifest, drawn, and put into the words they are asked in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from lalm.data.readers import Reading, read_manifest
from lalm.data.sample import Message, Sample, message_text
from lalm.evaluate.answer_settings import Decoding
from lalm.evaluate.task import AbsentData, Task, TaskError, known_tasks, read_tasks, settings_of
from lalm.evaluate.task_data import LAYOUTS, found_below, is_manifest
from lalm.inference import protocols
from lalm.inference.options import Options
from lalm.inference.protocols import Protocol, ProtocolError
from lalm.tasks import Source

ANY = "manifest"  # the task that is as many tasks as its samples name


@dataclass(frozen=True)
class Asked:
    """A task's items as read, not yet asked; ``missing`` recordings were not there, ``source`` is read,
    ``undrawn`` items are not asked because fewer were wanted."""

    task: Task
    samples: tuple[Sample, ...]
    source: str
    missing: int = 0
    undrawn: int = 0


def under(asked: Asked, protocol: Protocol) -> Asked:
    """The items as a protocol asks them, where it knows their kind; else with its settings alone."""
    kinds = {asked.task.kind or sample.task for sample in asked.samples}
    languages = {sample.origin.get("language", "") for sample in asked.samples}
    kind = kinds.pop() if len(kinds) == 1 else ""
    known = settings_of(protocol, kind, languages.pop() if len(languages) == 1 else "")
    name = f"{protocol.name}/{kind}" if protocol.wording(kind) else protocol.name
    return replace(asked, task=asked.task.model_copy(update={**known, "protocol": name}))


def with_settings(asked: Asked, settings: Mapping[str, Any], judge_form: str | None = None) -> Asked:
    """The items asked with other keys of ``Task`` (beams, a system text); ``judge_form`` "explained" or
    "points" is that of judges who compare with a reference. Raises ValueError for settings that cannot be."""
    Options(**{name: value for name, value in settings.items() if name in Decoding._fields})
    update = dict(settings)
    if judge_form is not None and asked.task.judge in ("quality", "quality_explained"):
        update["judge"] = "quality" if judge_form == "points" else "quality_explained"
    return replace(asked, task=asked.task.model_copy(update=update))


def open_task(
    spec: str,
    data: Path,
    *,
    limit: int = 0,
    seed: int = 0,
    audio: Path | None = None,
    reading: Reading | None = None,
) -> list[Asked]:
    """The items of "NAME", "NAME=PATH", "FILE.yaml=PATH", or "manifest=SOURCE" (one entry a task in it).

    PATH is the task's corpus, or any SOURCE of ``lalm.data.readers``, as ``reading`` says. ``audio`` is
    where a corpus keeps its audio if not where its archives unpack it.
    At most ``limit`` items a task (0: all), drawn with ``seed``. Items whose audio is not there are left
    out and counted. Raises TaskError for an unknown task or one without any item.
    """
    name, _, given = spec.partition("=")
    if name.endswith((".yaml", ".yml")):
        own = read_tasks(Path(name))
        if len(own) != 1:
            raise TaskError(f"'{name}' holds {len(own)} tasks; --task takes a file of one")
        (task,) = own.values()
    elif name == ANY:
        if not given:
            raise TaskError("the task 'manifest' needs its file: --task manifest=FILE.jsonl")
        return [_drawn(asked, limit, seed) for asked in _by_task(given, reading)]
    else:
        tasks = known_tasks()
        if name not in tasks:
            near = get_close_matches(name, [ANY, *tasks], 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise TaskError(f"there is no task '{name}'{meant}; `lalm tasks` lists those there are")
        task = tasks[name]
    if not given and not task.path:
        raise TaskError(f"the task '{task.name}' needs its file: --task {name}=FILE.jsonl")
    reading = reading or Reading(audio=audio)
    path = Path(given) if given else found_below(data, task.path)
    if given.startswith("hf://") or (given and reading.columns):
        return [_drawn(_there(task, list(read_manifest(given, reading)), given), limit, seed)]
    if not path.exists():
        hint = "" if given else f" (say --data FOLDER, or --task {name}=PATH)"
        raise AbsentData(f"{task.name}: there is no '{path}'{hint}")
    reader = LAYOUTS["manifest" if is_manifest(path, task.layout) else task.layout]
    source = Source(path, audio, reading=reading, columns=task.columns)
    return [_drawn(_there(task, list(reader(source)), str(path)), limit, seed)]


def _by_task(source: str, reading: Reading | None) -> list[Asked]:
    """A SOURCE's samples by their task; a task without a name of ours is scored by what samples hold."""
    path = Path(source)
    if not source.startswith("hf://") and "*" not in source and not path.exists():
        raise TaskError(f"there is no manifest '{path}'")
    groups: dict[str, list[Sample]] = {}
    for sample in read_manifest(source, reading):
        groups.setdefault(sample.task, []).append(with_reference(sample))
    if not groups:
        raise TaskError(f"{path.name} holds no samples")
    tasks = known_tasks()
    return [
        _there(tasks.get(name) or _guessed(name, samples, path), samples, str(path))
        for name, samples in sorted(groups.items())
    ]


def _guessed(name: str, samples: Sequence[Sample], path: Path) -> Task:
    """A task for samples that have references and maybe choices, and no known task."""
    without = next((s for s in samples if not s.references), None)
    if without is not None:
        raise TaskError(
            f"{path.name}: sample '{without.id}' has no references to score by: give it an "
            "answer or 'references'"
        )
    about = f"{name or 'items'} of {path.name}"
    if all(sample.choices for sample in samples):
        return Task(name=name or ANY, about=about, parser="choice", metrics=("accuracy",))
    if all({r.lower() for r in s.references} <= {"yes", "no"} for s in samples):
        return Task(name=name or ANY, about=about, parser="yes_no", metrics=("accuracy",))
    return Task(name=name or ANY, about=about, metrics=("rouge_l", "cider_d", "content_f1", "names"))


def _there(task: Task, samples: Sequence[Sample], source: str) -> Asked:
    """The samples whose audio is there, with ids, and the task's choices where they bring none."""
    found: dict[str, Sample] = {}
    absent = ""
    missing = 0
    for number, sample in enumerate(samples, 1):
        if task.split and sample.split != task.split:
            continue
        gone = [(kind, p) for kind, p in _files(sample) if not p.is_file()]
        if gone:
            absent, missing = absent or f"the {gone[0][0]} '{gone[0][1]}'", missing + 1
            continue
        name = sample.id or f"{task.name}-{number}"
        if name in found:
            raise TaskError(f"{task.name}: two items of '{source}' have the id '{name}'")
        origin = dict(sample.origin)
        if origin.get(task.cluster):
            origin["recording"] = origin[task.cluster]
        if task.language:
            origin.setdefault("language", task.language)
        if task.target_language:
            origin.setdefault("target_language", task.target_language)
        sample = with_reference(sample)
        found[name] = replace(sample, id=name, choices=sample.choices or task.choices, origin=origin)
    if not found:
        example = f": {absent} is missing, for one" if absent else ""
        raise AbsentData(f"{task.name}: '{source}' gives no item whose recordings are there{example}")
    return Asked(task, tuple(found.values()), source, missing)


def with_reference(sample: Sample) -> Sample:
    """A sample that has an answer and no references: its answer is the reference."""
    return sample if sample.references or not sample.target else replace(sample, references=(sample.target,))


def _files(sample: Sample) -> list[tuple[str, Path]]:
    parts: list[Any] = [p for m in sample.messages if not isinstance(m["content"], str) for p in m["content"]]
    own = [(part["type"], part[part["type"]]) for part in parts if part["type"] != "text"]
    return [(k, Path(p)) for k, p in own if isinstance(p, Path) or (isinstance(p, str) and ":" not in p[:12])]


def _drawn(asked: Asked, limit: int, seed: int) -> Asked:
    if not limit or limit >= len(asked.samples):
        return asked
    order = np.random.default_rng(seed).permutation(len(asked.samples))
    kept = tuple(asked.samples[i] for i in sorted(order[:limit]))
    return replace(asked, samples=kept, undrawn=len(asked.samples) - limit)


def brings_instruction(task: Task, sample: Sample) -> bool:
    """Whether the sample is asked with its own words: it has some, and the prompt has no place for them."""
    own = bool(question_of(sample)) and "{question}" not in task.prompts[0] if task.prompts else True
    return own and not (task.reworded and task.prompts)


def question_of(sample: Sample) -> str:
    """The text of the last user turn."""
    return message_text(_last_user(sample)).strip()


def put(task: Task, sample: Sample, wording: int = 0) -> Sample:
    """The sample as it is asked: its answer taken away, the task's prompt after its audio."""
    bare = sample.prompt()
    own = brings_instruction(task, bare)
    prompt = "" if own else task.prompts[wording % len(task.prompts)]
    try:
        return protocols.put(bare, prompt, task.system, task.question_from, instead=task.reworded)
    except ProtocolError as error:
        raise TaskError(f"{task.name}: {error}") from None


def _last_user(sample: Sample) -> Message:
    turn = next((m for m in reversed(sample.messages) if m["role"] == "user"), None)
    if turn is None:
        raise TaskError(f"sample '{sample.id}' has no user turn")
    return turn
