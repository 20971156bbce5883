"""``lalm respond``: a manifest of captions becomes a manifest of the LLM's replies."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lalm.cli.weights import fetch_with_bar
from lalm.inference.engine import pick_dtype
from lalm.synthesis.completions import EndpointWriter, LocalWriter, Sampling, Writer
from lalm.systems.acdc.continuation import Mode, respond
from lalm.weights import fetch as weights

__all__ = ["Job", "Sampling", "run"]


@dataclass(frozen=True)
class Job:
    """What is read, what is written, and how captions become targets; see ``continuation.respond``."""

    manifest: Path
    out: Path
    mode: Mode = "response"
    replies: int = 1
    shard: str = "1/1"
    system: str = ""
    batch_size: int = 64
    keep_mentioning: bool = False


def run(job: Job, sampling: Sampling, llm: str, url: str | None) -> None:
    """Write the job's manifest and print what was done."""
    if not job.manifest.is_file():
        raise ValueError(f"there is no manifest '{job.manifest}'")
    answering = None if job.mode == "caption" else writer(llm, url)
    with progress_bar("replies") as progress:
        counts = respond(writer=answering, sampling=sampling, progress=progress, **asdict(job))
    print(
        f"{job.out}: {counts.written} rows written, {counts.already} were there already, "
        f"{counts.truncated} cut off by the token limit, {counts.dropped} dropped"
    )


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, as a function of how much is done and how much there is."""
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def writer(llm: str, url: str | None) -> Writer:
    """Who answers: the model of an OpenAI-compatible endpoint, or a local one, fetched if need be."""
    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"--url must begin with http:// or https://, not '{url}'")
        return EndpointWriter(url, llm, os.environ.get("OPENAI_API_KEY", ""))
    fetch_with_bar([llm])
    return LocalWriter(weights.resolve(llm), llm, pick_dtype(torch.device("cpu")))
