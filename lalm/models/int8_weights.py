"""int8 weights of an LLM, rounded once and kept in the weights' cache, and an LLM that waits for them.

The file holds what a quantised LLM needs: the linear layers' int8 weights and scales, and everything else as
it was. It is mapped, not read: a table of embeddings costs the memory of the rows that are looked up.
"""

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
from lalm.weights.kept_files import made_alone, tell_damaged
from lalm.weights.llm import load_causal_lm

FORMAT = 1  # of the kept file: another one is made anew
Tensors = Callable[[str], Tensor | None]
"""Gives the tensor of a name, or None where there is none."""


def kept_file(folder: Path, kind: str = "int8", form: int = FORMAT) -> Path:
    """Where an LLM's weights of that kind are kept: by the sha256 of its own."""
    return cache_root() / kind / f"{identity(folder)[:24]}-{form}.safetensors"


def kept_tensors(path: Path, make: Callable[[], dict[str, Tensor]]) -> Tensors:
    """The tensors that are kept there, each read when it is asked for. Where there is no whole file they are
    made and written; where that cannot be, they come from memory, and a line says so."""
    if (found := _from_file(path)) is not None:
        return found
    what = f"the LLM's {path.parent.name} weights"
    with made_alone(path, what, "they are made") as making:
        if (found := _from_file(path, told=True)) is not None:  # another process was faster
            return found
        tensors = make()
        kept = making.keep(lambda draft: _write(draft, tensors))
    return (_from_file(path) if kept else None) or tensors.get


def _from_file(path: Path, told: bool = False) -> Tensors | None:
    """What reads a file's tensors; None where there is no file that can be read, with a line if ``told``."""
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        if told:
            tell_damaged(path, error)
        return None

    def of(name: str) -> Tensor | None:
        if name not in names:
            return None
        with safe_open(path, "pt") as file:  # opened for each: what was read is given back
            tensor: Tensor = file.get_tensor(name)
        return tensor

    return of


def _write(draft: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft)
    except SafetensorError as error:  # how safetensors says what the system refused
        raise OSError(str(error)) from None
    draft.chmod(0o644)  # safetensors makes files that only their owner may read


def waiting_llm(folder: Path, told: Callable[[str], None] | None = None) -> tuple[Any, Weights] | None:
    """An LLM without the weights of its linear layers, and what gives these in int8; None for families that
    are rounded anew each time. ``told`` gets a sentence when the weights are rounded now."""
    if folder.suffix == ".gguf":
        return None
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type not in FAMILIES:
        return None

    def make() -> dict[str, Tensor]:
        if told:
            told("rounding the LLM's weights to int8, once")
        return _rounded(folder)

    tensors = kept_tensors(kept_file(folder), make)
    llm = hollow_llm(folder, config, tensors)
    return None if llm is None else (llm, _weights(tensors))


def _rounded(folder: Path) -> dict[str, Tensor]:
    """The weights of the LLM in ``folder``, rounded, by name."""
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
    return tensors


def _weights(tensors: Tensors) -> Weights:
    def of(name: str, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        plain = name.removesuffix(".base_layer")
        weight, scale = tensors(f"{plain}.int8"), tensors(f"{plain}.scale")
        assert weight is not None and scale is not None
        return weight, scale

    return of
