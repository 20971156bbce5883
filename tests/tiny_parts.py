"""Small random parts that tests assemble models from: a byte tokenizer, a Llama folder, noise clips."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from lalm.encoders import build_encoder
from lalm.encoders.beats import BEATsConfig

OPTIONS: dict[str, dict[str, Any]] = {
    "acdc": {"group_size": 5, "connector_width": 24, "remainder": "pad"},
    "apt": {
        "num_queries": 3,
        "aligner": {
            **{"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        },
    },
    "modular": {"connector": "mlp", "connector_options": {"stack": 5, "hidden": 24}},
    "qwen2-audio": {},
    "salmonn": {
        "num_queries": 2,  # with one, self-attention has nothing to choose from and learns nothing
        **{"qformer_width": 24, "qformer_heads": 2, "qformer_inner": 32, "qformer_dropout": 0.0},
    },
}


def byte_tokenizer(end: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """One token a byte, ChatML markers, an audio token; ``end`` is the LLM's own end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token="<|pad|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|audio|>"]})
    return fast


def llama_folder(folder: Path, *, dropout: float = 0.0, end: str = "<|im_end|>") -> Path:
    """A two-layer Llama with the byte tokenizer, in the Hub's layout."""
    tokenizer = byte_tokenizer(end)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) - 1,  # all but the audio token, which no LLM knows
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_dropout=dropout,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sentencepiece_llama(folder: Path) -> Path:
    """A tokenizer of the kind Vicuna has: SentencePiece with <s>, </s> and bytes, and no chat template."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{i:02X}>": 3 + i for i in range(256)}
    merges: list[tuple[str, str]] = []
    for word in (
        "▁USER",
        "▁ASSISTANT",
        "ASSISTANT",
        "▁Speech",
        "Speech",
        "▁Describe",
        "▁A",
        "▁dog",
        "▁barks",
    ):
        for i, letter in enumerate(word):
            vocabulary.setdefault(letter, len(vocabulary))
            vocabulary.setdefault(word[: i + 1], len(vocabulary))
            if i and (word[:i], letter) not in merges:
                merges.append((word[:i], letter))
    for letter in "▁:<>/.":
        vocabulary.setdefault(letter, len(vocabulary))
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


def whisper_folder(folder: Path, *, layers: int = 1) -> Path:
    """A Whisper of one layer, 16 wide, in the Hub's layout."""
    torch.manual_seed(1)
    config = WhisperConfig(
        vocab_size=64,
        d_model=16,
        encoder_layers=layers,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        dropout=0.5,  # must stay off: the encoder is frozen
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    return folder


def beats_folder(folder: Path) -> Path:
    """A one-layer BEATs, 16 wide, as a folder of ours."""
    torch.manual_seed(2)
    config = BEATsConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        embed_size=8,
        conv_positions=8,
        conv_position_groups=4,
    )
    folder.mkdir(parents=True)
    save_file(build_encoder(config).state_dict(), folder / "model.safetensors")
    config.save_pretrained(folder)
    return folder


def bert_folder(folder: Path) -> Path:
    """A two-layer BERT, 16 wide, whose tokens are letters, in the Hub's layout."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.?,:;"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters)]
    tokenizer = BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def noise(path: Path, seconds: float, seed: int = 0) -> Path:
    """A clip of quiet noise, 16 kHz mono."""
    samples = np.random.default_rng(seed).normal(0, 0.05, int(seconds * 16_000)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16_000)
    return path


def warnings_of(caplog: Any) -> list[str]:
    """What lalm's own loggers said, which the command line shows on standard error; not that this processor
    is slow in a number format, which hangs on where the tests run."""
    said = [record for record in caplog.records if record.name.startswith("lalm.")]
    return [record.getMessage() for record in said if record.name != "lalm.device"]
