"""``lalm build``: corpora become manifests of tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lalm.cli.respond import Sampling, progress_bar, writer
from lalm.data.sample import write_manifest
from lalm.tasks import READERS, Source, build, recordings
from lalm.tasks.events import RECORDINGS
from lalm.tasks.instructions import instruct
from lalm.tasks.question_answers import write_questions
from lalm.tasks.reasoning import written
from lalm.tasks.sources import opened
from lalm.tasks.spoken_questions import write_spoken

QA_TOKENS, LONG_QA_TOKENS = 128, 320


def corpus(folder: Path, out: Path, *, seed: int, languages: Sequence[str]) -> None:
    """Write the manifests of a corpus folder and print how many samples each holds."""
    for name, count in recordings.build(folder, out, seed=seed, languages=languages).items():
        print(f"{name:<24} {count:>7}")
    print(f"The manifests are in {out}.")


class Episodes(NamedTuple):
    """Of few_shot: classes, clips of each, how many, and the share whose classes have the names of others."""

    ways: int = 4
    shots: int = 1
    episodes: int = 0
    renamed: float = 0.0


@dataclass(frozen=True)
class Asked:
    """How a corpus becomes a task's manifest; ``lalm.tasks.build`` says what each means."""

    layout: str | None
    audio: Path | None
    seed: int
    test: bool
    splits: tuple[str, ...]
    join: bool
    episode: Episodes


def task(name: str, path: Path, out: Path, asked: Asked) -> None:
    """Write the manifest of one task and print how many samples it holds."""
    if name not in READERS:
        raise ValueError(
            f"there is no task '{name}' to build; there are corpus, qa, nlar, {', '.join(READERS)}"
        )
    if not path.exists():
        raise ValueError(f"there is no '{path}'")
    built = build(
        name,
        Source(path, asked.audio, asked.seed, **asked.episode._asdict()),
        out,
        layout=asked.layout,
        seed=None if asked.test else asked.seed,
        splits=asked.splits,
        join=asked.join,
    )
    missing = f", {built.missing} left out because their audio is missing" if built.missing else ""
    print(f"{out}: {built.written} samples{missing}")


def reasoning(
    source: Path, out: Path, *, layout: str | None, audio: Path | None, seed: int, llm: str, url: str | None
) -> None:
    """Write questions about pairs of recordings that an LLM words and the events check."""
    if layout not in (None, *RECORDINGS):
        raise ValueError(f"task 'nlar' has no layout '{layout}'; it has {', '.join(RECORDINGS)}")
    recordings_of, corpus = RECORDINGS[layout or "manifest"], Source(opened(source), audio, seed)
    samples, dropped = written(recordings_of, corpus, writer(llm, url))
    for why, count in dropped.most_common():
        print(f"{count} questions dropped: {why}")
    if not samples:
        raise ValueError(f"'{llm}' wrote no question about '{source}' that the events bear out")
    count = write_manifest(out, instruct(samples, seed=seed))
    print(f"{out}: {count} samples, each question in both orders")


def spoken(manifest: Path, out: Path, voices: Sequence[str], *, seed: int) -> None:
    """Write the questions of a manifest as spoken ones and print how many."""
    print(f"{out}: {write_spoken(manifest, out, voices, seed=seed)} spoken questions")


def questions(manifest: Path, out: Path, *, seed: int, long: bool, llm: str, url: str | None) -> None:
    """Write questions and answers about a manifest, and print how the LLM did."""
    if not manifest.is_file():
        raise ValueError(f"there is no manifest '{manifest}'")
    sampling = Sampling(max_new_tokens=LONG_QA_TOKENS if long else QA_TOKENS, seed=seed)
    with progress_bar("questions") as progress:
        counts = write_questions(
            manifest, out, writer(llm, url), sampling=sampling, long=long, progress=progress
        )
    print(
        f"{out}: {counts.written} questions written, {counts.already} were there already, "
        f"{counts.again} malformed replies asked for again, {counts.dropped} rows dropped"
    )
