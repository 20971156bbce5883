"""``lalm build``: corpora become manifests of tasks."""

from collections.abc import Sequence
from pathlib import Path

from lalm.tasks import recordings


def corpus(folder: Path, out: Path, *, seed: int, languages: Sequence[str]) -> None:
    """Write the manifests of a corpus folder and print how many samples each holds."""
    for name, count in recordings.build(folder, out, seed=seed, languages=languages).items():
        print(f"{name:<24} {count:>7}")
    print(f"The manifests are in {out}.")
