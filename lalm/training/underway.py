"""Tells how far long work is: a spinner on a terminal, a line a minute in a log file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

EVERY_S = 60.0


def run_console(*, quiet: bool) -> Console:
    """What a run prints on: a terminal's console, or plain lines; a notebook gets lines, no box for each."""
    console = Console(quiet=quiet)
    if not console.is_jupyter:
        return console
    return Console(quiet=quiet, force_jupyter=False, force_terminal=False)  # kernels ask for colours


class Minutes:
    """Prints what it is given, at most once a minute, where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console, self._next = console, time.monotonic() + EVERY_S

    def __call__(self, text: str) -> None:
        if not self._console.is_terminal and time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_S
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def underway(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """While the work lasts: what takes a new text, such as "Encoding clips: 20 encoded"."""
    minutes = Minutes(console)
    with console.status(text) as status:

        def tell(text: str) -> None:
            status.update(text)
            minutes(text)

        yield tell
