"""Whether two LLMs are one: a few numbers of the embedding table, the same in any precision and any copy."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

ROWS, COLUMNS = 16, 4
ROUNDING = 0.02  # between copies in different precision; bfloat16 changes a number by 0.4 % at most
SHAPE = ("model_type", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")


def embedding_sketch(llm: Any, vocabulary: int | None = None) -> list[float]:
    """Numbers of the table of a transformers LLM; of none that is smaller than ``vocabulary``.

    ``vocabulary`` is the size of the table that is looked for: a copy may have more rows.
    """
    table = llm.get_input_embeddings().weight.detach()  # (V, D)
    rows = torch.arange(ROWS) * ((vocabulary or len(table)) // ROWS)
    if int(rows[-1]) >= len(table):
        return []
    numbers = table[rows.to(table.device), :COLUMNS].float().flatten().tolist()
    return [float(f"{number:.6g}") for number in numbers]


def tensors_digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """Digest of a few numbers of every tensor: another after a step of training, or in other precision."""
    told = []
    for name, tensor in named:
        numbers = tensor.detach().flatten()
        places = torch.arange(min(ROWS, len(numbers)), device=numbers.device) * (len(numbers) // ROWS or 1)
        told.append([name, str(tensor.dtype), numbers[places].float().tolist()])
    return hashlib.sha256(json.dumps(sorted(told)).encode()).hexdigest()[:32]


def same_sketch(one: list[float], other: list[float]) -> bool:
    """Whether two sketches are of one table."""
    if len(one) != len(other):
        return False
    a, b = torch.tensor(one), torch.tensor(other)
    return bool((a - b).norm() <= ROUNDING * a.norm())


def check_same_llm(llm: Any, text_config: Any, trained: Any) -> None:
    """Raise ValueError unless ``llm`` is the one beside which the connector with config ``trained`` learned.

    Of checkpoints without a sketch the LLMs' configs are compared: Vicuna v1.1 and v1.5 are equally wide, and
    two LLMs all the same.
    """
    own, theirs = trained.text_config.to_dict(), text_config.to_dict()
    odd = [name for name in SHAPE if own.get(name) != theirs.get(name)]
    if trained.llm_sketch:
        same = same_sketch(trained.llm_sketch, embedding_sketch(llm, own["vocab_size"]))
        odd = [] if same else ["embedding table"]
    if odd:
        raise ValueError(
            f"the vision model's LLM is not '{trained.parts.get('llm', 'another')}', beside which the "
            f"connector was trained: its {odd[0]} differs. Train APT beside the vision model's LLM, or take "
            "the vision model that has this LLM"
        )
