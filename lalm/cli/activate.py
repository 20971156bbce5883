"""``lalm activate``: stories with LoRA turned down, a dozen training steps, and what that changed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lalm.cli.ask import silence_transformers
from lalm.data.mixture import open_manifest, subset
from lalm.data.sample import Sample, write_manifest
from lalm.evaluate.metrics import Answer, Resources, unreadable
from lalm.evaluate.metrics.instruction_following import STORY_TOKENS
from lalm.evaluate.parsers import PARSERS
from lalm.evaluate.perplexity import perplexities
from lalm.evaluate.scores import score
from lalm.evaluate.task import Task, known_tasks
from lalm.inference.engine import Engine, Options, Reply
from lalm.systems.salmonn.activation import (
    NUM_STORIES,
    learn,
    longest,
    without_audio,
    write_stories,
)

ANSWER_TOKENS = 64  # of an answer to anything but a story

Way = Literal["story", "given", "text", "lora"]


@dataclass(frozen=True)
class Job:
    """What is activated, with what, and what is measured before and after."""

    model: Path
    clips: Path
    out: Path
    lora_scale: float | None = None
    way: Way = "story"
    measure: tuple[Path, ...] = ()
    per_task: int = 50
    count: int = NUM_STORIES
    learning_rate: float = 3e-5
    temperature: float = 0.7
    seed: int = 0
    device: str | None = None


def run(job: Job) -> None:
    """Write ``out``/stories.jsonl, train into ``out``, and print and write what was measured."""
    if job.out.resolve() == job.model.resolve():
        raise ValueError(f"'{job.out}' is the model itself: give --out another folder")
    if not 0 < job.learning_rate < float("inf"):
        raise ValueError(f"the learning rate must be above 0, not {job.learning_rate:g}")
    Options(temperature=job.temperature, seed=job.seed, lora_scale=job.lora_scale)  # refuses what cannot be
    clips = open_manifest(job.clips)
    asked = [sample for path in job.measure for sample in _of_each_task(path, job.per_task)]
    silence_transformers()
    engine = Engine.load(str(job.model), job.device)
    if not engine.model.config.lora:
        raise ValueError(f"'{job.model}' has no LoRA, so there is nothing to activate")
    stories, facts = _stories(job, engine, clips)
    before = measure(engine, asked)
    del engine
    manifest = job.out / "stories.jsonl"
    write_manifest(manifest, stories)
    learn(
        job.model,
        manifest,
        job.out,
        steps=job.count,
        learning_rate=job.learning_rate,
        connector=job.way not in ("text", "lora"),
        seed=job.seed,
    )
    after = measure(Engine.load(str(job.out), job.device), asked)
    report = {"job": asdict(job), **facts, "before": before, "after": after}
    (job.out / "activation.json").write_text(json.dumps(report, indent=1, default=str) + "\n", "utf-8")
    _show(before, after)
    print(f"The activated model is in {job.out}.")


def _stories(job: Job, engine: Engine, clips: Sequence[Sample]) -> tuple[list[Sample], dict[str, Any]]:
    """What is trained on, and how it was come by."""
    if job.way == "given":
        return list(longest(clips, job.count)), {}
    lora = engine.model.config.lora
    scale = lora["alpha"] / lora["rank"] / 2 if job.lora_scale is None else job.lora_scale

    def progress(kept: int, written: int) -> None:
        print(f"stories at LoRA scale {scale:g}: {written} written, {kept} kept", flush=True)

    made = write_stories(
        engine,
        clips,
        lora_scale=scale,
        count=job.count,
        temperature=job.temperature,
        seed=job.seed,
        progress=progress,
    )
    kept = list(without_audio(made.kept)) if job.way == "text" else list(made.kept)
    return kept, {"lora_scale": scale, "stories_written": made.written}


def measure(engine: Engine, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """By task: its metrics if `lalm eval` knows it, and the perplexity of known answers."""
    found: dict[str, dict[str, float]] = {}
    for name in sorted({sample.task for sample in samples}):
        own = [sample for sample in samples if sample.task == name]
        found[name] = {"n": float(len(own))}
        if (task := known_tasks().get(name)) is not None:
            limit = STORY_TOKENS if name == "story" else ANSWER_TOKENS
            found[name] |= _scored(task, own, engine.reply(own, Options(limit)))
        known = [sample for sample in own if sample.target]
        if known:
            found[name]["perplexity"] = perplexities(engine, known)[0].pooled
    return found


def _scored(task: Task, samples: Sequence[Sample], replies: Sequence[Reply]) -> dict[str, float]:
    answers = [
        Answer(sample, reply.text, PARSERS[task.parser](sample, reply.text))
        for sample, reply in zip(samples, replies, strict=True)
    ]
    scored = score(task, answers, Resources(), judged=False)
    values = {name: measured.value for name, measured in scored.measured.items()}
    return {**values, "unreadable": unreadable(answers).value}


def _of_each_task(path: Path, count: int) -> list[Sample]:
    samples = open_manifest(path)
    tasks = sorted({sample.task for sample in samples})
    return [s for task in tasks for s in subset([o for o in samples if o.task == task], count)]


def _show(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> None:
    print(f"{'task':<16}{'measure':<18}{'before':>10}{'after':>10}")
    for task, own in before.items():
        for name, value in own.items():
            if name != "n":
                print(f"{task:<16}{name:<18}{value:>10.4g}{after[task][name]:>10.4g}")
