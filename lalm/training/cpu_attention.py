"""Attention of an LLM that trains on a CPU: in float32, and the rows of a packed batch each by itself.

torch's bfloat16 attention takes several times as long backward on a CPU as its float32 one, and both compute
all of a packed batch's square, most of which the mask hides (benchmarks/training_attention.py). The same is
computed, but rounded otherwise. Without gradients, and on other devices, transformers' own is used.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "lalm_cpu_training"


def train_on_cpu(llm: Any) -> bool:
    """Let the LLM attend so from now on; False where it does not attend by transformers' ``sdpa``."""
    if llm.config._attn_implementation != "sdpa" or next(llm.parameters()).device.type != "cpu":
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
    if not query.requires_grad or query.device.type != "cpu":
        return sdpa_attention_forward(
            module, *states, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    states = (query.float(), key.float(), value.float())
    lengths = packed_lengths(attention_mask, more.get("position_ids"), key.shape[2])
    if lengths is None:
        seen, _ = sdpa_attention_forward(
            module, *states, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return seen.to(query.dtype), None
    rows = [
        scaled_dot_product_attention(q, k, v, None, dropout, True, scale=scaling, enable_gqa=True)
        for q, k, v in zip(*(state.split(lengths, 2) for state in states), strict=True)
    ]
    return torch.cat(rows, 2).transpose(1, 2).to(query.dtype).contiguous(), None


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
