"""LoRA in the LLM: put in, turned up or down, merged into the weights."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lalm.models.classes import ModelError
from lalm.models.config import AudioLMConfig
from lalm.models.modeling import AudioLMForConditionalGeneration

QUERIES_AND_VALUES = ("q_proj", "v_proj")  # LoRA, arXiv 2106.09685, section 7.1
PATTERNS = ("rank_pattern", "alpha_pattern")  # PEFT's names
COMPILER_OFF = "TORCHDYNAMO_DISABLE"
MIXED = ("query_key_value", "c_attn", "qkv_proj", "Wqkv", "in_proj")  # one layer for all of them


def add_lora(model: AudioLMForConditionalGeneration, lora: Mapping[str, Any]) -> None:
    """Put LoRA matrices (float32) into the LLM and note their settings in the config.

    Without "targets" they go where PEFT puts them in the LLM's family. "rank_pattern" and "alpha_pattern" are
    PEFT's: a regular expression for the end of a layer's name -> the rank or alpha of those layers. Raises
    ModelError for a target that no layer is called, and for a pattern that fits no target.
    """
    with _compiling_nothing():
        from peft import LoraConfig, inject_adapter_in_model

    body = model.model.language_model
    targets = lora.get("targets") or usual_targets(body)
    layers = {name.rpartition(".")[2]: layer for name, layer in body.named_modules() if _adaptable(layer)}
    for target in targets:
        if target.rpartition(".")[2] not in layers:
            raise ModelError(f"lora: no layer of the LLM is called '{target}'; it has: {', '.join(layers)}")
    patterns = {name: dict(lora.get(name) or {}) for name in PATTERNS}
    named = [name for name, _ in body.named_modules() if name.rpartition(".")[2] in targets]
    for kind, pattern in ((kind, pattern) for kind, found in patterns.items() for pattern in found):
        if not any(re.fullmatch(rf"(.*\.)?({pattern})", name) for name in named):
            raise ModelError(f"lora: {kind} '{pattern}' fits no layer that gets LoRA; one is '{named[0]}'")
    settings = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora.get("dropout", 0.0),
        target_modules=list(targets),
        **patterns,
        fan_in_fan_out=isinstance(layers[targets[0].rpartition(".")[2]], Conv1D),  # GPT-2's are transposed
    )
    inject_adapter_in_model(settings, body)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    model.config.lora = {**lora, "targets": list(targets)}
    model.config.lora |= {name: found for name, found in patterns.items() if found}


@contextmanager
def _compiling_nothing() -> Iterator[None]:
    """bitsandbytes, which PEFT imports where it is installed, has torch's compiler started for functions that
    nobody calls here: a second. It keeps them as they are where that is off."""
    given = os.environ.get(COMPILER_OFF)
    os.environ[COMPILER_OFF] = "1"
    try:
        yield
    finally:
        os.environ.pop(COMPILER_OFF) if given is None else os.environ.update({COMPILER_OFF: given})


def usual_targets(body: Any) -> list[str]:
    """Names of the layers that LoRA usually sits on in the family of ``body``, an LLM without its head."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as OF_FAMILY

    named = [name for name, layer in body.named_modules() if _adaptable(layer)]
    inside = [name for name in named if "attn" in name or "attention" in name] or named  # not the experts
    names = dict.fromkeys(name.rpartition(".")[2] for name in inside)
    if all(name in names for name in QUERIES_AND_VALUES):
        return list(QUERIES_AND_VALUES)
    usual = dict.fromkeys((*OF_FAMILY.get(body.config.model_type, ()), *MIXED))
    found = [name for name in usual if name in names]
    return found or [name for name in names if not name.isdigit()]


def _adaptable(layer: Any) -> bool:
    return isinstance(layer, nn.Linear | Conv1D)


def set_lora_scale(model: AudioLMForConditionalGeneration, scale: float | None) -> None:
    """Set how strongly LoRA acts: a layer's weight is W + scale * B A (SALMONN section 5.2), with no reload.

    ``scale`` is the factor itself, and training had alpha / rank, SALMONN 32 / 8 = 4.0: there
    4.0 is the model as trained, 2.0 half of what LoRA learned, 1.0 a quarter, and 0 the LLM alone. None goes
    back to alpha / rank. Layers with a rank or alpha of their own are turned in proportion. Raises ModelError
    for a model without LoRA, unless None is asked.
    """
    if not model.config.lora:
        if scale is None:
            return
        raise ModelError("this model has no LoRA, so there is no LoRA scale to set: leave it out")
    from peft.tuners.lora import LoraLayer  # takes seconds to import

    usual = trained_lora_scale(model.config)
    assert usual is not None
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name in module.scaling:
                own = module.lora_alpha[name] / module.r[name]
                module.scaling[name] = own if scale is None else scale * (own / usual)


def trained_lora_scale(config: AudioLMConfig) -> float | None:
    """The LoRA scale that training had, alpha / rank, of layers that no pattern names; None without LoRA."""
    return config.lora["alpha"] / config.lora["rank"] if config.lora else None


def merged_state(model: AudioLMForConditionalGeneration) -> dict[str, Tensor]:
    """The model's tensors with LoRA added to the weights that it sits beside; the model stays as it is.

    Names are those of a model without LoRA. Raises ModelError for LoRA on anything but linear layers.
    """
    from peft.tuners.lora import LoraLayer  # takes seconds to import
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
    state = {
        name.replace(".base_layer.", "."): tensor.detach()
        for name, tensor in model.state_dict().items()
        if "lora_" not in name
    }
    for name, layer in layers.items():
        weight = f"{name}.weight"
        if not isinstance(layer, LoraLayer) or weight not in state:
            raise ModelError(f"the LoRA of '{name}' can be merged for good only")
        for adapter in layer.active_adapters:
            state[weight] = state[weight] + layer.get_delta_weight(adapter).to(state[weight].dtype)
    return state


def merge_lora(model: AudioLMForConditionalGeneration) -> None:
    """Add the LoRA matrices to the weights they sit beside, in place; the model has no LoRA afterwards."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
    for layer in layers.values():
        layer.merge()
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        if parent in layers:  # experts carry one around another
            continue
        while isinstance(layer, BaseTunerLayer):
            layer = layer.base_layer
        setattr(model.get_submodule(parent), child, layer)
    model.config.lora = None
