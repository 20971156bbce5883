"""``lalm data``: what is wrong with a manifest, what it holds, and what the loss learns from it."""

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from lalm.cli.opening import reading_of
from lalm.cli.options import AudioFolder, Columns, Json, Model, NewManifest, Prompt, PromptDraw

if TYPE_CHECKING:
    from lalm.data.readers import Reading
    from lalm.data.validate import ManifestReport, RowReport

MOST_REMARKS = 20  # that are printed
app = typer.Typer(help="Manifests: check them, count them, look at them.", no_args_is_help=True)

Source = Annotated[
    Path,
    typer.Argument(
        help="A manifest of lalm or another toolkit, a table, a tar, a folder, hf://datasets/... "
        "(docs/data.md).",
        show_default=False,
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes (default: all CPUs).")]


@app.command()
def validate(
    source: Source,
    out: Annotated[Path | None, typer.Option(help="Manifest to write with the good lines.")] = None,
    accounts: Annotated[
        Path | None, typer.Option(help="JSONL to write with the account of every recording.")
    ] = None,
    workers: Workers = None,
    columns: Columns = None,
    prompt: Prompt = None,
    prompt_seed: PromptDraw = 0,
    audio: AudioFolder = None,
    as_json: Json = False,
) -> int:
    """Check every line and recording; name what is bad.

    The exit code is 1 when a line is bad, or its recording cannot be heard to its end.

    Recordings that are heard but odd (damaged and lenient, silent, longer than their header says) are told
    on standard error.
    With --out whatever can be read becomes a manifest.
    """
    from lalm.data.readers import open_samples
    from lalm.data.sample import write_manifest

    if out is not None and source.is_file() and out.resolve() == source.resolve():
        raise ValueError(f"--out is the manifest itself, '{source}'; name another file")
    if accounts is not None and not accounts.parent.is_dir():
        raise ValueError(f"there is no folder '{accounts.parent}' to write '{accounts.name}' to")
    reading = reading_of(columns, prompt, prompt_seed, audio)
    with accounts.open("w", encoding="utf-8") if accounts else nullcontext() as log:
        found = _validate(source, reading, decode=True, workers=workers, what="decoding", log=log)
    if out is not None:
        samples = open_samples(source, reading)
        write_manifest(out, (samples[number] for number in found.good))
    if as_json:
        told = {"good": len(found.good), "bad": found.faults, "hours": round(found.hours, 4)}
        print(json.dumps(told | {"remarks": found.remarks, "audio": found.tally.to_json()}))
    else:
        for remark in found.remarks[:MOST_REMARKS]:
            print("lalm:", remark, file=sys.stderr)
        if more := found.remarks[MOST_REMARKS:]:
            print(f"lalm: and {len(more)} remarks more: --accounts FILE.jsonl has all", file=sys.stderr)
        for fault in found.grouped:
            print(fault)
        wrote = f"; the good ones are in {out}" if out is not None else ""
        length = f"{found.hours:.2f} h" if found.hours >= 0.1 else f"{3600 * found.hours:.0f} s"
        print(f"{source}: {len(found.good)} good lines, {length}, {len(found.faults)} bad{wrote}")
    return 1 if found.faults else 0


@app.command()
def stats(
    source: Source,
    picture: Annotated[Path | None, typer.Option(help="SVG to write with the histogram.")] = None,
    workers: Workers = None,
    columns: Columns = None,
    audio: AudioFolder = None,
    as_json: Json = False,
) -> None:
    """Hours, durations, tokens, languages and tasks.

    They are read from the manifest and from the headers of the files.
    """
    if picture is not None and picture.suffix != ".svg":
        raise ValueError(f"--picture writes an SVG: name it {picture.stem}.svg")
    reading = reading_of(columns, audio=audio)
    found = _validate(source, reading, decode=False, workers=workers, what="reading")
    if not found.good:
        raise ValueError(f"'{source}' has no good line; `lalm data validate` says why")
    if picture is not None:
        from lalm.data import validate as validation

        title = f"{source.name}: {len(found.good):,} samples, {found.hours:.1f} h"
        picture.write_text(validation.histogram_svg(found.seconds, title))
    if as_json:
        _print_json(found)
    else:
        _print_lines(found)


def _print_json(found: "ManifestReport") -> None:
    from lalm.data.validate import histogram

    counts, edges = histogram(found.seconds)
    clips = sorted(found.seconds)
    fields = {
        "samples": len(found.good),
        "bad": len(found.faults),
        "hours": found.hours,
        "seconds": {"median": clips[len(clips) // 2], "longest": clips[-1]},
        "text_tokens_about": round(found.tokens),
        "languages": dict(found.languages.most_common()),
        "tasks": dict(found.tasks.most_common()),
        "histogram": {"edges_s": [round(float(e), 4) for e in edges], "counts": counts.tolist()},
    }
    print(json.dumps(fields, ensure_ascii=False))


def _print_lines(found: "ManifestReport") -> None:
    from lalm.data.validate import histogram

    counts, edges = histogram(found.seconds)
    clips = sorted(found.seconds)
    middle, longest = clips[len(clips) // 2], clips[-1]
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


@app.command()
def preview(
    source: Source,
    model: Model = None,
    rows: Annotated[int, typer.Option(min=1, help="How many samples to show.")] = 3,
    seed: Annotated[int | None, typer.Option(min=0, help="Draw them at random (default: the first).")] = None,
    columns: Columns = None,
    prompt: Prompt = None,
    prompt_seed: PromptDraw = 0,
    audio: AudioFolder = None,
) -> None:
    """Show samples as the model gets them.

    What the loss learns stands in [[ ]].
    """
    from lalm.data.readers import open_samples

    samples = open_samples(source, reading_of(columns, prompt, prompt_seed, audio))
    if not len(samples):
        raise ValueError(f"'{source}' holds no samples")
    numbers = list(range(min(rows, len(samples))))
    if seed is not None:
        import random

        numbers = random.Random(seed).sample(range(len(samples)), len(numbers))
    from rich.console import Console

    from lalm.cli.weights import fetch_for
    from lalm.models import SMALL
    from lalm.models.load import open_processor
    from lalm.training.report import show_example

    fetch_for(model)
    processor = open_processor(SMALL if model is None else model)
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


@app.command()
def join(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Manifests, tables or folders of data (docs/data.md).", show_default=False),
    ],
    out: NewManifest,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,...", help="Samples with one of these: task=..., origin.KIND=...."),
    ] = None,
    ask: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Ask this in place of each sample's own text; {task} is its task."),
    ] = "",
    most: Annotated[int | None, typer.Option(min=1, help="At most so many samples, drawn.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
) -> None:
    """Write several manifests as one, or a part of one.

    Recordings stay where they are.
    """
    from lalm.data.mixture import join_manifests

    if any(source.exists() and out.resolve() == source.resolve() for source in sources):
        raise ValueError(f"--out is one of the manifests, '{out}'; name another file")
    print(f"{out}: {join_manifests(sources, out, only=only or (), ask=ask, most=most, seed=seed)} samples")


def _validate(
    path: Path,
    reading: "Reading",
    *,
    decode: bool,
    workers: int | None,
    what: str,
    log: TextIO | None = None,
) -> "ManifestReport":
    from lalm.cli.opening import progress_bar
    from lalm.data.validate import validate_manifest

    with progress_bar(what, bar=True, transient=True) as progress:
        heard = None if log is None else lambda row: log.writelines(_account_lines(row))
        settings: dict[str, Any] = {"decode": decode, "workers": workers, "reading": reading}
        return validate_manifest(path, **settings, progress=progress, heard=heard)


def _account_lines(row: "RowReport") -> Iterator[str]:
    """A line for each recording of a row, and one for a row that is bad."""
    if row.fault:
        yield json.dumps({"place": row.place, "error": row.fault}, ensure_ascii=False) + "\n"
    for account in row.accounts:
        yield json.dumps({"place": row.place, **account.to_json()}, ensure_ascii=False) + "\n"
