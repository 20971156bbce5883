"""``lalm corpus``: the corpus builder behind a progress bar."""

from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from lalm import corpus


def build(tier: str, out: Path, *, seed: int, scenes: int, packages: Path | None) -> None:
    """Build a corpus in ``out`` and print how many lines each manifest has."""
    with Progress(console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(step: str, done: int, total: int) -> None:
            kind = step.split()[0] if step.startswith("package ") else step
            if kind not in tasks:
                tasks[kind] = bar.add_task(kind, total=total)
            bar.update(tasks[kind], completed=done + 1, total=total)

        counts = corpus.build(tier, out, seed=seed, num_scenes=scenes, packages=packages, progress=progress)
    for name, count in counts.items():
        print(f"{name:<24} {count:>7}")
    print(f"The corpus is in {out}.")
