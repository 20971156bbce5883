"""OpenMP's waiting threads, given back: with more of them in a process than CPUs, every product pays for it.

GNU's OpenMP keeps the helpers of each thread that has computed with several. Where all of them together are
more than the CPUs, as when one thread has opened a model and another one answers, they no longer turn for a
moment at the end of a product but sleep at once, and each product waits until they are awake: small ones took
2.2 times as long, and twice the processor's time (docs/log.md).
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

PAUSE_SOFT = 1  # omp_pause_soft: what is given back comes again when it is needed


def give_back_helpers() -> bool:
    """End the OpenMP threads that wait for this thread; its next product has new ones. False where torch has
    another OpenMP than GNU's."""
    pause = _pause()
    return pause is not None and bool(pause(PAUSE_SOFT) == 0)


@cache
def _pause() -> Callable[[int], int] | None:
    """``omp_pause_resource_all`` of the OpenMP that torch has loaded."""
    mode = getattr(os, "RTLD_NOLOAD", None)
    if mode is None:
        return None
    inside = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    for name in (*map(str, inside), "libgomp.so.1"):
        try:
            library: Any = ctypes.CDLL(name, mode=mode | os.RTLD_NOW)
            found: Callable[[int], int] = library.omp_pause_resource_all
        except (OSError, AttributeError):  # not loaded, or older than OpenMP 5
            continue
        return found
    return None
