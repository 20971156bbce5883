"""Rate limit per client address: a bucket of one minute's requests that refills steadily."""

import math
import time
from collections import OrderedDict

MAX_ADDRESSES = 10_000  # remembered; those that asked least recently are forgotten first


class RateLimiter:
    """``RateLimiter(60).wait_s("10.0.0.7")`` counts a request; with ``per_minute`` 0 there is no limit."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        # by address: requests in the bucket, and when that was measured
        self._used: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """0 if the address may send a request now, else the seconds until it may."""
        if not self.per_minute:
            return 0
        now = time.monotonic()
        used, then = self._used.pop(address, (0.0, now))
        used = max(0.0, used - (now - then) * self.per_minute / 60)
        over = used + 1 - self.per_minute
        self._used[address] = (used if over > 0 else used + 1), now
        if len(self._used) > MAX_ADDRESSES:
            self._used.popitem(last=False)
        return math.ceil(over * 60 / self.per_minute) if over > 0 else 0
