"""OpenMP's helpers of a thread end when they are given back, and come again with the next product."""

import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from lalm.inference.openmp import _pause, give_back_helpers
from lalm.inference.threads import Threads


def helpers() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def product() -> float:
    return float((torch.ones(600, 600) @ torch.ones(600, 600))[0, 0])


def in_a_thread(work) -> None:
    failed = []

    def run() -> None:
        try:
            torch.set_num_threads(2)
            work()
        except BaseException as error:
            failed.append(error)

    before = torch.get_num_threads()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    if failed:
        raise failed[0]


def ended(count: int) -> bool:
    """Whether there are at most so many threads soon."""
    until = time.monotonic() + 60
    while helpers() > count and time.monotonic() < until:
        time.sleep(0.01)
    return helpers() <= count


pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or _pause() is None or "OpenMP" not in torch.__config__.parallel_info(),
    reason="GNU's OpenMP",
)


def test_helpers_end_when_they_are_given_back_and_come_again():
    def work() -> None:
        before = helpers()
        for _ in range(2):
            assert product() == 600
            assert helpers() > before
            assert give_back_helpers() and ended(before)
        assert give_back_helpers()  # there are none

    in_a_thread(work)


def test_a_model_that_has_answered_leaves_none():
    def work() -> None:
        before = helpers()
        with Threads(product).set():
            product()
            assert helpers() > before
        assert ended(before)

    in_a_thread(work)
