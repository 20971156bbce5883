"""Weights in 8 or 4 bits as ONNX Runtime's MatMulNBits reads them: blocks of a row that share a scale.

It rounds the rows that they are multiplied with to 8 bits, block by block, so that a product of two blocks is
one of integers: therefore what a block's values count from is a whole code.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Neighbours in a row that share a scale, by bits: ONNX Runtime's products of long blocks are faster.
LENGTHS = {8: 128, 4: 32}
AT_ONCE = 128  # rows of a matrix, so that what is tried stays in the cache
# Steps of the scale from a block's lowest value to its highest, which are tried: of more than 15 the
# outermost are cut off.
STEPS = (50 / 3, 15.0, 14.0)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Blocks:
    """A matrix (N, K) in B blocks a row of length n, the last filled with zeros."""

    bits: int
    codes: Array  # (N, B, n bits / 8) uint8; of 4 bits two a byte, the first in its lower half
    scales: Array  # (N, B) float32
    zeros: Array | None  # the codes that stand for 0, (N, B / 2) uint8, two a byte; None: 128 in all blocks


def int8_blocks(weight: Tensor) -> Blocks:
    """weight: (N, K) float32, a scale for the largest of each block."""
    codes, scales = zip(*(_int8(rows) for rows in _cut(weight, LENGTHS[8])), strict=True)
    return Blocks(8, torch.cat(codes).numpy(), torch.cat(scales).numpy(), None)


def int4_blocks(weight: Tensor) -> Blocks:
    """weight: (N, K) float32, by least squares."""
    codes, scales, zeros = zip(*(_int4(rows) for rows in _cut(weight, LENGTHS[4])), strict=True)
    packed = (_two_a_byte(torch.cat(part)).numpy() for part in (codes, zeros))
    return Blocks(4, next(packed), torch.cat(scales).numpy(), next(packed))


def _cut(weight: Tensor, length: int) -> list[Tensor]:
    """weight: (N, K) -> (R, B, n) each, n being that length."""
    filled = torch.nn.functional.pad(weight, (0, -weight.shape[1] % length))
    return [rows.unflatten(1, (-1, length)) for rows in filled.split(AT_ONCE)]


def _int8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """rows: (R, B, n) -> codes of the same shape, uint8, and scales (R, B)."""
    scale = rows.abs().amax(-1).clamp(min=1e-12) / 127
    return (rows / scale[..., None]).round_().add_(128).to(torch.uint8), scale


def _int4(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """rows: (R, B, n) -> codes of the same shape, uint8; scales and codes of zero (R, B)."""
    low, high = (end(rows, -1, keepdim=True) for end in (torch.amin, torch.amax))
    low, high = low.clamp(max=0), high.clamp(min=0)
    best: list[Tensor] = []
    for steps in STEPS:
        scale = ((high - low) / steps).clamp(min=1e-12)
        middle = (-low / scale).round_()
        for zero in (middle, middle + 1, middle - 1):
            zero = zero.clamp(0, 15)
            numbers = (rows / scale).round_().add_(zero).clamp_(0, 15).sub_(zero)
            # The scale that is best for these codes, and the codes that are for that.
            fitted = (numbers * rows).sum(-1, keepdim=True) / numbers.square().sum(-1, keepdim=True)
            fitted = fitted.nan_to_num_(0.0).clamp(min=1e-12)
            numbers = (rows / fitted).round_().add_(zero).clamp_(0, 15).sub_(zero)
            error = (numbers * fitted - rows).square().sum(-1, keepdim=True)
            found = [error, fitted, zero, numbers + zero]
            if best:
                nearer = error < best[0]
                found = [torch.where(nearer, new, old) for new, old in zip(found, best, strict=True)]
            best = found
    _, scale, zero, codes = best
    return codes.to(torch.uint8), scale[..., 0], zero[..., 0].to(torch.uint8)


def _two_a_byte(codes: Tensor) -> Tensor:
    """codes: (..., n) uint8 below 16 -> (..., n / 2), the first of two in the lower half."""
    filled = torch.nn.functional.pad(codes, (0, codes.shape[-1] % 2))
    return filled[..., ::2] | filled[..., 1::2] << 4
