"""``lalm build``: corpora become manifests of tasks."""

from collections.abc import Sequence
from pathlib import Path

from lalm.tasks import READERS, Source, build, recordings


def corpus(folder: Path, out: Path, *, seed: int, languages: Sequence[str]) -> None:
    """Write the manifests of a corpus folder and print how many samples each holds."""
    for name, count in recordings.build(folder, out, seed=seed, languages=languages).items():
        print(f"{name:<24} {count:>7}")
    print(f"The manifests are in {out}.")


def task(
    name: str, source: Path, out: Path, *, layout: str | None, audio: Path | None, seed: int, test: bool
) -> None:
    """Write the manifest of one task and print how many samples it holds."""
    if name not in READERS:
        raise ValueError(f"there is no task '{name}' to build; there are corpus, {', '.join(READERS)}")
    if not source.exists():
        raise ValueError(f"there is no '{source}'")
    built = build(name, Source(source, audio, seed), out, layout=layout, seed=None if test else seed)
    missing = f", {built.missing} left out because their audio is missing" if built.missing else ""
    print(f"{out}: {built.written} samples{missing}")
