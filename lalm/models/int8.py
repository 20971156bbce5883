"""The LLM's linear layers in 8-bit integers: half of bfloat16's bytes a token, and products that are exact.

A weight row is rounded to int8 with a scale of its own. An input row becomes two int8 rows, its rounded
values and what rounding left, so that it keeps some 15 bits. Their products with the weights are sums of
integers, which no order of summing changes: a row's result is the same to the last bit alone and beside any
others. CPUs with VNNI or AMX multiply int8 faster than bfloat16. What flows between the layers is float32.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lalm.errors import LalmError

STEPS = 127  # of an int8 on either side of zero
FINER = 254  # steps of the second int8 in one of the first
FEW_ROWS = 8  # up to here rows are multiplied one by one, which is faster


class Int8Error(LalmError, ValueError):
    """A model whose layers cannot be int8; the text says why."""


class Rounded:
    """Input rows as int8, kept for the next layer, which often reads the same ones (query, key and value)."""

    def __init__(self) -> None:
        self._inputs: Tensor | None = None
        self._kept: tuple[Tensor, Tensor] | None = None

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """inputs: (..., K) -> int8 (2, R, K), first the rounded rows, then what was left; steps (R, 1)."""
        if self._kept is None or inputs is not self._inputs:
            rows = inputs.reshape(-1, inputs.shape[-1]).float()
            fine = torch.linalg.vector_norm(rows, torch.inf, 1, keepdim=True).clamp_(min=1e-12)
            fine.div_(STEPS * FINER)
            steps = rows / fine  # up to 127 * 254
            first = (steps / FINER).round_()
            both = torch.stack([first, steps.sub_(first, alpha=FINER).round_()]).to(torch.int8)
            self._inputs, self._kept = inputs, (both, fine)
        return self._kept


class Int8Linear(nn.Module):
    """A linear layer with int8 weights (N, K), their scales (N,) and an optional bias (N,), all frozen."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear, rounded: Rounded) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._rounded = rounded
        rows = layer.weight.detach()
        scale = rows.abs().amax(1).float().clamp(min=1e-12) / STEPS
        weight = torch.empty(rows.shape, dtype=torch.int8)
        for part in range(0, len(rows), 8192):  # a head is large in float32
            some = slice(part, part + 8192)
            weight[some] = (rows[some].float() / scale[some, None]).round_()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float())

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: (..., K) -> (..., N) float32."""
        (first, second), fine = self._rounded(inputs)
        found = self._products(first).float().mul_(FINER).add_(self._products(second)).mul_(fine)
        found.mul_(self.scale)
        if self.bias is not None:
            found.add_(self.bias)
        return found.view(*inputs.shape[:-1], self.out_features)

    def _products(self, rows: Tensor) -> Tensor:
        """rows: (R, K) int8 -> their exact products with the weights, (R, N) int32."""
        weight = self.weight.t()
        if len(rows) == 1 or len(rows) > FEW_ROWS:
            return torch._int_mm(rows, weight)
        return torch.cat([torch._int_mm(row[None], weight) for row in rows])


class Float32Embedding(nn.Embedding):
    """An embedding table whose rows come out as float32."""

    def forward(self, input: Tensor) -> Tensor:
        """input: (...) int64 -> (..., D) float32."""
        return super().forward(input).float()


def make_int8(model: Any) -> None:
    """Put int8 layers in the place of the LLM's frozen linear ones, in place; the model answers, it does not
    learn. LoRA stays as it is beside them. Raises Int8Error for a model that is not on a CPU."""
    if model.device.type != "cpu":
        raise Int8Error("int8 layers are for CPUs; on a GPU take bfloat16")
    body = model.model.language_model
    rounded = Rounded()
    for name, layer in list(body.named_modules()):
        if type(layer) is nn.Linear and "lora_" not in name:
            parent, _, child = name.rpartition(".")
            setattr(body.get_submodule(parent), child, Int8Linear(layer, rounded))
    model.lm_head = Int8Linear(model.lm_head, rounded)
    table = body.get_input_embeddings()
    if type(table) is nn.Embedding:
        table.__class__ = Float32Embedding
    for module in body.modules():
        if not isinstance(module, (nn.Embedding, Int8Linear)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
