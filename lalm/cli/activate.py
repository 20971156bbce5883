"""``lalm activate``: stories with LoRA turned down, a dozen training steps, and what that changed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from lalm.cli.options import Device, Seed, Temperature

if TYPE_CHECKING:
    from lalm.data.sample import Sample
    from lalm.evaluate.task import Task
    from lalm.inference.engine import Engine, Reply

ANSWER_TOKENS = 64  # of an answer to anything but a story

Way = Literal["story", "given", "text", "lora"]


class Job(NamedTuple):
    """What is activated, with what, and what is measured before and after."""

    model: Path
    clips: Path
    out: Path
    lora_scale: float | None
    way: Way
    measure: tuple[Path, ...]
    per_task: int
    steps: int
    learning_rate: float
    temperature: float
    seed: int
    device: str | None


def activate(
    model: Annotated[Path, typer.Argument(help="Model folder with LoRA.", show_default=False)],
    clips: Annotated[Path, typer.Option(help="Manifest of clips to write about.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the activated model.", show_default=False)],
    lora_scale: Annotated[
        float | None, typer.Option(min=0.0, help="While writing (default: half of the trained one).")
    ] = None,
    way: Annotated[
        Way,
        typer.Option(
            help="What is learned: stories, the longest answers given in the clips' manifest, stories with "
            "the caption for the audio (LoRA only), stories by LoRA only."
        ),
    ] = "story",
    measure: Annotated[
        list[Path] | None, typer.Option(help="Manifest to compare before and after; may be repeated.")
    ] = None,
    per_task: Annotated[int, typer.Option(min=1, help="Samples of each task measured.")] = 50,
    steps: Annotated[int, typer.Option(min=1, help="Training steps, one story each.")] = 12,
    learning_rate: Annotated[float, typer.Option(help="Of the steps (the paper does not say).")] = 3e-5,
    temperature: Temperature = 0.7,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Make a model follow instructions again, by its own stories.

    The model writes stories with LoRA turned down, and then learns them.
    """
    from lalm.cli.opening import open_engine
    from lalm.data.mixture import open_manifest
    from lalm.data.sample import write_manifest
    from lalm.inference.engine import Options
    from lalm.systems.salmonn.activation import learn

    measured = tuple(measure or ())
    job = Job(
        *(model, clips, out, lora_scale, way, measured, per_task, steps),
        *(learning_rate, temperature, seed, device),
    )
    if out.resolve() == model.resolve():
        raise ValueError(f"'{out}' is the model itself: give --out another folder")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"the learning rate must be above 0, not {learning_rate:g}")
    Options(temperature=temperature, seed=seed, lora_scale=lora_scale)  # refuses what cannot be
    recordings = open_manifest(clips)
    asked = [sample for path in measured for sample in _of_each_task(path, per_task)]
    _begin(job)
    engine = open_engine(str(model), device)
    if not engine.model.config.lora:
        raise ValueError(f"'{model}' has no LoRA, so there is nothing to activate")
    stories, facts = _stories(job, engine, recordings)
    before = _measure(engine, asked)
    del engine
    manifest = out / "stories.jsonl"
    write_manifest(manifest, stories)
    learn(
        model,
        manifest,
        out,
        steps=steps,
        learning_rate=learning_rate,
        connector=way not in ("text", "lora"),
        seed=seed,
    )
    after = _measure(open_engine(str(out), device), asked)
    report = {"job": job._asdict(), **facts, "before": before, "after": after}
    (out / "activation.json").write_text(json.dumps(report, indent=1, default=str) + "\n", "utf-8")
    _show(before, after)
    print(f"The activated model is in {out}.")


def _begin(job: Job) -> None:
    """Note in ``out`` what is activated how. Refuses a folder of anything else, before anything is written;
    the same job goes on where it stopped."""
    import hashlib

    note = job.out / "activation_job.json"
    own = {key: value for key, value in job._asdict().items() if key not in ("measure", "per_task", "device")}
    own["clips_sha256"] = hashlib.sha256(job.clips.read_bytes()).hexdigest()
    own["model"], own["out"] = job.model.resolve(), job.out.resolve()
    settings = json.loads(json.dumps(own, default=str))
    if job.out.exists() and any(job.out.iterdir()):
        try:
            same = json.loads(note.read_text()) == settings
        except (OSError, ValueError):
            same = False
        if not same:
            raise ValueError(
                f"'{job.out}' is not empty and not from this very command: give --out a new folder"
            )
        if (job.out / "activation.json").is_file():
            raise ValueError(f"'{job.out}' holds the finished model of this very command")
    job.out.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(settings, indent=1) + "\n", "utf-8")


def _stories(job: Job, engine: "Engine", clips: "Sequence[Sample]") -> "tuple[list[Sample], dict[str, Any]]":
    """What is trained on, and where it comes from."""
    from lalm.systems.salmonn.activation import longest, without_audio, write_stories

    if job.way == "given":
        return list(longest(clips, job.steps)), {}
    lora = engine.model.config.lora
    scale = lora["alpha"] / lora["rank"] / 2 if job.lora_scale is None else job.lora_scale

    def progress(kept: int, written: int) -> None:
        print(f"stories at LoRA scale {scale:g}: {written} written, {kept} kept", flush=True)

    made = write_stories(
        engine,
        clips,
        lora_scale=scale,
        count=job.steps,
        temperature=job.temperature,
        seed=job.seed,
        progress=progress,
        draft=job.out / "stories.draft.jsonl",
    )
    kept = list(without_audio(made.kept)) if job.way == "text" else list(made.kept)
    return kept, {"lora_scale": scale, "stories_written": made.written}


def _measure(engine: "Engine", samples: "Sequence[Sample]") -> dict[str, dict[str, float]]:
    """By task: its metrics if `lalm eval` knows it, and the perplexity of known answers."""
    from lalm.evaluate.metrics.instruction_following import STORY_TOKENS
    from lalm.evaluate.perplexity import perplexities
    from lalm.evaluate.task import known_tasks
    from lalm.inference.engine import Options

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


def _scored(task: "Task", samples: "Sequence[Sample]", replies: "Sequence[Reply]") -> dict[str, float]:
    from lalm.evaluate.metrics import Answer, Resources, unreadable
    from lalm.evaluate.parsers import PARSERS
    from lalm.evaluate.scores import score

    answers = [
        Answer(sample, reply.text, PARSERS[task.parser](sample, reply.text))
        for sample, reply in zip(samples, replies, strict=True)
    ]
    scored = score(task, answers, Resources(), judged=False)
    values = {name: measured.value for name, measured in scored.measured.items()}
    return {**values, "unreadable": unreadable(answers).value}


def _of_each_task(path: Path, count: int) -> "list[Sample]":
    from lalm.data.mixture import open_manifest, subset

    samples = open_manifest(path)
    tasks = sorted({sample.task for sample in samples})
    return [s for task in tasks for s in subset([o for o in samples if o.task == task], count)]


def _show(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> None:
    print(f"{'task':<16}{'measure':<18}{'before':>10}{'after':>10}")
    for task, own in before.items():
        for name, value in own.items():
            if name != "n":
                print(f"{task:<16}{name:<18}{value:>10.4g}{after[task][name]:>10.4g}")
