"""Memory that requests leave behind."""

import asyncio
import contextlib
import gc
import weakref

from lalm.serve import memory as tidy


class Ring:
    """Refers to itself, as requests and their handlers do."""

    def __init__(self) -> None:
        self.me = self


def test_what_refers_to_itself_is_let_go(monkeypatch):
    monkeypatch.setattr(tidy, "EVERY_S", 0.01)
    left = weakref.ref(Ring())
    gc.disable()
    try:

        async def a_while() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    tidying = asyncio.create_task(tidy.tidied())
                    while left() is not None:
                        await asyncio.sleep(0.01)
            assert not tidying.done()
            tidying.cancel()

        asyncio.run(a_while())
    finally:
        gc.enable()
    assert left() is None
