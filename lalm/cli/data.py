"""``lalm data``: what is wrong with a manifest, what it holds, and what the loss learns from it."""

import json
import random
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lalm.cli.weights import SMALL, fetch_for
from lalm.data.readers import open_samples
from lalm.data.sample import write_manifest
from lalm.data.validate import Survey, histogram, picture, survey


def validate(path: Path, out: Path | None, *, workers: int | None, as_json: bool) -> int:
    """Print every bad line, write the good ones to ``out``; 1 when there are bad ones."""
    if out is not None and path.is_file() and out.resolve() == path.resolve():
        raise ValueError(f"--out is the manifest itself, '{path}'; name another file")
    found = _survey(path, decode=True, workers=workers, what="decoding")
    if out is not None:
        samples = open_samples(path)
        write_manifest(out, (samples[number] for number in found.good))
    if as_json:
        print(json.dumps({"good": len(found.good), "bad": found.faults, "hours": round(found.hours, 4)}))
    else:
        for fault in found.faults:
            print(fault)
        wrote = f"; the good ones are in {out}" if out is not None else ""
        print(f"{path}: {len(found.good)} good lines, {found.hours:.2f} h, {len(found.faults)} bad{wrote}")
    return 1 if found.faults else 0


def stats(path: Path, chart: Path | None, *, workers: int | None, as_json: bool) -> None:
    """Print what a manifest holds, and write the histogram of its durations as an SVG to ``chart``."""
    if chart is not None and chart.suffix != ".svg":
        raise ValueError(f"--picture writes an SVG: name it {chart.stem}.svg")
    found = _survey(path, decode=False, workers=workers, what="reading")
    if not found.good:
        raise ValueError(f"'{path}' has no good line; `lalm data validate` says why")
    counts, edges = histogram(found.seconds)
    if chart is not None:
        title = f"{path.name}: {len(found.good):,} samples, {found.hours:.1f} h"
        chart.write_text(picture(found.seconds, title))
    clips = sorted(found.seconds)
    middle, longest = clips[len(clips) // 2], clips[-1]
    if as_json:
        fields = {
            "samples": len(found.good),
            "bad": len(found.faults),
            "hours": found.hours,
            "seconds": {"median": middle, "longest": longest},
            "text_tokens_about": round(found.tokens),
            "languages": dict(found.languages.most_common()),
            "tasks": dict(found.tasks.most_common()),
            "histogram": {"edges_s": [round(float(e), 4) for e in edges], "counts": counts.tolist()},
        }
        print(json.dumps(fields, ensure_ascii=False))
        return
    print(f"{len(found.good):,} samples, {found.hours:.2f} h of audio", end="")
    print(f", {len(found.faults)} bad lines (lalm data validate)" if found.faults else "")
    mean = 3600 * found.hours / len(clips)
    print(f"a sample: {mean:.2f} s in the mean, median {middle:.2f}, longest {longest:.2f}")
    each = found.tokens / len(clips)
    print(f"text: about {found.tokens:,.0f} tokens (four characters each), {each:.0f} a sample")
    for name, counted in (("task", found.tasks), ("language", found.languages)):
        rows = ", ".join(f"{key} {count:,}" for key, count in counted.most_common(12))
        print(f"{name}: {rows}")
    print("seconds   samples")
    for count, edge in zip(counts, edges, strict=False):
        if count:
            print(f"{edge:>7g}   {count:>7,} {'#' * max(1, round(40 * count / counts.max()))}")


def preview(path: Path, model: str | None, *, rows: int, seed: int | None) -> None:
    """Print rows as the model gets them, with what the loss learns in [[ ]]."""
    samples = open_samples(path)
    if not len(samples):
        raise ValueError(f"'{path}' holds no samples")
    numbers = list(range(min(rows, len(samples))))
    if seed is not None:
        numbers = random.Random(seed).sample(range(len(samples)), len(numbers))
    fetch_for(model)
    from lalm.models import assemble as systems
    from lalm.training.report import show_example

    processor = systems.open_processor(SMALL if model is None else model)
    console = Console()
    for number in numbers:
        sample = samples[number]
        if sample.chosen and not sample.target:
            sample = sample.with_target(sample.chosen)
        batch = processor.batch([sample], labels=True)
        learned = int((batch["labels"] != -100).sum())
        console.print(
            f"{samples.place(number)}  {batch['input_ids'].shape[1]} tokens, {learned} learned",
            style="bold",
            markup=False,
            highlight=False,
        )
        console.print(show_example(batch, processor.tokenizer, processor.audio_token_id), soft_wrap=True)


def _survey(path: Path, *, decode: bool, workers: int | None, what: str) -> Survey:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        return survey(
            path,
            decode=decode,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
