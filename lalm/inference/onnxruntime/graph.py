"""An LLM of Llama's kind as an ONNX graph, LoRA merged: embeddings in, the last position's logits out.

Its operations are those that ONNX Runtime has for LLMs (``com.microsoft``): products of packed weights, norms
with the sum before them, and attention that turns queries and keys and writes keys and values into buffers
which are handed in. Weights stand in a file of their own, which is mapped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from lalm.errors import LalmError
from lalm.inference.onnxruntime.weight_blocks import LENGTH, Array, Blocks, int8_blocks
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.next_position import general_because, of_another_family

OWN = "com.microsoft"  # ONNX Runtime's operations
WHOLE = 16  # its attention takes heads whose width is a multiple
MOST = 2**17  # positions whose cosine and sine are kept
PAGE = 4096  # bytes; weights begin at a multiple, so that they can be mapped


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
    size = int(body.layers[0].self_attn.head_dim) if not because else WHOLE
    if size % WHOLE:
        because = f"its attention heads are {size} wide, not a multiple of {WHOLE}"
    if because:
        raise _refusal(name, because)


def _refusal(name: str, because: str) -> GraphError:
    return GraphError(f"'{name}' does not run in ONNX Runtime here, because {because}: leave --engine out")


@dataclass
class Graph:
    """A graph, and the weights that stand in the file ``place`` beside it."""

    place: str
    model: Any = None  # onnx.ModelProto
    weights: list[Array] = field(default_factory=list)
    size: int = 0  # of that file, in bytes

    def put(self, name: str, values: Array) -> Any:
        """Add weights; returns what stands for them in the graph."""
        begin, values = self.size + -self.size % PAGE, np.ascontiguousarray(values)
        self.weights.append(values)
        self.size = begin + values.nbytes
        told = TensorProto(name=name, dims=values.shape, data_location=TensorProto.EXTERNAL)
        told.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        for key, value in (("location", self.place), ("offset", begin), ("length", values.nbytes)):
            told.external_data.add(key=key, value=str(value))
        return told

    def write_weights(self, file: BinaryIO) -> None:
        """Write what the file of weights holds."""
        for values in self.weights:
            file.write(bytes(-file.tell() % PAGE))
            file.write(values.data)

    def write(self, draft: Path) -> None:
        """Write both, the weights as the ``.bin`` of the same name. Raises OSError."""
        with draft.with_suffix(".bin").open("wb") as file:
            self.write_weights(file)
        draft.write_bytes(self.model.SerializeToString())


@torch.no_grad()
def graph_of(model: AudioLMForConditionalGeneration, kind: str, place: str) -> Graph:
    """The graph of the model's LLM; weights are "int8" or "float32". ``place``: the name of the file with the
    weights.

    Inputs: "inputs_embeds" (1, L, D) float32; "last" (1, 1) int32, the last position's number; "count" ()
    int32, one more than that; of each layer n "keys.n" and "values.n" (1, G, T, d) float32, whose first
    count - L positions are read. Outputs: "logits" (1, 1, V) float32, and "all_keys.n" and "all_values.n",
    the same as the inputs with those of the L positions: meant to be the inputs' own buffers.
    """
    positions = min(int(model.config.context_length), MOST)
    return _Writing(model.model.language_model, model.lm_head, kind, place, positions).whole()


class _Writing:
    """Writes a graph from the modules of an LLM."""

    def __init__(self, body: Any, head: Any, kind: str, place: str, positions: int) -> None:
        config = body.config
        self.body, self.head, self.kind, self.positions = body, head, kind, positions
        self.heads, self.pairs = config.num_attention_heads, config.num_key_value_heads
        self.size, self.width = body.layers[0].self_attn.head_dim, config.hidden_size
        self.graph = Graph(place)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs = [_told("inputs_embeds", TensorProto.FLOAT, [1, "length", self.width])]
        self.inputs += [_told("last", TensorProto.INT32, [1, 1]), _told("count", TensorProto.INT32, [])]
        self.outputs: list[Any] = []

    def whole(self) -> Graph:
        """Embeddings to logits."""
        turns = self._turns()
        sum_ = "inputs_embeds"
        normed = self._norm("first", sum_, self.body.layers[0].input_layernorm)
        for number, layer in enumerate(self.body.layers):
            found = self._attended(number, layer.self_attn, normed, turns)
            sum_, normed = self._added(f"{number}.fed", sum_, found, layer.post_attention_layernorm)
            found = self._fed(number, layer.mlp, normed)
            following = [one.input_layernorm for one in self.body.layers[number + 1 : number + 2]]
            if following:
                sum_, normed = self._added(f"{number}.next", sum_, found, following[0])
        last = self._constant("end", np.array([-1]))
        hidden, found = (self._add("Gather", [rows, last], axis=1) for rows in (sum_, found))
        _, normed = self._added("end.norm", hidden, found, self.body.norm)
        before = len(self.nodes)
        self._linear("head", normed, [self.head], output="logits")
        # The largest first: weights are packed in this order, and of those at hand there are two copies. ONNX
        # Runtime puts the nodes in order itself before it runs them.
        self.nodes = [*self.nodes[before:], *self.nodes[:before]]
        vocabulary = int(_plain(self.head).weight.shape[0])
        self.outputs.insert(0, _told("logits", TensorProto.FLOAT, [1, 1, vocabulary]))
        whole = helper.make_graph(self.nodes, "llm", self.inputs, self.outputs, self.constants)
        versions = [helper.make_opsetid("", 21), helper.make_opsetid(OWN, 1)]
        self.graph.model = helper.make_model(whole, opset_imports=versions, ir_version=10)
        return self.graph

    def _turns(self) -> list[str]:
        """Cosine and sine of every position, (P, d / 2)."""
        rotary: Any = self.body.rotary_emb
        positions = torch.arange(self.positions).float()
        angles = positions[:, None] * rotary.inv_freq.float()
        both = (angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling)
        return [self._kept(name, part.numpy()) for name, part in zip(("cos", "sin"), both, strict=True)]

    def _attended(self, number: int, attention: Any, rows: str, turns: list[str]) -> str:
        """rows: (1, L, D) -> the same."""
        layers = [attention.q_proj, attention.k_proj, attention.v_proj]
        mixed = self._linear(f"{number}.mix", rows, layers)
        queries, keys, values = mixed, "", ""
        if "q_norm" in attention._modules:
            parts = [count * self.size for count in (self.heads, self.pairs, self.pairs)]
            queries, keys, values = self._split(mixed, parts)
            queries = self._by_head(f"{number}.queries", queries, attention.q_norm)
            keys = self._by_head(f"{number}.keys", keys, attention.k_norm)
        kept, after = [f"keys.{number}", f"values.{number}"], [f"all_keys.{number}", f"all_values.{number}"]
        for names, told, length in ((kept, self.inputs, "room"), (after, self.outputs, "all_room")):
            told += [_told(name, TensorProto.FLOAT, [1, self.pairs, length, self.size]) for name in names]
        turned = bool(vars(attention).get("use_rope", True))
        given = [queries, keys, values, *kept, "last", "count", *(turns if turned else [])]
        how = {"num_heads": self.heads, "kv_num_heads": self.pairs, "scale": float(attention.scaling)}
        found = f"{number}.found"
        self._node("GroupQueryAttention", given, [found, *after], do_rotary=int(turned), **how)
        return self._linear(f"{number}.out", found, [attention.o_proj])

    def _by_head(self, name: str, rows: str, norm: Any) -> str:
        """rows: (1, L, H d) -> the same, each head over its root mean square."""
        apart = self._add("Reshape", [rows, self._constant("heads", np.array([0, 0, -1, self.size]))])
        normed = self._norm(name, apart, norm)
        return self._add("Reshape", [normed, self._constant("joined", np.array([0, 0, -1]))])

    def _fed(self, number: int, feed_forward: Any, rows: str) -> str:
        """rows: (1, L, D) -> the same."""
        layers = [feed_forward.gate_proj, feed_forward.up_proj]
        both = self._linear(f"{number}.wide", rows, layers)
        inner = int(_plain(feed_forward.up_proj).weight.shape[0])
        gate, up = self._split(both, [inner, inner])
        opened = self._add("Mul", [self._add("QuickGelu", [gate], OWN, alpha=1.0), up])  # 1.0: SiLU
        return self._linear(f"{number}.down", opened, [feed_forward.down_proj])

    def _linear(self, name: str, rows: str, layers: Sequence[Any], output: str = "") -> str:
        """rows: (1, L, K) -> (1, L, N), of layers that read the same rows."""
        weights, biases = zip(*(_merged(layer) for layer in layers), strict=True)
        weight, bias = torch.cat(weights), None
        if any(one is not None for one in biases):
            both = zip(weights, biases, strict=True)
            bias = torch.cat([torch.zeros(len(w)) if one is None else one.float() for w, one in both])
        output = output or f"{name}.product"
        if self.kind != "float32":
            self._product(name, rows, int8_blocks(weight), weight.shape, bias, output)
            return output
        product = output if bias is None else f"{name}.unbiased"
        self._node("MatMul", [rows, self._kept(name, weight.t().numpy())], [product], domain="")
        if bias is not None:
            self._node("Add", [product, self._kept(f"{name}.bias", bias.numpy())], [output], domain="")
        return output

    def _product(
        self, name: str, rows: str, blocks: Blocks, shape: Sequence[int], bias: Tensor | None, output: str
    ) -> None:
        """rows: (1, L, K) -> ``output`` (1, L, N), by packed weights of that shape (N, K)."""
        given = [rows, self._kept(name, blocks.codes), self._kept(f"{name}.scales", blocks.scales)]
        if bias is not None:
            given += ["", "", self._kept(f"{name}.bias", bias.numpy())]
        how: Any = {"N": int(shape[0]), "K": int(shape[1]), "bits": 8, "block_size": LENGTH}
        self._node("MatMulNBits", given, [output], accuracy_level=4, **how)  # 4: rows in 8 bits

    def _norm(self, name: str, rows: str, norm: Any) -> str:
        """rows: (..., n), each over its root mean square."""
        weight = self._kept(f"{name}.norm", norm.weight.float().numpy())
        return self._add(
            "SimplifiedLayerNormalization", [rows, weight], axis=-1, epsilon=float(norm.variance_epsilon)
        )

    def _added(self, name: str, rows: str, more: str, norm: Any) -> tuple[str, str]:
        """rows, more: (1, L, D) -> their sum, and that over its root mean square."""
        weight = self._kept(f"{name}.norm", norm.weight.float().numpy())
        both, normed = f"{name}.sum", f"{name}.normed"
        epsilon = float(norm.variance_epsilon)
        self._node(
            "SkipSimplifiedLayerNormalization", [rows, more, weight], [normed, "", "", both], epsilon=epsilon
        )
        return both, normed

    def _split(self, rows: str, sizes: list[int]) -> list[str]:
        """rows: (1, L, n) -> parts of those sizes."""
        outputs = [f"{rows}.{number}" for number in range(len(sizes))]
        sizes_ = self._constant(f"sizes.{'.'.join(map(str, sizes))}", np.array(sizes))
        self._node("Split", [rows, sizes_], outputs, domain="", axis=-1)
        return outputs

    def _add(self, operation: str, inputs: list[str], domain: str = "", **how: Any) -> str:
        """A node with one output, whose name comes back."""
        output = f"{inputs[0]}>{operation}"
        self._node(operation, inputs, [output], domain=domain, **how)
        return output

    def _node(
        self, operation: str, inputs: list[str], outputs: list[str], domain: str = OWN, **how: Any
    ) -> None:
        self.nodes.append(helper.make_node(operation, inputs, outputs, name=outputs[0], domain=domain, **how))

    def _constant(self, name: str, values: Array) -> str:
        """A few integers, in the graph itself."""
        if name not in [one.name for one in self.constants]:
            self.constants.append(numpy_helper.from_array(values.astype(np.int64), name))
        return name

    def _kept(self, name: str, values: Array) -> str:
        """Weights, in the file beside it."""
        name = f"{name}.weights"
        self.constants.append(self.graph.put(name, values))
        return name


def _told(name: str, kind: int, shape: Sequence[int | str]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _plain(layer: Any) -> Any:
    """A linear layer without LoRA beside it."""
    return layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer


def _merged(layer: Any) -> tuple[Tensor, Tensor | None]:
    """A linear layer's weight (N, K) float32, LoRA added to it, and its bias (N,)."""
    plain: nn.Linear = _plain(layer)
    weight = plain.weight.float()
    for adapter in layer.active_adapters if plain is not layer else ():
        weight = weight + layer.get_delta_weight(adapter).float()
    return weight, plain.bias
