"""Memory while a model is opened: garbage is not looked for, and what is free goes back to the system."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_exempted = False


def exempt_from_collection() -> None:
    """``gc.freeze``: no later collection goes through the objects that are there now.

    ``no_collection`` leaves them so, and need not count them, which takes as long as going through them.
    """
    global _exempted
    gc.freeze()
    _exempted = True


@contextmanager
def no_collection() -> Iterator[None]:
    """No search for circular garbage in here, or in a function that this decorates.

    Importing torch and transformers and opening a model makes a million objects that stay, and the collector
    would go through them again and again: a quarter of the time. It is on afterwards if it was before, and
    what was made counts as old, so that it is not gone through at once.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not _exempted and not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()  # all that is there goes into the oldest generation
            gc.enable()


def release_free_memory() -> None:
    """Return to the system what glibc keeps of freed blocks: tens of megabytes after a tokenizer was read."""
    import ctypes  # here, since `import lalm` reads this file
    import platform

    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
