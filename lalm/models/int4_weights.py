"""4-bit weights of an LLM's lower layers, fitted once and kept in the weights' cache beside the int8 ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lalm.models.int4 import Codes, Fine, fitted, takes
from lalm.models.int8_weights import kept_file, kept_names, write
from lalm.models.llm_body import body_of
from lalm.weights.llm import load_causal_lm

FORMAT = 1  # of the kept file: another one is made anew


def kept_codes(folder: Path, told: Callable[[str], None] | None = None) -> Fine:
    """What gives the layers of the LLM in ``folder`` their codes. ``told`` gets a sentence when they are
    fitted now. Raises OSError where they cannot be kept."""
    path = kept_file(folder, "int4", FORMAT)

    def make() -> set[str]:
        if told:
            told("fitting 4-bit weights to the LLM's lower layers, once")
        return _make(folder, path)

    names = kept_names(path, make)

    def of(name: str, layer: nn.Linear) -> Codes | None:
        plain = name.removesuffix(".base_layer")
        if f"{plain}.int4" not in names:
            return None
        with safe_open(path, "pt") as file:  # opened for each: what was read is given back
            return file.get_tensor(f"{plain}.int4"), file.get_tensor(f"{plain}.groups")

    return of


def _make(folder: Path, path: Path) -> set[str]:
    """Fit the weights of the LLM in ``folder`` and write them; the names of the tensors."""
    body: Any = body_of(load_causal_lm(str(folder), dtype=torch.bfloat16))
    tensors: dict[str, Tensor] = {}
    for name, layer in body.named_modules():
        if type(layer) is nn.Linear and takes(name, body.config.num_hidden_layers, layer.weight.shape):
            tensors[f"{name}.int4"], tensors[f"{name}.groups"] = fitted(layer.weight.detach())
    write(path, tensors)
    return set(tensors)
