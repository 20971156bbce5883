"""An LLM whose linear layers something else multiplies: their weights are one number that stands for all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from lalm.models.int8 import HEAD
from lalm.models.next_position import FAMILIES


def hollow_llm(folder: Path, config: Any, given: Callable[[str], Tensor | None]) -> Any:
    """The causal LM of ``config`` without its linear layers' weights; the other parameters come from
    ``given``, by their names in the body. None where one is missing. ``folder``: the LLM's own."""
    with torch.device("meta"):
        llm: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    body, head = llm.get_decoder(), llm.get_output_embeddings()
    for name, module in [*body.named_modules(), (HEAD, head)]:
        for own, parameter in list(module.named_parameters(recurse=False)):
            value: Tensor | None
            if type(module) is nn.Linear and own == "weight":
                value = torch.zeros(1, dtype=torch.bfloat16).expand(parameter.shape)  # LoRA wants the shape
            else:
                value = given(f"{name}.{own}" if name else own)
            if value is None:
                return None
            setattr(module, own, nn.Parameter(value, requires_grad=False))
    body.rotary_emb = type(body.rotary_emb)(config)
    if any(tensor.is_meta for tensor in (*llm.parameters(), *llm.buffers())):
        return None
    settings = folder / "generation_config.json"
    if settings.is_file():
        llm.generation_config = GenerationConfig.from_dict(json.loads(settings.read_text()))
    return llm.eval()


def hollow_of_folder(folder: Path) -> Any:
    """The same of an LLM folder with one file of weights, which is mapped; None for others."""
    path = folder / "model.safetensors"
    if not path.is_file():
        return None
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type not in FAMILIES:
        return None
    with safe_open(path, "pt") as file:
        names = set(file.keys())

        def given(name: str) -> Tensor | None:
            return file.get_tensor(f"model.{name}") if f"model.{name}" in names else None

        return hollow_llm(folder, config, given)
