"""The LLM's linear layers in 8-bit integers: half of bfloat16's bytes a token, and products that are exact.

A weight row is rounded to int8 with a scale of its own. An input row becomes 16-bit integers, whose two bytes
are multiplied apart in one product. Products of integers are the same in every order of summing: a row's
result is the same to the last bit alone, beside any others, and by either of the two ways to multiply. What
flows between the layers is float32.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from lalm.errors import LalmError
from lalm.models.int4 import Fine, Int4Product
from lalm.models.opening_memory import release_free_memory

STEPS = 127  # of an int8 on either side of zero
FINE_STEPS = STEPS * 256  # of an input value on either side of zero: both of its bytes stay inside 1 to 255
MIDDLE = 128  # what a byte that stands for 0 is
HEAD = "lm_head"
RELEASED_EVERY = 16  # groups of layers, after which free memory is given back
FEW_ROWS = 16  # up to here torch._int_mm is faster row by row
SHARED_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # layers that read the same rows

Weights = Callable[[str, nn.Linear], tuple[Tensor, Tensor]]
"""Gives the layer of a name its int8 weights (N, K) and their scales (N,)."""


class Int8Error(LalmError, ValueError):
    """A model whose layers cannot be int8; the text says why."""


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight: (N, K) float -> int8 (N, K), and each row's scale (N,) float32."""
    scale = weight.abs().amax(1).float().clamp(min=1e-12) / STEPS
    rounded = torch.empty(weight.shape, dtype=torch.int8)
    for part in range(0, len(weight), 8192):  # a head is large in float32
        some = slice(part, part + 8192)
        rounded[some] = (weight[some].float() / scale[some, None]).round_()
    return rounded, scale


def packs() -> bool:
    """Whether weights are packed for oneDNN here: on CPUs whose int8 products do not overflow (VNNI)."""
    # A private test of torch, as ``pick_dtype`` has them; AMX comes with VNNI.
    vnni: bool = torch.cpu._is_vnni_supported()
    return vnni and torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")


def packed(weights: Sequence[Tensor]) -> Tensor:
    """(n, K) int8 each -> all of them, (N, K), packed for oneDNN."""
    whole = torch.cat(list(weights)) if len(weights) > 1 else weights[0]
    found: Tensor = torch.ops.onednn.qlinear_prepack(whole.contiguous(), None)
    return found


def done(weight: Tensor) -> "Future[Tensor]":
    """A result that is there."""
    future = Future[Tensor]()
    future.set_result(weight)
    return future


class Rounded:
    """Input rows as bytes, kept for the next layer, which often reads the same ones."""

    def __init__(self) -> None:
        self._inputs: Tensor | None = None
        self._kept: tuple[Tensor, Tensor] | None = None
        self._shift = torch.tensor(
            [MIDDLE * 256 + MIDDLE + 0.5]
        )  # the half rounds, where the rest is cut off

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """inputs: (..., K) -> uint8 (2 R, K), all low bytes before all high ones; steps (R, 1)."""
        if self._kept is None or inputs is not self._inputs:
            rows = inputs.reshape(-1, inputs.shape[-1]).float().contiguous()
            step = rows.abs().amax(1, keepdim=True).clamp_(min=1e-12).div_(FINE_STEPS)
            whole = torch.addcdiv(self._shift, rows, step).to(torch.int32)  # (R, K), the lowest byte first
            count, width = rows.shape
            low_first = whole.view(torch.uint8).as_strided((2, count, width), (1, 4 * width, 4))
            self._inputs, self._kept = inputs, (low_first.reshape(-1, width), step)
        return self._kept


class Int8Product(nn.Module):
    """Products of rows with the int8 weights of one layer, or of several that read the same rows."""

    scale: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weights: Sequence[Tensor],
        scale: Tensor,
        bias: Tensor | None,
        rounded: Rounded,
        packing: Executor | None = None,
    ) -> None:
        """weights: the layers' (n, K) int8, N rows in all; scale, bias: (N,). ``packing`` packs them in the
        background: until that is done, products are those of the weights as they are."""
        super().__init__()
        self.step: Int4Product | None = None  # what multiplies in its place in the steps of decoding
        self.sharing, self.shape, self._rounded = len(weights), (len(scale), weights[0].shape[1]), rounded
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self._zeros = torch.zeros(len(scale), dtype=torch.long)
        self._plain: Sequence[Tensor] = weights
        self._packed: Future[Tensor] | None = None
        self._ready: Tensor | None = None  # packed
        if packs():
            self._packed = packing.submit(packed, weights) if packing else done(packed(weights))
            self._packed.add_done_callback(self._take_packed)
        self._inputs: Tensor | None = None
        self._found: Tensor | None = None
        self._untaken = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: (..., K) -> (..., N) float32."""
        both, step = self._rounded(inputs)
        low, high = self._products(both).view(2, len(step), -1).unbind()
        found, bias = low.add_(high, alpha=256), self.bias  # in its place: of many rows it is megabytes
        found = found.mul_(step) if bias is None else torch.addcmul(bias, found, step)
        return found if inputs.ndim == 2 else found.view(*inputs.shape[:-1], -1)

    def wait(self) -> None:
        """Until its weights are packed."""
        if self._packed is not None:
            self._packed.result()

    def part(self, inputs: Tensor, columns: slice) -> Tensor:
        """Some columns (..., n) of ``forward``, which is computed once for all layers that share it."""
        if self._found is None or inputs is not self._inputs:
            self._inputs, self._found, self._untaken = inputs, self(inputs), self.sharing
        found = self._found[..., columns]
        self._untaken -= 1
        if self._untaken == 0:
            self._inputs = self._found = None
        return found

    def _products(self, both: Tensor) -> Tensor:
        """both: (2 R, K) uint8 -> (2 R, N) float32, scaled; the bytes count from ``MIDDLE``."""
        plain = self._plain  # taken before the question whether they are still needed
        if self._ready is not None:
            weights = (self._ready, self.scale, self._zeros, None)
            how: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
            product: Tensor = torch.ops.onednn.qlinear_pointwise(both, 1.0, MIDDLE, *weights, *how)
            return product
        rows = both.view(torch.int8) ^ -MIDDLE
        sums = [_exact(rows, weight.t()) for weight in plain]
        return (torch.cat(sums, 1) if len(sums) > 1 else sums[0]) * self.scale

    def _take_packed(self, packing: "Future[Tensor]") -> None:
        """Packed weights are a copy: the plain ones, some of a mapped file, go as soon as it is there."""
        if packing.exception() is None:
            self._ready = packing.result()
            self._plain = ()


def _exact(rows: Tensor, weight: Tensor) -> Tensor:
    """rows: (R, K) int8; weight: (K, n) int8 -> (R, n) int32."""
    if len(rows) > FEW_ROWS:
        return torch._int_mm(rows, weight)
    return torch.cat([torch._int_mm(row[None], weight) for row in rows])


class Int8Linear(nn.Module):
    """A frozen linear layer whose weights are all or some rows of an ``Int8Product``."""

    def __init__(self, product: Int8Product, columns: slice) -> None:
        super().__init__()
        self.product = product
        self.columns = columns
        self.in_features, self.out_features = product.shape[1], columns.stop - columns.start

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: (..., K) -> (..., N) float32."""
        product = self.product
        return product(inputs) if product.sharing == 1 else product.part(inputs, self.columns)


class Float32Embedding(nn.Embedding):
    """An embedding table whose rows come out as float32."""

    def forward(self, input: Tensor) -> Tensor:
        """input: (...) int64 -> (..., D) float32."""
        return super().forward(input).float()


def make_int8(model: Any, weights: Weights | None = None, fine: Fine | None = None) -> None:
    """Put int8 layers in the place of the LLM's frozen linear ones, in place; the model answers, it does not
    learn. LoRA stays as it is beside them. ``weights``: those rounded before, else they are rounded now.
    ``fine``: of layers whose steps of decoding are in 4 bits (``lalm.models.int4``) beside the int8 ones.
    Raises Int8Error for a model that is not on a CPU."""
    if model.device.type != "cpu":
        raise Int8Error("int8 layers are for CPUs; on a GPU take bfloat16")
    body, rounded = model.model.language_model, Rounded()
    weights = weights or (lambda name, layer: quantise(layer.weight.detach()))
    fine = fine or (lambda name, layer: None)
    layers = {
        name: layer
        for name, layer in body.named_modules()
        if type(layer) is nn.Linear and "lora_" not in name
    }
    packing = ThreadPoolExecutor(1, "lalm-packing")
    # The largest first: while it is packed there are two copies of it, and of the others not yet one.
    (model.lm_head,) = _joined([(HEAD, model.lm_head)], weights, fine, rounded, packing)
    for number, names in enumerate(reading_together(list(layers))):
        if number % RELEASED_EVERY == 0:
            packing.submit(release_free_memory)  # packing leaves gaps, and memory is highest at its end
        group = [(name, layers.pop(name)) for name in names]
        for name, made in zip(names, _joined(group, weights, fine, rounded, packing), strict=True):
            parent, _, child = name.rpartition(".")
            setattr(body.get_submodule(parent), child, made)
    packing.shutdown(wait=False)
    table = body.get_input_embeddings()
    if type(table) is nn.Embedding:
        table.__class__ = Float32Embedding
    for module in body.modules():
        if not isinstance(module, (nn.Embedding, Int8Linear, Int8Product, Int4Product)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()


def wait_for_packing(model: Any) -> None:
    """Until all int8 and int4 weights of a model are packed, where they are."""
    for module in model.modules():
        if isinstance(module, Int8Product | Int4Product):
            module.wait()


def _joined(
    layers: Sequence[tuple[str, nn.Linear]],
    weights: Weights,
    fine: Fine,
    rounded: Rounded,
    packing: Executor,
) -> list[Int8Linear]:
    """The layers over one product."""
    parts, scales = zip(*(weights(name, layer) for name, layer in layers), strict=True)
    bias = None
    if any(layer.bias is not None for _, layer in layers):
        both = [(layer.bias, scale) for (_, layer), scale in zip(layers, scales, strict=True)]
        bias = torch.cat([torch.zeros_like(scale) if one is None else one.float() for one, scale in both])
    product = Int8Product(parts, torch.cat(scales), bias, rounded, packing)
    codes = [own for own in (fine(name, layer) for name, layer in layers) if own is not None]
    if len(codes) == len(layers):
        product.step = Int4Product(codes, product.bias, packing)
    ends = list(accumulate(len(part) for part in parts))
    return [Int8Linear(product, slice(end - len(part), end)) for part, end in zip(parts, ends, strict=True)]


def reading_together(names: Sequence[str]) -> list[list[str]]:
    """Names of layers in groups that read the same rows; most stand alone."""
    left, found = dict.fromkeys(names), []
    for name in names:
        if name not in left:
            continue
        inner = ".base_layer" if name.endswith(".base_layer") else ""  # PEFT's name for a layer with LoRA
        parent, _, child = name.removesuffix(inner).rpartition(".")
        group = next((kinds for kinds in SHARED_INPUTS if child in kinds), (child,))
        beside = [f"{parent}.{kind}" for kind in group] if parent else list(group)
        both = [[n, f"{n}.base_layer"] for n in beside]
        members = [n for pair in both for n in pair if n in left]
        for member in members:
            del left[member]
        found.append(members)
    return found
