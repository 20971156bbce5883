"""Weights in 8 bits as ONNX Runtime's MatMulNBits reads them: blocks of a row that share a scale.

It rounds the rows that they are multiplied with to 8 bits, block by block, so that a product of two blocks is
one of integers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

LENGTH = 128  # neighbours in a row that share a scale: ONNX Runtime's products of long blocks are faster
AT_ONCE = 128  # rows of a matrix, so that they stay in the cache
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Blocks:
    """A matrix (N, K) in B blocks a row, the last filled with zeros; the code 128 stands for 0."""

    codes: Array  # (N, B, LENGTH) uint8
    scales: Array  # (N, B) float32


def int8_blocks(weight: Tensor) -> Blocks:
    """weight: (N, K) float32, a scale for the largest of each block."""
    filled = torch.nn.functional.pad(weight, (0, -weight.shape[1] % LENGTH))
    parts = [_coded(rows.unflatten(1, (-1, LENGTH))) for rows in filled.split(AT_ONCE)]
    codes, scales = zip(*parts, strict=True)
    return Blocks(torch.cat(codes).numpy(), torch.cat(scales).numpy())


def _coded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """rows: (R, B, LENGTH) -> codes of the same shape, uint8, and scales (R, B)."""
    scale = rows.abs().amax(-1).clamp(min=1e-12) / 127
    return (rows / scale[..., None]).round_().add_(128).to(torch.uint8), scale
