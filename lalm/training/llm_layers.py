"""Settings of the LLM's layers in training: gradient checkpointing, compilation, 8- or 4-bit weights.

Everything is set on each layer separately, so that it works with frozen layers, LoRA and any wrapper of the
model, and does not change the names of parameters.
"""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def layers_of(body: PreTrainedModel) -> list[nn.Module]:
    """The repeated layers of an LLM. Raises ValueError for a family without marked layers."""
    found = [module for module in body.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not found:
        raise ValueError(
            f"the LLM ({body.config.model_type}) has no layers that transformers marks as repeated"
        )
    return found


def enable_gradient_checkpointing(body: PreTrainedModel) -> None:
    """Keep only the input of each layer and compute the rest again in the backward pass.

    transformers' own switch does nothing in a layer that is in eval mode, as frozen layers are here.
    """
    for layer in layers_of(body):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_layers(body: PreTrainedModel) -> None:
    """Compile each layer with ``torch.compile``, for lengths that vary from batch to batch."""
    for layer in layers_of(body):
        layer.compile(dynamic=True)


def quantize(body: PreTrainedModel, kind: str) -> None:
    """Replace the frozen linear layers by bitsandbytes': "int8" or "nf4".

    Weights are rounded when they are next moved to a device. Raises ValueError without bitsandbytes.
    """
    try:
        from bitsandbytes import nn as rounded
    except ImportError:
        raise ValueError(f"optim.dtype: {kind} needs bitsandbytes: pip install 'lalm[quantize]'") from None
    for name, layer in list(body.named_modules()):
        if type(layer) is not nn.Linear or layer.weight.requires_grad or "lora_" in name:
            continue
        sizes = (layer.in_features, layer.out_features, layer.bias is not None)
        if kind == "int8":
            new = rounded.Linear8bitLt(*sizes, has_fp16_weights=False, device="meta")
            new.weight = rounded.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        else:
            dtype = layer.weight.dtype
            new = rounded.Linear4bit(*sizes, compute_dtype=dtype, quant_type="nf4", device="meta")
            new.weight = rounded.Params4bit(
                layer.weight.data, requires_grad=False, quant_type="nf4", module=new
            )
        new.bias = layer.bias
        parent, _, child = name.rpartition(".")
        setattr(body.get_submodule(parent), child, new)
