"""Memory that requests leave behind is given back, so that the server's stays as it is.

Bodies and recordings are large, come in every size and are held by objects that refer to each other: Python
looks for those seldom when much else is loaded, and glibc keeps the holes between blocks that are in use.
"""

import asyncio
import ctypes
import gc
import platform

EVERY_S = 20.0


def keep_what_is_loaded() -> None:
    """Never look through what is there now again, which makes looking for the rest quick."""
    gc.collect()
    gc.freeze()


async def tidied() -> None:
    """Tidy up every now and then, until cancelled."""
    glibc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    while True:
        await asyncio.sleep(EVERY_S)
        gc.collect()
        if glibc is not None:
            await asyncio.to_thread(glibc.malloc_trim, 0)
