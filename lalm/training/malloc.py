"""Tells glibc's malloc to keep freed memory, which training allocates again at every step.

A training step allocates and frees the same large tensors each time. By default glibc returns such
blocks to the kernel, which clears every page again: a fifth of the CPU time of a step of a small LLM.
"""

import ctypes
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # malloc.h
KEEP = 2**31 - 1  # bytes, the most that mallopt takes
GROW = 2**26  # bytes more than asked for, when the heap grows


def keep_freed_memory() -> bool:
    """Apply the setting to this process, which may then hold more memory; False without glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((MMAP_THRESHOLD, KEEP), (TRIM_THRESHOLD, KEEP), (TOP_PAD, GROW))
    return all([libc.mallopt(name, value) == 1 for name, value in settings])
