"""Cross-entropy in chunks, so that the logits of all positions never exist at once."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 2**26  # 256 MB in float32, and as much for each step of the softmax


def summed_cross_entropy(
    logits: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, vocabulary: int
) -> Tensor:
    """Sum over positions. hidden: (P, D); targets: (P,) int64; ``logits``: (P, D) -> (P, V)."""

    def part(hidden: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits(hidden), targets, reduction="sum")

    return summed_in_parts(part, vocabulary, hidden, targets)


def summed_in_parts(part: Callable[..., Tensor], vocabulary: int, *positions: Tensor) -> Tensor:
    """The sum of what ``part`` makes of ``positions``; see ``in_parts``."""
    found = in_parts(part, vocabulary, *positions)
    return found[0] if len(found) == 1 else torch.stack(found).sum()


def in_parts(part: Callable[..., Tensor], vocabulary: int, *positions: Tensor) -> list[Tensor]:
    """What ``part`` makes of tensors with a row a position, (P, ...) each.

    Where logits of all positions are more than ``LOGITS_AT_ONCE`` numbers, it is made in pieces, each again
    going back.
    """
    size = max(1, LOGITS_AT_ONCE // vocabulary)
    if len(positions[0]) <= size:
        return [part(*positions)]
    pieces = zip(*(tensor.split(size) for tensor in positions), strict=True)
    return [checkpoint(part, *piece, use_reentrant=False) for piece in pieces]


def row_numbers(labels: Tensor, position_ids: Tensor | None = None) -> Tensor:
    """Which conversation each position belongs to, (B, L); position_ids tell those packed in one row."""
    if position_ids is not None:
        return (position_ids == 0).cumsum(1) - 1
    return torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)
