"""The LLM's linear layers in half precision, laid out as oneDNN multiplies few rows with them on a CPU.

torch gives oneDNN the weights as they are, and it lays them out anew for every product.
"""

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 8  # rows of a half precision product on a CPU, always: so many cost hardly more than one
HALF = (torch.bfloat16, torch.float16)


class PackedLinear(nn.Module):
    """A frozen linear layer with its weights in oneDNN's layout, which is made for ``ROWS`` rows."""

    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.dtype = (
            layer.in_features,
            layer.out_features,
            layer.weight.dtype,
        )
        self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: (..., K) -> (..., N)."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._packed, self.bias, "none", [], "")
        return found


def packs_half(weight: Tensor) -> bool:
    """Whether layers with such a weight are packed: on CPUs that multiply its number format."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return False
    # Private tests of torch, as ``pick_dtype`` has them.
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return fast and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pack_half(model: Any) -> None:
    """Put packed layers in the place of the LLM's linear ones and its head, in place; the model answers, it
    does not learn, and is not written. LoRA stays as it is beside them."""
    body = model.model.language_model
    for name, layer in list(body.named_modules()):
        if type(layer) is nn.Linear and "lora_" not in name and packs_half(layer.weight):
            parent, _, child = name.rpartition(".")
            setattr(body.get_submodule(parent), child, PackedLinear(layer))
    if type(model.lm_head) is nn.Linear and packs_half(model.lm_head.weight):
        model.lm_head = PackedLinear(model.lm_head)
