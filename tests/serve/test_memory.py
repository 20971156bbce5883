"""Memory that requests leave behind."""

import asyncio
import contextlib
import gc
import weakref

from lalm.serve import memory


class Ring:
    """Refers to itself, as requests and their handlers do."""

    def __init__(self) -> None:
        self.me = self


def test_what_refers_to_itself_is_let_go(monkeypatch):
    monkeypatch.setattr(memory, "INTERVAL_S", 0.01)
    left = weakref.ref(Ring())
    gc.disable()
    try:

        async def a_while() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    releasing = asyncio.create_task(memory.release_memory_periodically())
                    while left() is not None:
                        await asyncio.sleep(0.01)
            assert not releasing.done()
            releasing.cancel()

        asyncio.run(a_while())
    finally:
        gc.enable()
    assert left() is None
