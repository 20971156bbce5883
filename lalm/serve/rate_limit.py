"""How often one address may ask: a minute's requests at once, then each as its place comes back."""

import math
import time
from collections import OrderedDict

ADDRESSES = 10_000  # remembered; those that asked longest ago are forgotten first


class Rates:
    """``Rates(60).wait_s("10.0.0.7")`` counts a request; with 0 a minute nothing is counted."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._used: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # places taken, and when that was so

    def wait_s(self, address: str) -> int:
        """0 where the address may ask now, else the seconds until it may."""
        if not self.per_minute:
            return 0
        now = time.monotonic()
        used, then = self._used.pop(address, (0.0, now))
        used = max(0.0, used - (now - then) * self.per_minute / 60)
        over = used + 1 - self.per_minute
        self._used[address] = (used if over > 0 else used + 1), now
        if len(self._used) > ADDRESSES:
            self._used.popitem(last=False)
        return math.ceil(over * 60 / self.per_minute) if over > 0 else 0
