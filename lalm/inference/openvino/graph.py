"""An LLM of Llama's kind as an OpenVINO graph, LoRA merged: embeddings in, the last position's logits out.

Keys and values are the graph's own state, written the way in which OpenVINO's CPU plugin recognises a cache
(ReadValue, Gather by ``beam_idx``, Concat, Assign, ScaledDotProductAttention) and products of packed weights
(Convert, Multiply, MatMul).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import torch
from openvino import opset13 as op
from openvino.op.util import Variable, VariableInfo
from torch import Tensor, nn

from lalm.errors import LalmError
from lalm.models.int8 import quantise
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.next_position import general_because, of_another_family

NEVER = np.float32(np.finfo(np.float16).min)  # added to the score of a key that is not looked at
Node = Any  # openvino.Node and its Output, which the operations take alike


class GraphError(LalmError, ValueError):
    """A model whose LLM has no graph here; the text says why."""


def check_config(config: Any, name: str) -> None:
    """Raise GraphError for an LLM (its config) of a kind that is not written here."""
    because = of_another_family(config)
    if not because and config.hidden_act != "silu":
        because = f"the LLM has the activation '{config.hidden_act}', not SiLU"
    if because:
        raise _refusal(name, because)


def check_llm(model: AudioLMForConditionalGeneration, name: str) -> None:
    """The same, and for what its config does not say."""
    body: Any = model.model.language_model
    check_config(body.config, name)
    because = general_because(body)
    if not because and model._tail is not None and model._tail.is_more_than(model.lm_head):
        because = "its head is more than one product"
    if because:
        raise _refusal(name, because)


def _refusal(name: str, because: str) -> GraphError:
    return GraphError(f"'{name}' does not run in OpenVINO here, because {because}: leave --engine out")


@torch.no_grad()
def graph_of(model: AudioLMForConditionalGeneration, kind: str) -> Any:
    """The graph of the model's LLM, an ``openvino.Model``; weights are "int8", "float16" or "float32".

    Inputs: "inputs_embeds" (1, L, D) float32, "position_ids" (1, L) int64, and "beam_idx" (1,) int32, which
    is 0. Output: logits (1, 1, V) float32.
    """
    return _Graph(model.model.language_model, model.lm_head, kind).whole()


class _Graph:
    """Writes a graph from the modules of an LLM."""

    def __init__(self, body: Any, head: Any, kind: str) -> None:
        config = body.config
        self.body, self.head, self.packed = body, head, PACKED[kind]
        self.heads, self.pairs = config.num_attention_heads, config.num_key_value_heads
        self.size = body.layers[0].self_attn.head_dim
        self.embeds = op.parameter([1, -1, config.hidden_size], np.float32, name="inputs_embeds")
        self.positions = op.parameter([1, -1], np.int64, name="position_ids")
        self.beam = op.parameter([1], np.int32, name="beam_idx")
        self.kept: list[Node] = []  # what ends in the state

    def whole(self) -> Any:
        """Embeddings to logits."""
        turns, mask = self._turns(), self._mask()
        hidden: Node = self.embeds
        for number, layer in enumerate(self.body.layers):
            found = self._attended(layer.self_attn, _norm(hidden, layer.input_layernorm), turns, mask, number)
            hidden = op.add(hidden, found)
            hidden = op.add(hidden, self._fed(layer.mlp, _norm(hidden, layer.post_attention_layernorm)))
        last = op.gather(hidden, _constant([-1]), _constant(1))
        logits = self._linear(_norm(last, self.body.norm), self.head)
        inputs = [self.embeds, self.positions, self.beam]
        return openvino.Model([op.result(logits)], self.kept, inputs, "llm")

    def _turns(self) -> tuple[Node, Node]:
        """Cosine and sine of every position, (1, 1, L, d)."""
        rotary = self.body.rotary_emb
        steps = _constant(rotary.inv_freq.float().numpy()[None, None])  # (1, 1, d / 2)
        positions = op.convert(op.unsqueeze(self.positions, _constant([2])), "f32")
        half = op.multiply(positions, steps)
        angles = op.unsqueeze(op.concat([half, half], -1), _constant([1]))
        scaling = _constant(np.float32(rotary.attention_scaling))
        return op.multiply(op.cos(angles), scaling), op.multiply(op.sin(angles), scaling)

    def _mask(self) -> Node:
        """What is added to the scores of the keys up to the last position, (1, 1, L, T)."""
        count = op.add(op.reduce_max(self.positions, _constant([0, 1])), _constant(np.int64(1)))
        keys = op.range(_constant(np.int64(0)), count, _constant(np.int64(1)), "i64")
        seen = op.less_equal(
            op.unsqueeze(keys, _constant([0, 1])), op.unsqueeze(self.positions, _constant([2]))
        )
        return op.unsqueeze(op.select(seen, _constant(np.float32(0)), _constant(NEVER)), _constant([1]))

    def _attended(
        self, attention: Any, hidden: Node, turns: tuple[Node, Node], mask: Node, number: int
    ) -> Node:
        """hidden: (1, L, D) -> the same."""
        queries = self._split(self._linear(hidden, attention.q_proj), self.heads)
        keys = self._split(self._linear(hidden, attention.k_proj), self.pairs)
        values = self._split(self._linear(hidden, attention.v_proj), self.pairs)
        if "q_norm" in attention._modules:
            queries, keys = _norm(queries, attention.q_norm), _norm(keys, attention.k_norm)
        if vars(attention).get("use_rope", True):
            queries, keys = self._turned(queries, *turns), self._turned(keys, *turns)
        keys, values = self._cached(keys, f"keys.{number}"), self._cached(values, f"values.{number}")
        scale = _constant(np.float32(attention.scaling))
        found = op.scaled_dot_product_attention(
            queries, self._shared(keys), self._shared(values), mask, scale
        )
        found = op.transpose(found, _constant([0, 2, 1, 3]))
        joined = op.reshape(found, _constant([0, 0, self.heads * self.size]), True)
        return self._linear(joined, attention.o_proj)

    def _split(self, rows: Node, count: int) -> Node:
        """rows: (1, L, count d) -> (1, count, L, d)."""
        parted = op.reshape(rows, _constant([0, 0, count, self.size]), True)
        return op.transpose(parted, _constant([0, 2, 1, 3]))

    def _turned(self, heads: Node, cos: Node, sin: Node) -> Node:
        """heads: (1, H, L, d) by their positions."""
        first, second = op.split(heads, _constant(-1), 2).outputs()
        crossed = op.concat([op.multiply(second, _constant(np.float32(-1))), first], -1)
        return op.add(op.multiply(heads, cos), op.multiply(crossed, sin))

    def _cached(self, new: Node, name: str) -> Node:
        """new: (1, G, L, d) behind what the state of that name holds -> (1, G, T, d), which it holds then."""
        about = VariableInfo()
        about.data_shape = openvino.PartialShape([-1, self.pairs, -1, self.size])
        about.data_type, about.variable_id = openvino.Type.f32, name
        state = Variable(about)
        nothing = op.broadcast(_constant(np.float32(0)), _constant([1, self.pairs, 0, self.size]))
        before = op.gather(op.read_value(nothing, state), self.beam, _constant(0))
        both = op.concat([before, new], 2)
        self.kept.append(op.assign(both, state))
        return both

    def _shared(self, heads: Node) -> Node:
        """heads: (1, G, T, d), each for the queries that share it -> (1, H, T, d)."""
        if self.heads == self.pairs:
            return heads
        apart = op.unsqueeze(heads, _constant([2]))
        shape = op.shape_of(apart, "i64")
        before, after = (op.gather(shape, _constant(part), _constant(0)) for part in ([0, 1], [3, 4]))
        wanted = op.concat([before, _constant([self.heads // self.pairs]), after], 0)
        repeated = op.broadcast(apart, wanted, "BIDIRECTIONAL")
        return op.reshape(repeated, _constant([0, self.heads, -1, self.size]), True)

    def _fed(self, feed_forward: Any, hidden: Node) -> Node:
        """hidden: (1, L, D) -> the same."""
        gate = op.swish(self._linear(hidden, feed_forward.gate_proj))
        both = op.multiply(gate, self._linear(hidden, feed_forward.up_proj))
        return self._linear(both, feed_forward.down_proj)

    def _linear(self, rows: Node, layer: nn.Module) -> Node:
        """rows: (1, L, K) -> (1, L, N)."""
        weight, bias = _merged(layer)
        found = op.matmul(rows, self.packed(weight), False, True)
        return found if bias is None else op.add(found, _constant(bias.float().numpy()[None, None]))


def _norm(rows: Node, norm: Any) -> Node:
    """rows: (..., n), each over its root mean square."""
    mean = op.reduce_mean(op.power(rows, _constant(np.float32(2))), _constant([-1]), True)
    root = op.sqrt(op.add(mean, _constant(np.float32(norm.variance_epsilon))))
    return op.multiply(
        op.multiply(rows, op.divide(_constant(np.float32(1)), root)), _constant(norm.weight.float().numpy())
    )


def _merged(layer: Any) -> tuple[Tensor, Tensor | None]:
    """A linear layer's weight (N, K) float32, LoRA added to it, and its bias (N,)."""
    plain = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    weight = plain.weight.float()
    for adapter in layer.active_adapters if plain is not layer else ():
        weight = weight + layer.get_delta_weight(adapter).float()
    return weight, plain.bias


def _constant(values: Any) -> Node:
    """A number, an array, or a list of integers."""
    array = np.asarray(values)
    return op.constant(array if array.ndim == 0 else np.ascontiguousarray(array))


def _int8(weight: Tensor) -> Node:
    """weight: (N, K) -> the same of int8 and a scale a row."""
    rounded, scale = quantise(weight)
    return op.multiply(op.convert(_constant(rounded.numpy()), "f32"), _constant(scale.numpy()[:, None]))


def _float16(weight: Tensor) -> Node:
    return op.convert(_constant(weight.half().numpy()), "f32")


def _float32(weight: Tensor) -> Node:
    return _constant(weight.numpy())


PACKED: dict[str, Callable[[Tensor], Node]] = {"int8": _int8, "float16": _float16, "float32": _float32}
