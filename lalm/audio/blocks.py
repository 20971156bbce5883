"""The form in which every decoder hands samples on: blocks at the source's own rate."""

from collections.abc import Generator
from typing import Any, TypeAlias

import numpy as np

BLOCK_FRAMES = 1 << 16
LEAST_FRAMES = 1 << 14

Array: TypeAlias = np.ndarray[Any, Any]
Blocks: TypeAlias = Generator[tuple[int, Array], None, None]  # rate in Hz, (n, C) float32


def as_float(values: Array) -> Array:
    """float32 copy of ``values``: floats unchanged, integers scaled by their full range to [-1, 1)."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    half = float(2 ** (8 * values.dtype.itemsize - 1))
    if values.dtype.kind == "i" and values.dtype.itemsize <= 2:  # exact in float32
        return values.astype(np.float32) * np.float32(1 / half)
    middle = half if values.dtype.kind == "u" else 0.0
    return ((values.astype(np.float64) - middle) / half).astype(np.float32)


def larger(blocks: Blocks) -> Blocks:
    """The same samples in blocks of some LEAST_FRAMES frames or more, where rate and channels stay."""
    held: list[Array] = []
    rate, count = 0, 0
    for block_rate, block in blocks:
        if held and (block_rate != rate or block.shape[1] != held[0].shape[1] or count >= LEAST_FRAMES):
            yield rate, np.concatenate(held) if len(held) > 1 else held[0]
            held, count = [], 0
        held.append(block)
        rate, count = block_rate, count + len(block)
    if held:
        yield rate, np.concatenate(held) if len(held) > 1 else held[0]


def narrow_scale(peak: int, used: int, bits: int) -> int:
    """What to multiply integers of ``bits`` by whose largest is ``peak``: narrow values in wide integers.

    16- or 24-bit samples that were stored in 32- or 64-bit integers without being shifted would be heard as
    silence. ``used`` are all samples or-ed: quiet samples that were shifted have no low bits.
    Example: ``narrow_scale(20_000, 0x7FFF, 32) == 65_536``.
    """
    if bits < 32 or not peak or not used & 0xFF:
        return 1
    for narrow in (16, 24, 32):
        if narrow < bits and peak <= 1 << (narrow - 1):
            return int(1 << (bits - narrow))
    return 1
