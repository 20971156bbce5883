"""Decodes the next samples while the last ones are answered, so that the LLM does not wait for audio."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(
    prepare: Callable[[int], T], count: int, first: int, size: int, stopped: threading.Event
) -> Iterator[list[tuple[int, T | ValueError]]]:
    """What ``prepare`` makes of 0 to ``count`` - 1, or the ValueError that it raises, pool by pool, each with
    its number. The ``first`` pool may be smaller than the others, which have ``size``; the next one is
    prepared in a thread while this one is used. Nothing is prepared any more once ``stopped`` is set."""
    starts = [0, *range(first, count, size)]
    ends = [*starts[1:], count]

    def pool(start: int, end: int) -> list[tuple[int, T | ValueError]]:
        found = list[tuple[int, T | ValueError]]()
        for number in range(start, end):
            if stopped.is_set():
                break
            try:
                found.append((number, prepare(number)))
            except ValueError as error:
                found.append((number, error))
        return found

    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(pool, starts[0], ends[0])
        try:
            for start, end in zip(starts[1:], ends[1:], strict=True):
                found = coming.result()
                coming = worker.submit(pool, start, end)
                yield found
            yield coming.result()
        finally:
            stopped.set()
