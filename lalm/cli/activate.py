"""``lalm activate``: stories with LoRA turned down, a dozen training steps, and what that changed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from lalm.cli.options import Device, Seed, Temperature

if TYPE_CHECKING:
    from lalm.data.sample import Sample
    from lalm.evaluate.judge import Judge
    from lalm.inference.engine import Engine

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
    each_step: bool
    earlier: tuple[Path, ...]
    judge: str | None
    judge_url: str | None


# What may differ when a command goes on: what is measured, and how.
FREE = ("measure", "per_task", "device", "each_step", "earlier", "judge", "judge_url")


def activate(
    model: Annotated[Path, typer.Argument(help="Model folder with LoRA.", show_default=False)],
    clips: Annotated[Path, typer.Option(help="Manifest of clips to write about.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the activated model.", show_default=False)],
    lora_scale: Annotated[
        float | None,
        typer.Option(min=0.0, help="LoRA scale while it writes (default: half of the trained one)."),
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
    learning_rate: Annotated[
        float, typer.Option(help="Learning rate of the steps (the paper gives none).")
    ] = 3e-5,
    temperature: Temperature = 0.7,
    each_step: Annotated[
        bool, typer.Option("--each-step", help="Measure after every step, and draw what changes (2 figures).")
    ] = False,
    earlier: Annotated[
        list[Path] | None,
        typer.Option(help="Model of an earlier stage, to be drawn before step 0; may be repeated."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="LLM that judges what is measured, as in lalm eval.")
    ] = None,
    judge_url: Annotated[str | None, typer.Option(help="The judge's endpoint.")] = None,
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
    from lalm.systems.salmonn import curves
    from lalm.systems.salmonn.activation import learn

    measured = tuple(measure or ())
    job = Job(
        *(model, clips, out, lora_scale, way, measured, per_task, steps),
        *(learning_rate, temperature, seed, device),
        *(each_step, tuple(earlier or ()), judge, judge_url),
    )
    if (each_step or earlier) and not measured:
        raise ValueError("--each-step and --earlier need --measure, what is to be measured")
    if earlier and not each_step:
        raise ValueError("--earlier needs --each-step, whose figures show it")
    if each_step:
        curves.check_plots()
    if out.resolve() == model.resolve():
        raise ValueError(f"'{out}' is the model itself: give --out another folder")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"the learning rate must be above 0, not {learning_rate:g}")
    Options(temperature=temperature, seed=seed, lora_scale=lora_scale)  # refuses what cannot be
    recordings = open_manifest(clips)
    asked = curves.of_each_task(measured, per_task)
    if _begin(job):
        print(f"The activated model is in {out}: this very command finished before.")
        return
    engine = open_engine(str(model), device)
    if not engine.model.config.lora:
        raise ValueError(f"'{model}' has no LoRA, so there is nothing to activate")
    stories, facts = _stories(job, engine, recordings)
    manifest = out / "stories.jsonl"
    write_manifest(manifest, stories)

    def train(count: int, save_every: int) -> None:
        learn(
            model,
            manifest,
            out,
            steps=count,
            learning_rate=learning_rate,
            connector=way not in ("text", "lora"),
            seed=seed,
            save_every=save_every,
        )

    judging = _judge(job)
    if each_step:
        del engine
        before, after = _along(job, train, asked, judging)
    else:
        before = curves.by_task(curves.measure(engine, asked, judge=judging))
        del engine
        train(steps, steps)
        after = curves.by_task(curves.measure(open_engine(str(out), device), asked, judge=judging))
    report = {"job": job._asdict(), **facts, "before": before, "after": after}
    (out / "activation.json").write_text(json.dumps(report, indent=1, default=str) + "\n", "utf-8")
    _show(before, after)
    print(f"The activated model is in {out}.")


def _begin(job: Job) -> bool:
    """Note in ``out`` what is activated how; whether this very job is finished. Refuses a folder of anything
    else, before anything is written; the same job goes on where it stopped."""
    import hashlib

    note = job.out / "activation_job.json"
    own = {key: value for key, value in job._asdict().items() if key not in FREE}
    own["clips_sha256"] = hashlib.sha256(job.clips.read_bytes()).hexdigest()
    own["model"], own["out"] = job.model.resolve(), job.out.resolve()
    settings = json.loads(json.dumps(own, default=str))
    if job.out.exists() and any(job.out.iterdir()):
        try:
            same = json.loads(note.read_text()) == settings
        except (OSError, ValueError, RecursionError):
            same = False
        if not same:
            raise ValueError(
                f"'{job.out}' is not empty and not from this very command: give --out a new folder"
            )
        if (job.out / "activation.json").is_file():
            return True
    job.out.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
    return False


def _judge(job: Job) -> "Judge | None":
    if job.judge is None:
        if job.judge_url is not None:
            raise ValueError("--judge-url needs --judge, the judge's name")
        return None
    from lalm.cli.judging import open_judge

    return open_judge(job.judge, job.judge_url, job.out / "judgments.sqlite")


def _along(
    job: Job, train: Callable[[int, int], None], samples: "Sequence[Sample]", judge: "Judge | None"
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Train step by step and measure at each, from step 0; draw figures 2 and 21. Before and after."""
    from lalm.cli.opening import open_engine
    from lalm.systems.salmonn import curves

    file = job.out / "activation_steps.json"
    measured = curves.about(samples, judge=job.judge)
    places = curves.read(file, measured)
    wanted = [*(folder.name for folder in job.earlier), *map(str, range(job.steps + 1))]
    if [place.name for place in places] != wanted[: len(places)]:
        raise ValueError(f"'{file}' was measured along other steps: delete it to measure again")
    for name in wanted[len(places) :]:
        number = wanted.index(name)
        step = number - len(job.earlier)
        if step > 0:
            train(step, 1)
        folder = job.earlier[number] if step < 0 else job.model if step == 0 else job.out
        found = curves.measure(open_engine(str(folder), job.device), samples, judge=judge)
        places.append(curves.Place(name, found))
        curves.write(places, file, measured)
        print(f"measured {name if step < 0 else f'after step {step}'}", flush=True)
    chosen, axis = curves.drawn_metrics(), "steps of activation tuning"
    for plot, perplexity in (("activation_steps.png", False), ("activation_perplexity.png", True)):
        if curves.draw(places, job.out / plot, axis, perplexity=perplexity, chosen=chosen):
            print(job.out / plot)
    before, after = places[len(job.earlier)], places[-1]
    return curves.by_task(before.measures), curves.by_task(after.measures)


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


def _show(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> None:
    print(f"{'task':<16}{'measure':<18}{'before':>10}{'after':>10}")
    for task, own in before.items():
        for name, value in own.items():
            if name != "n":
                print(f"{task:<16}{name:<18}{value:>10.4g}{after[task][name]:>10.4g}")
