"""4-bit weights of an LLM's lower layers, fitted once and kept in the weights' cache beside the int8 ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lalm.models.int4 import Codes, Fine, fitted, takes
from lalm.models.int8_weights import kept_file, kept_tensors
from lalm.models.llm_body import body_of
from lalm.weights.llm import load_causal_lm

FORMAT = 1  # of the kept file: another one is made anew


def kept_codes(folder: Path, told: Callable[[str], None] | None = None) -> Fine:
    """What gives the layers of the LLM in ``folder`` their codes. ``told`` gets a sentence when they are
    fitted now."""

    def make() -> dict[str, Tensor]:
        if told:
            told("fitting 4-bit weights to the LLM's lower layers, once")
        return _fitted(folder)

    tensors = kept_tensors(kept_file(folder, "int4", FORMAT), make)

    def of(name: str, layer: nn.Linear) -> Codes | None:
        plain = name.removesuffix(".base_layer")
        codes, groups = tensors(f"{plain}.int4"), tensors(f"{plain}.groups")
        return None if codes is None or groups is None else (codes, groups)

    return of


def _fitted(folder: Path) -> dict[str, Tensor]:
    """The weights of the LLM in ``folder`` in 4 bits, by name."""
    body: Any = body_of(load_causal_lm(str(folder), dtype=torch.bfloat16))
    tensors: dict[str, Tensor] = {}
    for name, layer in body.named_modules():
        if type(layer) is nn.Linear and takes(name, body.config.num_hidden_layers, layer.weight.shape):
            tensors[f"{name}.int4"], tensors[f"{name}.groups"] = fitted(layer.weight.detach())
    return tensors
