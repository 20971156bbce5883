"""Sequence packing: the rows of a training batch in one row without padding.

Attention stays inside each row by its positions alone, which begin at 0 again: transformers makes the
block-diagonal mask of them (sdpa, eager) or flash attention's lengths. Left to do here is to say so, and to
check at the start of a run that the LLM obeys.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

from lalm.errors import LalmError
from lalm.models.modeling import IGNORE_INDEX

DEVIATION = 0.02  # of the largest hidden number: far less than a word of another row
ROUNDED = 0.2  # between products of other shapes: bfloat16 gives SmolLM2 .04, a wrong position more


class PackingError(LalmError, ValueError):
    """An LLM whose rows cannot be packed; the text names it."""


def pack(batch: Mapping[str, Tensor]) -> BatchFeature:
    """A labelled batch of B rows (B, L) as one row (1, S) of its S real tokens, with position_ids (1, S).

    Audio keeps its place in the reading order. The first token of a row is no longer learned: what stands
    before it is another row.
    """
    real = batch["attention_mask"].bool()  # (B, L)
    positions = (real.cumsum(1) - 1)[real]  # (S,)
    packed = {name: tensor for name, tensor in batch.items() if name != "attention_mask"}
    packed["input_ids"] = batch["input_ids"][real][None]
    packed["position_ids"] = positions[None]
    packed["labels"] = batch["labels"][real].masked_fill(positions == 0, IGNORE_INDEX)[None]
    return BatchFeature(packed)


@torch.no_grad()
def check_packable(body: Any) -> None:
    """Raises PackingError unless a row gives the same hidden states whatever stands before it, and those that
    it gives alone.

    ``body``: an LLM without its head. It is read three times over a handful of tokens, in eval mode.
    """
    kind = body.config.model_type
    if "position_ids" not in inspect.signature(body.forward).parameters:
        raise PackingError(
            f"optim.packing: the LLM ({kind}) takes no positions, so its rows cannot be packed"
        )
    training = body.training
    body.eval()
    device = next(body.parameters()).device
    bounds = (1, 6), (2, 7), (6, 9)
    first, other, last = (torch.arange(*both, device=device) for both in bounds)
    positions = torch.cat([torch.arange(5, device=device), torch.arange(3, device=device)])

    def read(row: Tensor, where: Tensor) -> Tensor:
        found: Tensor = body(input_ids=row[None], position_ids=where[None], use_cache=False).last_hidden_state
        return found[0, -len(last) :]

    behind, behind_other = (read(torch.cat([row, last]), positions) for row in (first, other))
    alone = read(last, positions[-len(last) :])  # (3, D)
    body.train(training)
    largest = alone.abs().max()
    mixed = (behind - behind_other).abs().max() > DEVIATION * largest
    if mixed or (behind - alone).abs().max() > ROUNDED * largest:
        raise PackingError(f"optim.packing: the LLM ({kind}) mixes rows that are packed: train without it")
