"""Opening what several commands need: a model's engine, the LLM that writes, and progress bars."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lalm.data.readers import Reading
    from lalm.inference.engine import Engine
    from lalm.inference.speech.recogniser import Whisper
    from lalm.synthesis.completions import Writer


def open_engine(
    model: str | None, device: str | None, dtype: Any = None, transcript: bool | None = None
) -> "Engine":
    """The model of a folder (None: the embedded one); its pinned parts are fetched first if need be.

    ``transcript``: whether Whisper's stands beside the audio tokens; None: as the model's config says.
    """
    from lalm import Engine
    from lalm.cli.weights import fetch_for

    if transcript is None:
        fetch_for(model)
    else:
        fetch_for(model, transcript)
    silence_transformers()
    mode = transcript_mode(transcript)
    with loading() as told:
        return Engine.load(model, device, dtype, mode, told)


@contextmanager
def loading() -> Iterator[Callable[[str], None]]:
    """Says on a terminal that a model is loading, and (through the function given) what else it does."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("Loading the model") as status:
        yield lambda sentence: status.update(f"Loading the model: {sentence}")


def transcript_mode(transcript: bool | None) -> str | None:
    """What --transcript and --no-transcript ask of a model; None: nothing."""
    return None if transcript is None else "whisper" if transcript else "none"


def open_whisper(folder: str | None = None, device: str | None = None) -> "Whisper":
    """The speech recogniser: a folder in CTranslate2's format, or (None) the pinned part."""
    from lalm.cli.weights import fetch_with_bar
    from lalm.inference.speech.recogniser import PART, Whisper

    if folder is None:
        fetch_with_bar([PART])
    return Whisper.load(folder, device)


def reading_of(
    columns: Sequence[str] | None,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
    audio: Path | None = None,
) -> "Reading":
    """What ``--columns``, ``--prompt``, ``--prompt-seed`` and ``--audio`` say about a SOURCE."""
    from lalm.data.readers import Reading

    named: dict[str, str] = {}
    for pair in (pair for given in columns or () for pair in given.split(",") if pair.strip()):
        role, equals, column = pair.partition("=")
        if not equals or not column.strip():
            raise ValueError(f"--columns takes ROLE=COLUMN, such as audio=path,answer=caption, not '{pair}'")
        named[role.strip()] = column.strip()
    return Reading(named, tuple(prompts or ()), seed, audio)


def silence_transformers() -> None:
    """Turn off the progress bars and advice of transformers, which are for programmers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def open_writer(llm: str, url: str | None) -> "Writer":
    """The LLM that writes: one behind an OpenAI-compatible endpoint, or a local one, fetched if need be."""
    import torch

    from lalm.cli.weights import fetch_with_bar
    from lalm.inference.device import pick_dtype
    from lalm.synthesis.completions import EndpointWriter, LocalWriter
    from lalm.weights import fetch as weights

    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"--url must begin with http:// or https://, not '{url}'")
        return EndpointWriter(url, llm, os.environ.get("OPENAI_API_KEY", ""))
    fetch_with_bar([llm])
    return LocalWriter(weights.resolve(llm), llm, pick_dtype(torch.device("cpu")))


@contextmanager
def progress_bar(
    what: str, *, bar: bool = False, transient: bool = False, disable: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """Progress on stderr, as a function to be told how much is done and how much there is.

    ``bar`` draws a bar beside the counts, ``transient`` removes the line at the end. Without a
    terminal there is a line a minute, and at the end one unless it is transient.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    from lalm.training.underway import Minutes

    class TimeLeft(ProgressColumn):
        """From all that was done so far: there from the first answer, also where each takes minutes."""

        def render(self, task: Any) -> Any:
            """The time left as text."""
            return Text(time_left(task.elapsed, task.completed, task.total), style="progress.remaining")

    columns = (
        TextColumn("{task.description}"),
        *([BarColumn()] if bar else []),
        MofNCompleteColumn(),
        TimeLeft(),
    )
    console = Console(stderr=True)
    shown = Progress(
        *columns, console=console, transient=transient, disable=disable, redirect_stdout=sys.stdout.isatty()
    )
    task = shown.add_task(what, total=None)
    minutes = Minutes(console)

    def tell(done: int, total: int) -> None:
        if console.is_terminal or not transient:
            shown.start()  # at the first word: an error before it stands alone
        if not done:  # time runs from here, not from before the model was asked
            shown.reset(task, total=total)
        shown.update(task, completed=done, total=total)
        if not disable:
            elapsed = shown.tasks[0].elapsed
            minutes(f"{what} {done}/{total} {time_left(elapsed, done, total)}")

    try:
        yield tell
    finally:
        if shown.live.is_started:
            shown.stop()


def time_left(elapsed_s: float | None, done: float, total: float | None) -> str:
    """What so many of so many leave to wait for, as h:mm:ss; dashes before the first is done."""
    if not done or elapsed_s is None or total is None:
        return "-:--:--"
    seconds = round(elapsed_s / done * (total - done))
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
