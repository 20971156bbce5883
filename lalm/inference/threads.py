"""How many threads a model answers with: measured, because waiting threads make a busy machine crawl.

OpenMP's threads wait for each other at the end of every product. Where other programs run, one of them is not
on a CPU for some milliseconds, and all wait that long: two threads can be ten times slower than one. So the
model's own products are timed with few and with many threads, and again when steps become slow.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from lalm.inference.openmp import give_back_helpers
from lalm.models.int4 import Int4Product
from lalm.models.int8 import Int8Product
from lalm.models.packed_half import ROWS, PackedLinear

ROUNDS = 4  # of the measurement, each with every number of threads in turn
ROUND_S = 0.004  # of products in a round: as long as a scheduler lets a program run
WARM_S = 0.03  # of products with several threads before they are timed
GAIN = 0.9  # fewer threads are taken where they need less than this share of the time
SLOW = 1.6  # steps that take so many times as long as before are a reason to measure again
WINDOW = 8  # steps of like many rows whose median is compared
PAUSE_S = 2.0  # between two measurements at least, while an answer is made
KEPT_S = 30.0  # so long a measurement holds for the answers that begin
KEPT_FEWER_S = 5.0  # where it speaks for fewer threads than there may be: who was busy then may be done

log = logging.getLogger("lalm.threads")


def available() -> int:
    """CPUs this process may use: its affinity, and the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(count, ceil(quota))) if quota else count


def cgroup_quota(root: Path) -> float | None:
    """CPUs that a container may use, from the files of cgroups 2 or 1; None: no limit is set."""
    try:
        told = (root / "cpu.max").read_text().split()
    except OSError:
        try:
            told = [(root / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")]
        except OSError:
            return None
    try:
        quota, period = (float(number) for number in told[:2])
    except ValueError:  # "max"
        return None
    return quota / period if quota > 0 and period > 0 else None


def chosen_outside() -> bool:
    """Whether the number of threads was set by who runs the program, or by the program."""
    return "OMP_NUM_THREADS" in os.environ or torch.get_num_threads() not in usual_numbers()


def usable(limit: int | None = None) -> int:
    """The most threads that a model answers with: those chosen outside, or torch's within ``limit`` (None:
    the CPUs there are)."""
    default = torch.get_num_threads()
    return default if chosen_outside() else min(default, limit or available())


@contextmanager
def taking(number: int, before: int | None = None) -> Iterator[None]:
    """torch with that number of threads; afterwards with ``before`` (None: as many as it has now)."""
    before = before or torch.get_num_threads()
    try:
        if torch.get_num_threads() != number:
            torch.set_num_threads(number)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def candidates(limit: int) -> list[int]:
    """Numbers of threads worth trying, fewest first: 1, half of all, all."""
    return sorted({1, max(1, limit // 2), limit})


class Threads:
    """The number of threads of one model on a CPU; ``work`` does some of its products once.

    It is set while the model answers and put back afterwards. With OMP_NUM_THREADS in the environment, or
    where the program called ``torch.set_num_threads``, nothing is measured or set.
    """

    def __init__(self, work: Callable[[], Any], limit: int | None = None) -> None:
        self._work = work
        self.limit = usable(limit)
        self.number = self.limit
        self._free = not chosen_outside() and self.limit > 1
        self._measured_s = -KEPT_S
        self._usual: dict[int, float] = {}  # seconds of a step by the size of its rows
        self._last: dict[int, list[float]] = {}
        self._said: set[int] = set()

    @property
    def spare(self) -> int:
        """How many threads the model leaves to others: to the encoder of the next batch, say. None where
        their number was chosen from outside."""
        return self.limit - self.number if self._free else 0

    @contextmanager
    def set(self) -> Iterator[None]:
        """While a model answers: its number of threads, measured before."""
        before = torch.get_num_threads()
        if self._free:
            self.measure(KEPT_FEWER_S if self.spare else KEPT_S)
        try:
            with taking(self.number, before):
                yield
        finally:
            give_back_helpers()

    def measure(self, pause_s: float = PAUSE_S) -> None:
        """Time the work with each candidate and take the best, unless that was done within ``pause_s``."""
        if time.monotonic() - self._measured_s < pause_s:
            return
        choices = candidates(self.limit)
        found = seconds_of(self._work, choices)
        self._measured_s = time.monotonic()
        self._usual, self._last = {}, {}
        best = self.limit
        for number in reversed(choices):
            if found[number] < GAIN * found[best]:
                best = number
        self.number = best
        if best not in self._said:
            self._said.add(best)
            times = ", ".join(f"{number}: {1e3 * found[number]:.2f} ms" for number in choices)
            if best == self.limit:
                log.info("answering with %d threads (measured: %s)", best, times)
            else:
                busy = "lalm answers with %d of %d threads, which is faster now: other programs run (%s)"
                log.warning(busy, best, self.limit, times)

    def step(self, seconds: float, rows: int = 1) -> None:
        """Told how long a step of decoding took that many rows: measures again when steps of as many have
        become slow, and from time to time while there are fewer threads than there may be."""
        if not self._free:
            return
        size = rows.bit_length()  # 1, 2 to 3, 4 to 7 rows: more take longer without being slow
        last = self._last[size] = [*self._last.get(size, [])[1 - WINDOW :], seconds]
        now = median(last) if len(last) == WINDOW else 0.0
        slow = now > SLOW * self._usual.get(size, now)
        if slow or self.spare:
            self.measure(PAUSE_S if slow else KEPT_FEWER_S)
            if torch.get_num_threads() != self.number:
                torch.set_num_threads(self.number)
        if now and not slow:
            self._usual[size] = min(now, self._usual.get(size, now))


def seconds_of(work: Callable[[], Any], choices: Sequence[int]) -> dict[int, float]:
    """Mean seconds of the work with each number of threads, taken in turns."""
    spent, done = dict.fromkeys(choices, 0.0), dict.fromkeys(choices, 0)
    for number in choices:  # threads are started and find their CPUs, which takes the scheduler some ticks
        torch.set_num_threads(number)
        began = time.perf_counter()
        work()
        while number > 1 and time.perf_counter() - began < WARM_S:
            work()
    for _ in range(ROUNDS):
        for number in choices:
            torch.set_num_threads(number)
            began = time.perf_counter()
            while (took := time.perf_counter() - began) < ROUND_S:
                work()
                done[number] += 1
            spent[number] += took
    return {number: spent[number] / done[number] for number in choices}


def usual_numbers() -> set[int | None]:
    """The numbers of threads that torch starts with where nobody chose one: all CPUs, or all cores."""
    import psutil

    mine = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return {os.cpu_count(), psutil.cpu_count(logical=False), mine, max(1, mine // 2)}


def products_of(model: Any) -> Callable[[], Any]:
    """The products of one layer of a model's LLM after the other, a layer a call: what a step of decoding
    does, with weights that come from memory, as then. LoRA's, which are small, are left out."""
    found: list[
        Iterator[list[tuple[Any, torch.Tensor]]]
    ] = []  # looked up late: until then they may be packed

    @torch.inference_mode()
    def work() -> None:
        if not found:
            found.append(cycle(_layers(model)))
        for product, row in next(found[0]):
            product(row)

    return work


def _layers(model: Any) -> list[list[tuple[Any, torch.Tensor]]]:
    """Each layer's products and what they are of; the weights are packed, which would keep a CPU busy."""
    kinds = nn.Linear | PackedLinear | Int8Product | Int4Product
    named: dict[str, Any] = {
        name: product
        for name, product in model.model.language_model.named_modules()
        if isinstance(product, kinds) and "lora_" not in name
    }
    for name, product in list(named.items()):
        if isinstance(product, Int8Product | Int4Product):
            product.wait()
        if isinstance(product, Int8Product) and product.step:  # prompts' alone
            named[name] = named.pop(f"{name}.step")
    pairs = [(product, _row_for(product)) for product in named.values()]
    size = len({re.sub(r"\d+", "", name) for name in named}) or 1  # products of a layer
    return [pairs[first : first + size] for first in range(0, max(1, len(pairs) - size + 1), size)]


def _row_for(layer: Any) -> torch.Tensor:
    """What a product of a decoding step is of."""
    if isinstance(layer, PackedLinear):
        return torch.zeros(ROWS, layer.in_features, dtype=layer.dtype)
    if isinstance(layer, Int8Product):
        return torch.zeros(1, layer.shape[1])
    if isinstance(layer, Int4Product):
        return torch.zeros(1, layer.in_features)
    return torch.zeros(1, layer.in_features, dtype=layer.weight.dtype)
