"""One more position of every row through an LLM's body, without what a general forward does beside it.

For bodies of Llama's kind (``FAMILIES``): root mean square norms, rotary positions on halves of the heads,
gated feed-forward layers, and keys and values of every position. Others go on with ``read``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lalm.models.int8 import Int8Linear
from lalm.models.llm_body import keeps_every_position, read

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


def general_because(body: Any) -> str:
    """Why a body is read by its own forward at every position; "" where ``NextPosition`` reads it."""
    kind = body.config.model_type.removesuffix("_text")
    if kind not in FAMILIES:
        return f"the LLM is a '{kind}', none of {', '.join(FAMILIES)}"
    if not keeps_every_position(body):
        return "the LLM has sliding windows"
    rope = body.config.rope_parameters
    if rope["rope_type"] in ("dynamic", "longrope"):
        return f"the LLM's rotary positions, of type '{rope['rope_type']}', change with the length"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "only a part of the LLM's heads is rotated"
    return ""


class NextPosition:
    """Reads the next position of every row; what it needs of the body is looked up once.

    Adding or merging LoRA changes the body: make a new one afterwards.
    """

    def __init__(self, body: Any) -> None:
        self.body = body
        self.general = general_because(body)
        self._layers = [] if self.general else [_Layer(layer) for layer in body.layers]

    @torch.no_grad()
    def __call__(self, embeds: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """embeds: (B, D) of the next position; mask: (B, T), which of all positions so far are no padding,
        the next one included -> the body's output (B, D). ``cache`` grows by a position."""
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
        cos, sin = self.body.rotary_emb(embeds, positions)  # (B, 1, rotary)
        half = sin.shape[-1] // 2
        turns = cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)
        while len(cache.layers) < len(
            self._layers
        ):  # nothing was read before: layers come with their first keys
            cache.layers.append(cache.layer_class_to_replicate())
        seen = None if bool(mask.all()) else mask.bool()[:, None, None]  # (B, 1, 1, T)
        for layer, kept in zip(self._layers, cache.layers, strict=True):
            embeds = layer(embeds, turns, seen, kept)
        return self.body.norm(embeds)


class _Layer:
    """One layer of the body, on one position a row."""

    def __init__(self, layer: Any) -> None:
        attention, feed_forward = layer.self_attn, layer.mlp
        self._attention = attention
        self._size, self._group = attention.head_dim, attention.num_key_value_groups
        self._norm, self._norm_2 = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self._mix = _joint(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out, self._down, self._act = attention.o_proj, feed_forward.down_proj, feed_forward.act_fn
        self._gate_up = _joint(feed_forward.gate_proj, feed_forward.up_proj)
        self._head_norms = (attention.q_norm, attention.k_norm) if _normed(attention) else None
        self._turned = bool(vars(attention).get("use_rope", True))

    def __call__(
        self, hidden: Tensor, turns: tuple[Tensor, Tensor], seen: Tensor | None, kept: Any
    ) -> Tensor:
        """hidden: (B, D) -> (B, D); turns: cosine and signed sine (B, 1, rotary)."""
        rows = len(hidden)
        mixed = self._mix(self._norm(hidden)).view(rows, -1, self._size)  # (B, H + 2 G, d)
        pairs = mixed.shape[1] // (self._group + 2)  # G heads of keys and of values
        heads, values = mixed[:, :-pairs], mixed[:, -pairs:]
        if self._head_norms:
            heads = torch.cat(
                [
                    norm(part)
                    for norm, part in zip(
                        self._head_norms, heads.split([heads.shape[1] - pairs, pairs], 1), strict=True
                    )
                ],
                1,
            )
        if self._turned:
            cos, sin = turns
            heads = torch.addcmul(heads * cos, heads.roll(self._size // 2, -1), sin)
        keys, values = kept.update(heads[:, -pairs:, None], values[:, :, None])  # (B, G, T, d)
        # The queries that share keys are asked like queries of several positions.
        queries = heads[:, :-pairs].reshape(rows, pairs, self._group, self._size)
        found = nn.functional.scaled_dot_product_attention(
            queries, keys, values, seen, scale=self._attention.scaling
        )
        hidden = hidden + self._out(found.reshape(rows, -1))
        gate, up = self._gate_up(self._norm_2(hidden)).chunk(2, -1)
        return hidden + self._down(self._act(gate) * up)


def _normed(attention: nn.Module) -> bool:
    return "q_norm" in attention._modules


def _norm(norm: Any) -> Callable[[Tensor], Tensor]:
    """The norm in one call of torch, where it has the number format of its input."""
    weight, small, shape = norm.weight, norm.variance_epsilon, tuple(norm.weight.shape)
    if weight.dtype != torch.float32:
        return norm  # rounds between its steps
    return lambda hidden: nn.functional.rms_norm(hidden, shape, weight, small)


def _joint(*layers: nn.Module) -> Callable[[Tensor], Tensor]:
    """Layers that read the same rows: their results side by side, (B, D) -> (B, N)."""
    first = layers[0]
    if isinstance(first, Int8Linear) and all(
        isinstance(layer, Int8Linear) and layer.product is first.product for layer in layers
    ):
        return first.product
    return lambda rows: torch.cat([layer(rows) for layer in layers], -1)
