"""Opens the LLM: any causal language model of transformers, from a folder or one file."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


def load_causal_lm(folder: str, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Open any transformers causal LM: a folder in the Hub's layout, or one ``.gguf`` file."""
    if folder.endswith(".gguf"):
        path = Path(folder)
        return AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype or torch.float32, **_dequantize()
        )
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an LLM folder or ``.gguf`` file."""
    if folder.suffix == ".gguf":
        return AutoTokenizer.from_pretrained(folder.parent, gguf_file=folder.name)
    return AutoTokenizer.from_pretrained(folder)


def _dequantize() -> dict[str, Any]:
    """The option that unpacks GGUF weights; older transformers always unpack and have no such option."""
    from transformers.utils import quantization_config

    if "GgufConfig" not in vars(quantization_config):
        return {}
    return {"quantization_config": quantization_config.GgufConfig(dequantize=True)}
