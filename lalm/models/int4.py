"""Weights in 4 bits for the steps of decoding: a quarter of bfloat16's bytes a token.

Each weight is one of 16 values, evenly spaced; 32 neighbours of a row share their spacing and their middle,
which are fitted to the weights alone, without data. Input rows are rounded to bfloat16. torch's product sums
a row in the same order beside any others, so its result is the same to the last bit alone and in a batch.
Prompts, beams and scores are of many rows, for which 8 bits are faster: they are read by the int8 weights.
"""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

import torch
from torch import Tensor, nn

GROUP = 32  # neighbours in a row that share a scale
CODES = 16
MIDDLE = 8  # the code that stands for a group's middle
# Steps of the scale from a group's lowest value to its highest: of more than 15 the outermost are cut off;
# fewer find the scale again of weights that were in 4 bits before, as half of a Q4_K_M's are.
STEPS = (15.0, 50 / 3, 14.0, 13.0)
AT_ONCE = 128  # rows of a matrix, so that what is tried stays in the cache
LOWER = 0.5  # this share of the layers is in 4 bits as a whole: above, they change more answers for each byte
CPUS = ("AVX2", "AVX512")  # for which torch has the product; elsewhere it is a plain loop

Codes = tuple[Tensor, Tensor]
"""Of a layer (N, K): two codes a byte (N, K / 2) uint8, and its groups' scales and middles (K / 32, N, 2)
bfloat16."""
Fine = Callable[[str, nn.Linear], Codes | None]
"""Gives the layer of a name its codes; None: it stays in 8 bits."""


def multiplies() -> bool:
    """Whether this CPU has a fast product of 4-bit weights."""
    capable = torch.backends.cpu.get_cpu_capability() in CPUS
    return capable and hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")


def takes(name: str, layers: int, shape: Sequence[int]) -> bool:
    """Whether a linear layer of a body with so many layers is in 4 bits: those of the lower half, and the
    last of each feed-forward part."""
    found = re.search(r"layers\.(\d+)\.", name)
    if found is None or shape[0] % CODES or shape[1] % GROUP:
        return False
    return int(found[1]) < LOWER * layers or "down_proj" in name


def fitted(weight: Tensor) -> Codes:
    """weight: (N, K) float -> its codes, whose values are near the weights' in the sense of least squares."""
    codes, groups = zip(*(_fitted(rows.float()) for rows in weight.split(AT_ONCE)), strict=True)
    whole = torch.cat(codes)
    return whole[:, ::2] | whole[:, 1::2] << 4, torch.cat(groups).transpose(0, 1).contiguous()


def _fitted(rows: Tensor) -> tuple[Tensor, Tensor]:
    """rows: (n, K) float32 -> codes (n, K) uint8, scales and middles (n, K / 32, 2) bfloat16."""
    weights = rows.view(len(rows), -1, GROUP)
    low, high = weights.amin(-1, keepdim=True), weights.amax(-1, keepdim=True)
    best: list[Tensor] = []
    for steps in STEPS:
        scale = _short(((high - low) / steps).clamp(min=1e-8))
        middle = _short(low + (MIDDLE + max(steps - CODES + 1, 0) / 2) * scale)
        codes = _codes(weights, scale, middle)
        best = _better(best, weights, scale, middle, codes)
        # The same codes with the scale and middle that are best for them.
        mean, own = codes.mean(-1, keepdim=True), weights.mean(-1, keepdim=True)
        spread = (codes - mean).square().sum(-1, keepdim=True).clamp(min=1e-8)
        scale = ((codes - mean) * weights).sum(-1, keepdim=True) / spread
        scale = _short(scale.clamp(min=1e-8))
        middle = _short(own - (mean - MIDDLE) * scale)
        best = _better(best, weights, scale, middle, _codes(weights, scale, middle))
    _, scale, middle, codes = best
    return codes.to(torch.uint8).view(rows.shape), torch.cat([scale, middle], -1).bfloat16()


def _short(values: Tensor) -> Tensor:
    """As they are kept."""
    return values.bfloat16().float()


def _codes(weights: Tensor, scale: Tensor, middle: Tensor) -> Tensor:
    return ((weights - middle) / scale).add_(MIDDLE).round_().clamp_(0, CODES - 1)


def _better(
    best: list[Tensor], weights: Tensor, scale: Tensor, middle: Tensor, codes: Tensor
) -> list[Tensor]:
    """The better of two for each group: squared error, scale, middle, codes."""
    error = ((codes - MIDDLE) * scale + middle - weights).square().sum(-1, keepdim=True)
    found = [error, scale, middle, codes]
    if not best:
        return found
    nearer = error < best[0]
    return [torch.where(nearer, new, old) for new, old in zip(found, best, strict=True)]


def plain(codes: Codes) -> Tensor:
    """The weights that codes stand for, (N, K) float32."""
    numbers, groups = unpacked(codes[0]), codes[1].float().transpose(0, 1)[..., None, :]  # (N, g, 1, 2)
    grouped = numbers.view(len(numbers), -1, GROUP) - float(MIDDLE)
    return (grouped * groups[..., 0] + groups[..., 1]).view(numbers.shape)


def unpacked(codes: Tensor) -> Tensor:
    """Two a byte (N, K / 2) uint8 -> (N, K) int32."""
    whole = torch.empty(len(codes), codes.shape[1], 2, dtype=torch.int32)
    whole[..., 0], whole[..., 1] = codes & CODES - 1, codes >> 4
    return whole.view(len(codes), -1)


class Int4Product(nn.Module):
    """Products of rows with the 4-bit weights of one layer, or of several that read the same rows."""

    bias: Tensor | None

    def __init__(self, parts: Sequence[Codes], bias: Tensor | None, packing: Executor) -> None:
        """parts: of the layers, N rows in all; bias: (N,) float32. ``packing`` lays them out for this CPU in
        the background; products wait for it."""
        super().__init__()
        self.in_features = 2 * parts[0][0].shape[1]
        self.register_buffer("bias", bias)
        self._groups = torch.cat([groups for _, groups in parts], 1)
        self._packed: Future[Tensor] = packing.submit(_packed, [codes for codes, _ in parts])

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: (R, K) -> (R, N) float32."""
        weights = (self._packed.result(), GROUP, self._groups)
        found = torch.ops.aten._weight_int4pack_mm_for_cpu(inputs.bfloat16(), *weights)
        return found.float() if self.bias is None else found + self.bias

    def wait(self) -> None:
        """Until its weights are laid out."""
        self._packed.result()


def _packed(codes: Sequence[Tensor]) -> Tensor:
    found: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
        torch.cat([unpacked(part) for part in codes]), 1
    )
    return found
