"""int8 weights of an LLM, rounded once and kept in the weights' cache, and an LLM that waits for them.

The file holds what a quantised LLM needs: the linear layers' int8 weights and scales, and everything else as
it was. It is mapped, not read: a table of embeddings costs the memory of the rows that are looked up.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig

from lalm.models.hollow_llm import hollow_llm
from lalm.models.int8 import HEAD, Weights, quantise
from lalm.models.llm_body import body_of
from lalm.models.next_position import FAMILIES
from lalm.weights.fetch import cache_root
from lalm.weights.identity import identity
from lalm.weights.llm import load_causal_lm

FORMAT = 1  # of the kept file: another one is made anew


def kept_file(folder: Path, kind: str = "int8", form: int = FORMAT) -> Path:
    """Where an LLM's weights of that kind are kept: by the sha256 of its own."""
    return cache_root() / kind / f"{identity(folder)[:24]}-{form}.safetensors"


def kept_names(path: Path, make: Callable[[], set[str]]) -> set[str]:
    """The names of the tensors that are kept there; ``make`` writes them where there is no whole file."""
    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError):
        return make()


def waiting_llm(folder: Path, told: Callable[[str], None] | None = None) -> tuple[Any, Weights] | None:
    """An LLM without the weights of its linear layers, and what gives these in int8; None for families that
    are rounded anew each time.

    ``told`` gets a sentence when the weights are rounded now. A file that cannot be written or read is made
    anew where it can, and missed otherwise.
    """
    if folder.suffix == ".gguf":
        return None
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type not in FAMILIES:
        return None
    path = kept_file(folder)

    def make() -> set[str]:
        if told:
            told("rounding the LLM's weights to int8, once")
        return _make(folder, path)

    try:
        names = kept_names(path, make)
    except OSError:  # no room, or a cache that may not be written
        return None
    with safe_open(path, "pt") as file:
        llm = hollow_llm(folder, config, lambda name: file.get_tensor(name) if name in names else None)
    return None if llm is None else (llm, _weights(path))


def _make(folder: Path, path: Path) -> set[str]:
    """Round the weights of the LLM in ``folder`` and write them; the names of the tensors."""
    llm: Any = load_causal_lm(str(folder), dtype=torch.bfloat16)
    tensors: dict[str, Tensor] = {}
    body, head = body_of(llm), llm.get_output_embeddings()
    layers = {name: layer for name, layer in body.named_modules() if type(layer) is nn.Linear}
    for name, layer in (layers | {HEAD: head}).items():
        tensors[f"{name}.int8"], tensors[f"{name}.scale"] = quantise(layer.weight.detach())
        if layer.bias is not None:
            tensors[f"{name}.bias"] = layer.bias.detach().float()
    for name, parameter in body.named_parameters():
        if name.rpartition(".")[0] not in layers:
            tensors[name] = parameter.detach() if parameter.ndim > 1 else parameter.detach().float()
    write(path, tensors)
    return set(tensors)


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """A file of the cache, whole or not at all. Raises OSError where there is no room or no right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft)
        draft.rename(path)
    except SafetensorError as error:  # how safetensors says that the disk is full
        raise OSError(str(error)) from None
    finally:
        draft.unlink(missing_ok=True)


def _weights(path: Path) -> Weights:
    def of(name: str, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        plain = name.removesuffix(".base_layer")
        with safe_open(path, "pt") as file:  # opened for each: what was read is given back
            return file.get_tensor(f"{plain}.int8"), file.get_tensor(f"{plain}.scale")

    return of
