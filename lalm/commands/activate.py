"""``lalm activate``: stories with LoRA turned down, a dozen training steps, and what that changed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from lalm.data import open_manifest, subset
from lalm.engine import Engine, Options
from lalm.evaluate.following import STORY_TOKENS, diversity, repeat_rate, story_following
from lalm.evaluate.perplexity import perplexities
from lalm.evaluate.scoring import SCORERS
from lalm.sample import Sample, write_manifest
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
    asked = [sample for path in job.measure for sample in _of_each_task(path, job.per_task)]
    engine = Engine.load(str(job.model), job.device)
    if not engine.model.config.lora:
        raise ValueError(f"'{job.model}' has no LoRA, so there is nothing to activate")
    clips = open_manifest(job.clips)
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
    made = write_stories(
        engine, clips, lora_scale=scale, count=job.count, temperature=job.temperature, seed=job.seed
    )
    print(f"{made.written} stories written at LoRA scale {scale:g}, {len(made.kept)} kept.", flush=True)
    kept = list(without_audio(made.kept)) if job.way == "text" else list(made.kept)
    return kept, {"lora_scale": scale, "stories_written": made.written}


def measure(engine: Engine, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """By task: its score if it has one, how far stories are stories, and the perplexity of known answers."""
    found: dict[str, dict[str, float]] = {}
    for task in sorted({sample.task for sample in samples}):
        own = [sample for sample in samples if sample.task == task]
        found[task] = {"n": float(len(own))}
        if task in SCORERS or task == "story":
            limit = STORY_TOKENS if task == "story" else ANSWER_TOKENS
            answers = [reply.text for reply in engine.reply(own, Options(limit))]
            found[task] |= _stories_told(answers) if task == "story" else _scored(own, answers)
        known = [sample for sample in own if sample.target]
        if known:
            found[task]["perplexity"] = perplexities(engine, known)[0].pooled
    return found


def _stories_told(answers: Sequence[str]) -> dict[str, float]:
    """Appendix C's following rate and diversity, and table 5's repeat rate."""
    measures = {"followed": story_following, "different_words": diversity, "repeating": repeat_rate}
    return {name: measure(answers).value for name, measure in measures.items()}


def _scored(samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, float]:
    scores = [SCORERS[s.task](s, answer) for s, answer in zip(samples, answers, strict=True)]
    return {
        "score": mean(score or 0.0 for score in scores),
        "unreadable": mean(float(score is None) for score in scores),
    }


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
