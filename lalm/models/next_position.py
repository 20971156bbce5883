"""One more position of every row through an LLM's body, without what a general forward does beside it.

For bodies of Llama's kind (``FAMILIES``): root mean square norms, rotary positions on halves of the heads,
gated feed-forward layers, and keys and values of every position. Others go on with ``read``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lalm.models.int4 import Int4Product
from lalm.models.joint_layers import joint
from lalm.models.llm_body import keeps_every_position, read
from lalm.models.packed_half import HALF, ROWS

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


def general_because(body: Any) -> str:
    """Why a body is read by its own forward at every position; "" where ``NextPosition`` reads it."""
    if because := of_another_family(body.config):
        return because
    if not keeps_every_position(body):
        return "the LLM has sliding windows"
    rope = body.config.rope_parameters
    if rope["rope_type"] in ("dynamic", "longrope"):
        return f"the LLM's rotary positions, of type '{rope['rope_type']}', change with the length"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "only a part of the LLM's heads is rotated"
    return ""


def of_another_family(config: Any) -> str:
    """That an LLM's config is of none of ``FAMILIES``; "" where it is."""
    kind = config.model_type.removesuffix("_text")
    return "" if kind in FAMILIES else f"the LLM is a '{kind}', none of {', '.join(FAMILIES)}"


class NextPosition:
    """Reads the next position of every row; what it needs of the body is looked up once.

    ``fixed``: every row gets the same bits beside any others, as alone. Products of half precision on a CPU
    round differently with the number of rows, so they are always of ``ROWS`` rows, and each row attends by
    itself, as it does where layers are in 4 bits. Adding, training or merging LoRA changes the body: make a
    new one afterwards.
    """

    def __init__(self, body: Any) -> None:
        self.body = body
        self.general = general_because(body)
        in_4_bits = any(isinstance(module, Int4Product) for module in body.modules())
        self._layers = [] if self.general else [_Layer(layer, in_4_bits) for layer in body.layers]
        self._in_blocks = not self.general and _is_half_on_cpu(body.norm.weight)
        self.fixed = self._in_blocks or (in_4_bits and not self.general)

    def blocks(self, work: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """rows: (B, n) -> what ``work`` makes of them, (B, m), block by block of half precision."""
        if not self._in_blocks:
            return work(rows)
        return torch.cat([work(block) for block in self._cut(rows)])[: len(rows)]

    @torch.no_grad()
    def __call__(self, embeds: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """embeds: (B, D) of the next position; mask: (B, T), which of all positions so far are no padding (on
        the left), the next one included -> the body's output (B, D). ``cache`` grows by a position."""
        positions = mask.sum(1, keepdim=True) - 1  # (B, 1)
        if self.general:
            output = read(
                self.body,
                inputs_embeds=embeds[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            hidden: Tensor = output.last_hidden_state[:, -1]
            return hidden
        while len(cache.layers) < len(
            self._layers
        ):  # nothing was read before: layers come with their first keys
            cache.layers.append(cache.layer_class_to_replicate())
        seen: Tensor | list[int] | None
        if self.fixed:
            seen = (mask.shape[1] - 1 - positions[:, 0]).tolist()
        else:
            seen = None if bool(mask.all()) else mask.bool()[:, None, None]  # (B, 1, 1, T)
        blocks = self._cut(embeds)
        turns = [self._turns(*both) for both in zip(blocks, self._cut(positions), strict=True)]
        for layer, kept in zip(self._layers, cache.layers, strict=True):
            blocks = layer(blocks, turns, seen, kept, len(embeds))
        return _whole([self.body.norm(block) for block in blocks], len(embeds))

    def _cut(self, rows: Tensor) -> Sequence[Tensor]:
        """rows: (B, n) -> blocks of ``ROWS`` rows, the last filled with zeros, or one of all."""
        return _padded(rows).split(ROWS) if self._in_blocks else [rows]

    def _turns(self, embeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions: (B, 1) -> cosine and signed sine (B, 1, rotary)."""
        cos, sin = self.body.rotary_emb(embeds, positions)
        half = sin.shape[-1] // 2
        return cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)


def _is_half_on_cpu(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in HALF


def _padded(rows: Tensor) -> Tensor:
    """rows: (B, n) -> (a multiple of ``ROWS``, n), zeros last."""
    return nn.functional.pad(rows, (0, 0, 0, -len(rows) % ROWS))


def _whole(blocks: Sequence[Tensor], count: int) -> Tensor:
    """The first ``count`` rows of all blocks."""
    return (torch.cat(list(blocks)) if len(blocks) > 1 else blocks[0])[:count]


class _Layer:
    """One layer of the body, on one position a row."""

    def __init__(self, layer: Any, apart: bool) -> None:
        attention, feed_forward = layer.self_attn, layer.mlp
        self._attention = attention
        self._size, self._group = attention.head_dim, attention.num_key_value_groups
        self._norm, self._norm_2 = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self._mix = joint(attention.q_proj, attention.k_proj, attention.v_proj, apart=apart)
        self._out = joint(attention.o_proj, apart=apart)
        self._down = joint(feed_forward.down_proj, apart=apart)
        self._act = feed_forward.act_fn.forward
        self._gate_up = joint(feed_forward.gate_proj, feed_forward.up_proj, apart=apart)
        self._head_norms = (attention.q_norm, attention.k_norm) if _normed(attention) else None
        self._turned = bool(vars(attention).get("use_rope", True))

    def __call__(
        self,
        blocks: Sequence[Tensor],
        turns: Sequence[tuple[Tensor, Tensor]],
        seen: Tensor | list[int] | None,
        kept: Any,
        count: int,
    ) -> list[Tensor]:
        """blocks: (b, D) each, ``count`` rows and padding -> the same; turns: those of each block. ``seen``:
        the mask of keys (B, 1, 1, T), or the first of each row, which then attends by itself."""
        asked = [self._heads(block, *own) for block, own in zip(blocks, turns, strict=True)]
        heads, values = (_whole(parts, count) for parts in zip(*asked, strict=True))
        pairs = values.shape[1]  # G heads of keys and of values
        queries, own = heads.split([heads.shape[1] - pairs, pairs], 1)
        keys, values = kept.update(own.unsqueeze(2), values.unsqueeze(2))  # (B, G, T, d)
        # The queries that share keys are asked like queries of several positions.
        queries = queries.reshape(count, pairs, self._group, self._size)
        found = _attended(queries, keys, values, seen, self._attention.scaling).reshape(count, -1)
        parts = [found] if len(found) == len(blocks[0]) else _padded(found).split(len(blocks[0]))
        return [self._rest(block, part) for block, part in zip(blocks, parts, strict=True)]

    def _heads(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """hidden: (b, D) -> queries and keys (b, H + G, d), turned, and values (b, G, d)."""
        mixed = self._mix(self._norm(hidden)).view(hidden.shape[0], -1, self._size)  # (b, H + 2 G, d)
        pairs = mixed.shape[1] // (self._group + 2)
        heads, values = mixed.split([mixed.shape[1] - pairs, pairs], 1)
        if self._head_norms:
            split = heads.split([heads.shape[1] - pairs, pairs], 1)
            heads = torch.cat([norm(part) for norm, part in zip(self._head_norms, split, strict=True)], 1)
        if self._turned:
            heads = torch.addcmul(heads * cos, heads.roll(self._size // 2, -1), sin)
        return heads, values

    def _rest(self, hidden: Tensor, found: Tensor) -> Tensor:
        """hidden: (b, D); found: (b, H d) by attention -> (b, D)."""
        hidden = hidden + self._out(found)
        gate, up = self._gate_up(self._norm_2(hidden)).chunk(2, -1)
        return hidden + self._down(self._act(gate).mul_(up))


def _attended(queries: Tensor, keys: Tensor, values: Tensor, seen: Any, scale: float) -> Tensor:
    """queries: (B, G, n, d); keys, values: (B, G, T, d); seen as ``_Layer`` takes it -> (B, G, n, d)."""
    attend = nn.functional.scaled_dot_product_attention
    if not isinstance(seen, list):
        return attend(queries, keys, values, seen, scale=scale)
    if seen == [0]:
        return attend(queries, keys, values, scale=scale)
    each = zip(queries.split(1), keys.split(1), values.split(1), seen, strict=True)
    return torch.cat([attend(q, k[:, :, first:], v[:, :, first:], scale=scale) for q, k, v, first in each])


def _normed(attention: nn.Module) -> bool:
    return "q_norm" in attention._modules


def _norm(norm: Any) -> Callable[[Tensor], Tensor]:
    """The norm in one call of torch, where it has the number format of its input."""
    weight, small, shape = norm.weight, norm.variance_epsilon, tuple(norm.weight.shape)
    if weight.dtype != torch.float32:
        forward: Callable[[Tensor], Tensor] = norm.forward  # rounds between its steps
        return forward
    return lambda hidden: nn.functional.rms_norm(hidden, shape, weight, small)
