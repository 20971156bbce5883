"""Opens the LLM: any causal language model of transformers, from a folder or one file."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import normalizers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LlamaTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lalm.errors import LalmError, refuse_pickled_code

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
# Of a multimodal model the whole is opened, and its text part taken.
OPENERS: tuple[Any, ...] = (
    *(AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForImageTextToText),
    AutoModelForSeq2SeqLM,  # Audio Flamingo 3, which is no encoder-decoder, stands there alone
)


class LLMError(LalmError, ValueError):
    """A folder holds no LLM, or not a whole one; the text says what is missing."""


def load_causal_lm(folder: str, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Open any transformers causal LM: a folder in the Hub's layout, or one ``.gguf`` file.

    Weights may be safetensors or ``.bin``, whole or in shards. Raises LLMError.
    """
    path = Path(folder)
    if path.suffix == ".gguf":
        return AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=dtype or torch.float32,
            trust_remote_code=False,
            **_dequantize(),
        )
    check_llm(path)
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kind = next((auto for auto in OPENERS if type(config) in auto._model_mapping), None)
    if kind is None or config.is_encoder_decoder:
        raise LLMError(_no_causal_lm(folder, config))
    with refuse_pickled_code(f"the weights in '{folder}'"):
        llm: PreTrainedModel = kind.from_pretrained(folder, dtype=dtype or "auto", trust_remote_code=False)
    if config.model_type == "rwkv":
        config = llm.config
        config.rescale_every = 0  # else it changes its weights in place, and they are saved changed
    return _inner(llm)


def _inner(llm: Any) -> PreTrainedModel:
    """Of BLIP-2 and Llama 4, say, the causal LM in it, which has its own head; any other as it is."""
    for inner in (llm.get_decoder(), getattr(llm, "language_model", None)):
        if inner is not llm and isinstance(inner, PreTrainedModel):
            kind = type(inner.config)
            if kind in MODEL_FOR_CAUSAL_LM_MAPPING and MODEL_FOR_CAUSAL_LM_MAPPING[kind] is type(inner):
                return inner
    whole: PreTrainedModel = llm
    return whole


def _no_causal_lm(folder: str, config: Any) -> str:
    if config.is_encoder_decoder:
        why = "an encoder-decoder, whose decoder goes on from what its encoder read and not from a prompt"
    else:
        why = "no language model that goes on with a text"
    return f"the model in '{folder}' is a '{config.model_type}': {why}; take a decoder-only LLM"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an LLM folder (``tokenizer.json``, or SentencePiece's ``tokenizer.model``) or of a
    ``.gguf`` file. Raises LLMError."""
    if folder.suffix == ".gguf":
        return AutoTokenizer.from_pretrained(folder.parent, gguf_file=folder.name, trust_remote_code=False)
    if (folder / "config.json").is_file():
        _config(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise LLMError(f"'{folder}' has no tokenizer: none of {', '.join(TOKENIZER_FILES)} is in it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise LLMError(f"the tokenizer in '{folder}' cannot be read: {str(error).splitlines()[0]}") from None
    if not (folder / "tokenizer.json").is_file() and isinstance(tokenizer, LlamaTokenizer):
        _as_sentencepiece(folder, tokenizer)
    _let_go(tokenizer)
    return tokenizer


def _let_go(tokenizer: PreTrainedTokenizerBase) -> None:
    """Forget the vocabulary and merges as Python objects, from which transformers' classes build the Rust
    tokenizer that does the work and has them too: 60 MB of the packaged model's 150,000 tokens."""
    for name in ("_vocab", "_merges"):
        vars(tokenizer).pop(name, None)


def check_llm(folder: Path) -> None:
    """Refuse a folder whose config.json or weights are not those of an LLM that can be opened: LLMError.

    The weights' files are looked for, not read.
    """
    _config(folder)
    for whole in WEIGHT_FILES:
        if (folder / whole).is_file():
            return
        index = folder / f"{whole}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise LLMError(f"'{index}' is damaged: it has no weight_map") from None
            missing = [name for name in shards if not (folder / name).is_file()]
            if missing:
                raise LLMError(f"'{folder}' is not whole: it lacks {missing[0]}, which {index.name} names")
            return
    raise LLMError(f"'{folder}' has no weights: neither {' nor '.join(WEIGHT_FILES)}, whole or in shards")


def _config(folder: Path) -> dict[str, Any]:
    """The fields of config.json, of a kind of model that transformers itself has."""
    try:
        fields = json.loads((folder / "config.json").read_text())
        kind = str(fields["model_type"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise LLMError(
            f"'{folder}' is no LLM folder: its config.json cannot be read; `lalm weights "
            "list` has those with a name"
        ) from None
    if kind not in CONFIG_MAPPING:
        way = "; convert it to the qwen2 format, or take a Qwen1.5" if kind == "qwen" else ""
        raise LLMError(
            f"the model in '{folder}' is a '{kind}', which only code beside its weights can open, and such "
            f"code is not run{way}"
        )
    return dict(fields)


def _as_sentencepiece(folder: Path, tokenizer: Any) -> None:
    """Let every text between special tokens begin with a space, as SentencePiece's own program has it.

    Folders that hold tokenizer.model alone are of the time when transformers ran that program; a folder
    whose tokenizer_config.json says "legacy": false is not.
    """
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
    except (OSError, ValueError, RecursionError):
        settings = {}
    if settings.get("legacy", True):
        backend = tokenizer.backend_tokenizer
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None


def _dequantize() -> dict[str, Any]:
    """The option that unpacks GGUF weights; older transformers always unpack and have no such option."""
    from transformers.utils import quantization_config

    if "GgufConfig" not in vars(quantization_config):
        return {}
    return {"quantization_config": quantization_config.GgufConfig(dequantize=True)}
