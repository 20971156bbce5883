"""Layers that read the same rows, as one: their int8 products in one, and the LoRA of all in two products.

PEFT's own forward of a layer takes as long as LoRA's products do, and as long again in other number formats,
where rows go to float32 and back layer by layer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lalm.models.int8 import Int8Linear
from lalm.models.packed_half import PackedLinear

Product = Callable[[Tensor], Tensor]


def joint(*layers: Any, apart: bool = False) -> Product:
    """Layers that read the same rows: their results side by side, (B, D) -> (B, N), in 4 bits where they have
    them. ``apart``: LoRA's products row by row, so that their bits do not depend on the other rows."""
    adapted = [_is_plain_lora(layer) for layer in layers]
    bare = [layer.base_layer if lora else layer for layer, lora in zip(layers, adapted, strict=True)]
    product = _side_by_side(bare)
    return _WithLora(product, bare, layers, adapted, apart) if any(adapted) else product


def _side_by_side(layers: Sequence[nn.Module]) -> Product:
    products = [layer.product if isinstance(layer, Int8Linear) else None for layer in layers]
    shared = products[0]
    if shared is not None and shared.sharing == len(layers) and all(own is shared for own in products):
        return (shared.step or shared).forward  # its call by nn.Module looks for hooks first
    if len(layers) == 1:
        return layers[0].forward
    return lambda rows: torch.cat([layer(rows) for layer in layers], -1)


def _is_plain_lora(layer: Any) -> bool:
    """Whether a layer is a linear one with one LoRA beside it, neither merged nor off, nor one of LoRA's
    relatives: others are read by PEFT's own forward."""
    parts = layer._modules
    if "lora_A" not in parts or not isinstance(parts["base_layer"], nn.Linear | Int8Linear | PackedLinear):
        return False
    if layer.merged or layer.disable_adapters or layer.lora_variant or len(layer.active_adapters) != 1:
        return False
    (name,) = layer.active_adapters
    if name not in parts["lora_A"] or (
        layer.training and not isinstance(layer.lora_dropout[name], nn.Identity)
    ):
        return False
    up: Any = parts["lora_B"][name]
    return up.bias is None and not getattr(layer, "fan_in_fan_out", False)


class _WithLora:
    """A product of several layers, and what LoRA adds to some of them; its weights as they are now, its scale
    as it is at each call."""

    def __init__(
        self,
        product: Product,
        bare: Sequence[Any],
        layers: Sequence[Any],
        adapted: Sequence[bool],
        apart: bool,
    ) -> None:
        """bare: the layers without LoRA, (D, n) each; adapted: which of ``layers`` have one."""
        self._product, self._apart = product, apart
        downs, self._ups, self._scalings = list[Tensor](), list[Tensor](), []
        for layer, own, lora in zip(layers, bare, adapted, strict=True):
            name = layer.active_adapters[0] if lora else ""
            self._ups.append(
                layer.lora_B[name].weight.detach().t() if lora else torch.empty(0, own.out_features)
            )
            self._scalings.append((layer.scaling if lora else {"": 1.0}, name))
            downs += [layer.lora_A[name].weight.detach()] if lora else []
        self._down = torch.cat(downs).t()  # (D, R), of all ranks
        self._scale: list[float] = []

    def __call__(self, rows: Tensor) -> Tensor:
        """rows: (B, D) -> (B, N) in the number format of the layers."""
        scale = [scaling[name] for scaling, name in self._scalings]
        if scale != self._scale:
            scaled = [up.to(self._down) * own for up, own in zip(self._ups, scale, strict=True)]
            self._scale, self._up = scale, torch.block_diag(*scaled)  # (R, N)
        found = self._product(rows)
        if not any(scale):
            return found
        if self._apart and len(rows) > 1:
            return torch.cat([self._added(*both) for both in zip(rows.split(1), found.split(1), strict=True)])
        return self._added(rows, found)

    def _added(self, rows: Tensor, found: Tensor) -> Tensor:
        if rows.dtype == found.dtype == self._down.dtype:
            return torch.addmm(found, torch.mm(rows, self._down), self._up)
        within = torch.mm(rows.to(self._down.dtype), self._down)  # (B, R)
        return torch.addmm(found.to(within.dtype), within, self._up).to(found.dtype)
