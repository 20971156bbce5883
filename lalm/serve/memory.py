"""Keeps the server's memory constant: collects garbage and returns free memory to the system.

Request bodies and recordings are large, of every size, and held by reference cycles. Python collects cycles
seldom when much else is loaded, and glibc keeps the free gaps between blocks that are in use.
"""

import asyncio
import gc

from lalm.models.opening_memory import exempt_from_collection, release_free_memory

INTERVAL_S = 20.0


def freeze_loaded_objects() -> None:
    """Exempt the objects loaded so far from garbage collection, which makes later collections fast."""
    gc.collect()
    exempt_from_collection()


def collect_all() -> None:
    """Collect garbage among the exempt objects too: a model that was closed is one of them."""
    gc.unfreeze()
    freeze_loaded_objects()


async def release_memory_periodically() -> None:
    """Collect garbage and return free memory every ``INTERVAL_S`` seconds, until cancelled."""
    while True:
        await asyncio.sleep(INTERVAL_S)
        gc.collect()
        await asyncio.to_thread(release_free_memory)
