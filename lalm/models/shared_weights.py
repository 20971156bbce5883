"""Weights that several open models have in common are held once: LoRA runs on one LLM cost little more."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def share_weights(model: nn.Module, others: Iterable[nn.Module]) -> int:
    """Let ``model`` use the weights of ``others`` where they are equal; the bytes that this saves.

    Only for models that are never trained again: a weight is shared where name, shape, dtype, device and
    every value are the same. What LoRA wraps keeps its name here.
    """
    known: dict[str, list[Tensor]] = {}
    for other in others:
        for name, weight in other.named_parameters():
            known.setdefault(_bare(name), []).append(weight.data)
    saved = 0
    for name, weight in model.named_parameters():
        for held in known.get(_bare(name), []):
            if held.data_ptr() != weight.data_ptr() and _same(held, weight.data):
                saved += weight.nbytes
                weight.data = held
                break
    return saved


def _bare(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _same(a: Tensor, b: Tensor) -> bool:
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device) or a.is_meta:
        return False
    return torch.equal(a.flatten()[:64], b.flatten()[:64]) and torch.equal(a, b)
