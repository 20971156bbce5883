"""What commands share at the terminal: silence of the libraries, and progress on stderr."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lalm import weights


def quiet() -> None:
    """No warnings and progress bars of transformers; ours say what the user needs."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A function (what, done, total) that draws a bar per ``what``; nothing is drawn before its first call."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    tasks = {}
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bars.update(task, visible=False)
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield tell


def fetch_parts(names: Sequence[str]) -> None:
    """Fetch those of ``names`` that are pinned parts and not here yet, with a bar."""
    for name in names:
        if name in weights.PARTS and weights.where(name) is None:
            with progress_bar() as tell:
                weights.fetch(name, tell)
