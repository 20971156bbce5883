"""``lalm corpus``: build a corpus of real recordings, behind a progress bar."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build captioned corpora of real recordings.", no_args_is_help=True)


@app.command()
def build(
    tier: Annotated[str, typer.Argument(help="small, medium or large.")] = "small",
    out: Annotated[Path | None, typer.Option(help="Folder of the corpus (default: corpus/TIER).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the composed scenes.")] = 0,
    scenes: Annotated[int, typer.Option(min=0, help="Composed training scenes.")] = 5000,
    packages: Annotated[
        Path | None, typer.Option(help="Folder of .deb files to use; the others are fetched into the cache.")
    ] = None,
) -> None:
    """Fetch, unpack, split and compose a corpus.

    What is done already is not done again.
    """
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from lalm import corpus
    from lalm.training.underway import Minutes

    folder = out or Path("corpus") / tier
    console = Console(stderr=True)
    minutes = Minutes(console)
    with Progress(console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(step: str, done: int, total: int) -> None:
            kind = step.split()[0] if step.startswith("package ") else step
            if kind not in tasks:
                tasks[kind] = bar.add_task(kind, total=total)
            bar.update(tasks[kind], completed=done + 1, total=total)
            minutes(f"{kind} {done + 1}/{total}")

        counts = corpus.build(
            tier, folder, seed=seed, num_scenes=scenes, packages=packages, progress=progress
        )
    for name, count in counts.items():
        print(f"{name:<24} {count:>7}")
    print(f"The corpus is in {folder}.")


@app.command()
def lessons(
    manifest: Annotated[Path, typer.Argument(help="train.jsonl of a corpus.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Manifest to write.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, help="Conversations to write.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    said: Annotated[
        bool, typer.Option("--said", help="Transcripts beside the audio, and questions about what is said.")
    ] = False,
) -> None:
    """Write questions and answers about a corpus's recordings.

    They are of sixteen kinds and made from the recordings' events (docs/corpus.md).
    """
    from lalm.corpus.lessons import write_lessons

    print(f"{out}: {write_lessons(manifest, out, count, seed, said=said)} conversations")
