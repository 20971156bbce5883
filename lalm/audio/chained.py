"""Recordings that lie one after the other in a file, heard as one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from lalm.audio.asked import Asked
from lalm.audio.blocks import Blocks

SEVERAL = "several recordings lie in it one after the other; all are heard"

Part = tuple[float, Callable[[Asked], Blocks]]  # seconds, and what decodes it


def in_turn(parts: Sequence[Part], asked: Asked) -> Blocks:
    """Recordings that lie one after the other in a file, as one."""
    at_s = 0.0
    for seconds, blocks in parts:
        last = blocks is parts[-1][1]
        if at_s >= asked.end_s:
            return
        if last or at_s + seconds > asked.offset_s:
            offset_s = max(0.0, asked.offset_s - at_s)
            left_s = None if asked.duration_s is None else asked.end_s - at_s - offset_s
            part = replace(asked, offset_s=offset_s, duration_s=left_s, max_s=None, start_s=at_s)
            yield from blocks(part)
        at_s += seconds
