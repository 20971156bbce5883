"""LoRA in the LLM: put in, turned up or down, merged into the weights."""

from collections.abc import Mapping
from typing import Any

from lalm.models.classes import ModelError
from lalm.models.config import AudioLMConfig
from lalm.models.modeling import AudioLMForConditionalGeneration


def add_lora(model: AudioLMForConditionalGeneration, lora: Mapping[str, Any]) -> None:
    """Put LoRA matrices (float32) into the LLM and note their settings in the config."""
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora.get("dropout", 0.0),
        target_modules=list(lora["targets"]),
    )
    inject_adapter_in_model(settings, model.model.language_model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    model.config.lora = dict(lora)


def set_lora_scale(model: AudioLMForConditionalGeneration, scale: float | None) -> None:
    """Set how strongly LoRA acts: a layer's weight is W + scale * B A (SALMONN section 5.2), with no reload.

    ``scale`` is the factor itself, and training had alpha / rank, SALMONN 32 / 8 = 4.0: there
    4.0 is the model as trained, 2.0 half of what LoRA learned, 1.0 a quarter, and 0 the LLM alone. None goes
    back to alpha / rank. Raises ModelError for a model without LoRA, unless None is asked.
    """
    if not model.config.lora:
        if scale is None:
            return
        raise ModelError("this model has no LoRA, so there is no LoRA scale to set")
    from peft.tuners.lora import LoraLayer  # takes seconds to import

    value = trained_lora_scale(model.config) if scale is None else scale
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.scaling.update(dict.fromkeys(module.scaling, value))


def trained_lora_scale(config: AudioLMConfig) -> float | None:
    """The LoRA scale that training had, alpha / rank; None for a model without LoRA."""
    return config.lora["alpha"] / config.lora["rank"] if config.lora else None


def merge_lora(model: AudioLMForConditionalGeneration) -> None:
    """Add the LoRA matrices to the weights they sit beside, in place; the model has no LoRA afterwards."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    model.config.lora = None
