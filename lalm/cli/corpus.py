"""``lalm corpus``: build a corpus of real recordings, behind a progress bar."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lalm.corpus.clips import Progress

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
    from lalm import corpus

    folder = out or Path("corpus") / tier
    with _bars() as progress:
        counts = corpus.build(
            tier, folder, seed=seed, num_scenes=scenes, packages=packages, progress=progress
        )
    _tell(counts, folder)


@app.command()
def music(
    out: Annotated[Path, typer.Option(help="Folder of the clips.")] = Path("corpus/music"),
    clips: Annotated[int, typer.Option(min=1, help="Training clips.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all draws.")] = 0,
    packages: Annotated[
        Path | None, typer.Option(help="Folder of .deb files to use; the others are fetched into the cache.")
    ] = None,
) -> None:
    """Render old tunes: instruments, key, tempo known.

    It needs fluidsynth and 'lalm[music]' (docs/corpus.md). What is done already is not done again.
    """
    from lalm.corpus.music import build_music

    with _bars() as progress:
        counts = build_music(out, clips, seed=seed, packages=packages, progress=progress)
    _tell(counts, out)


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

    They are of some thirty kinds and made from the recordings' events; about music of 'lalm corpus music', of
    twenty (docs/corpus.md).
    """
    from lalm.corpus.lessons import write_lessons
    from lalm.corpus.music_lessons import is_music, write_music_lessons

    if is_music(manifest):
        written = write_music_lessons(manifest, out, count, seed)
    else:
        written = write_lessons(manifest, out, count, seed, said=said)
    print(f"{out}: {written} conversations")


@contextmanager
def _bars() -> Iterator["Progress"]:
    """A bar for each step; without a terminal a line a minute."""
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from lalm.training.underway import Minutes

    console = Console(stderr=True)
    minutes = Minutes(console)
    with Bars(console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(step: str, done: int, total: int) -> None:
            kind = step.split()[0] if step.startswith("package ") else step
            if kind not in tasks:
                tasks[kind] = bars.add_task(kind, total=total)
            bars.update(tasks[kind], completed=done + 1, total=total)
            minutes(f"{kind} {done + 1}/{total}")

        yield progress


def _tell(counts: Mapping[str, int], folder: Path) -> None:
    for name, count in counts.items():
        print(f"{name:<24} {count:>7}")
    print(f"The corpus is in {folder}.")
