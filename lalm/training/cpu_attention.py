"""Attention of an LLM that trains on a CPU: in float32, and each row of a batch by itself.

torch's bfloat16 attention takes several times as long backward on a CPU as its float32 one, and with a mask
both compute what it hides: most of a packed batch's square (benchmarks/training_attention.py). The same is
computed, but rounded otherwise; with and without gradients, so that a reference's probabilities compare with
the learner's. Other devices, and tokens that go on from kept keys and values, have transformers' attention.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "lalm_cpu_training"


def train_on_cpu(llm: Any) -> bool:
    """Let the LLM attend so from now on; False where it does not attend by transformers' ``sdpa``."""
    if llm.config._attn_implementation != "sdpa" or next(llm.parameters()).device.type != "cpu":
        return False
    if not llm._can_set_attn_implementation():  # Falcon's layers were made for one (transformers warns else)
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    llm.set_attn_implementation(NAME)
    return True


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' signature. query: (B, H, L, D); key, value: (B, H / G, L, D) -> (B, L, H, D)."""
    states = (query, key, value)
    if query.device.type != "cpu" or query.shape[2] != key.shape[2]:
        return sdpa_attention_forward(
            module, *states, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    states = (query.float(), key.float(), value.float())
    plain = (
        more.get("position_bias") is None and more.get("s_aux") is None
    )  # the scores are the products alone
    packed = packed_lengths(attention_mask, more.get("position_ids"), key.shape[2]) if plain else None
    padded = padded_lengths(attention_mask) if plain and not packed else None
    if packed is None and padded is None:
        seen, _ = sdpa_attention_forward(
            module, *states, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return seen.to(query.dtype), None
    parts = [
        state.split(packed, 2)
        if packed
        else [row[None, :, :size] for row, size in zip(state.unbind(), padded or [], strict=True)]
        for state in states
    ]
    rows = [
        scaled_dot_product_attention(q, k, v, None, dropout, True, scale=scaling, enable_gqa=True)
        for q, k, v in zip(*parts, strict=True)
    ]
    if padded:
        longest = query.shape[2]
        rows = [pad(row, (0, 0, 0, longest - row.shape[2])) for row in rows]
    seen = torch.cat(rows, 2 if packed else 0)
    return seen.transpose(1, 2).to(query.dtype).contiguous(), None


def packed_lengths(mask: Tensor | None, positions: Tensor | None, keys: int) -> list[int] | None:
    """How long the rows are of which one packed row consists; None if it is not one, or if the mask shows or
    hides anything else than what is to come and other rows (a sliding window, say).

    mask: (1, 1, L, L) bool, true where something is seen; positions: (1, L), from 0 again in each row.
    """
    if mask is None or mask.dtype != torch.bool or positions is None or positions.shape != (1, keys):
        return None
    starts = (positions[0] == 0).nonzero().flatten().tolist()
    if mask.shape != (1, 1, keys, keys) or not starts or starts[0] != 0:
        return None
    lengths = [end - start for start, end in zip(starts, [*starts[1:], keys], strict=True)]
    causal = sum(length * (length + 1) // 2 for length in lengths)
    return lengths if int(mask.sum()) == causal else None


def padded_lengths(mask: Tensor | None) -> list[int] | None:
    """How long the rows of a batch are that was padded on the right; None if the mask says anything else.

    mask: (B, 1, L, L) bool, true where something is seen; what padding sees is never used.
    """
    if mask is None or mask.dtype != torch.bool or mask.dim() != 4 or mask.shape[2] != mask.shape[3]:
        return None
    lengths = mask[:, 0, -1].sum(1).tolist()  # the last position sees all that is real
    size = mask.shape[3]
    seen = sum(length * (length + 1) // 2 + (size - length) * length for length in lengths)
    if mask.shape[1] != 1 or min(lengths) < 1 or int(mask.sum()) != seen:
        return None
    ends = torch.tensor(lengths, device=mask.device)[:, None]
    real = torch.arange(size, device=mask.device) < ends  # (B, L)
    return lengths if bool((mask[:, 0, -1] == real).all()) else None
