"""The tokenizer in a GGUF file: byte-level BPE, its words split by a rule that llama.cpp has a name for."""

import json
from collections.abc import Collection
from typing import Any

import gguf
from gguf import TokenType

from lalm.inference.llamacpp.gguf_file import GGUFError
from lalm.models.processing import AudioLMProcessor

# How a tokenizer splits a text into words before it joins bytes -> what llama.cpp calls it.
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RULES = {
    (_ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _SIGNS,): "qwen2",
    (_ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _SIGNS,): "llama-bpe",
    ("digits", "words"): "smollm",
    ("words",): "gpt-2",
}
IGNORES_MERGES = ("llama-bpe",)  # a whole word that is a token is taken as it is


def splitting_rule(tokenizer: dict[str, Any], name: str) -> str:
    """llama.cpp's name for the rule of a tokenizer.json's fields. Raises GGUFError where it has none."""
    first = tokenizer["pre_tokenizer"] or {}
    steps = first.get("pretokenizers", [first])
    rule: list[str] = []
    for step in steps:
        match step.get("type"):
            case "Split" if step["behavior"] == "Isolated" and not step["invert"]:
                rule.append(str(step["pattern"].get("Regex")))
            case "Digits" if step["individual_digits"]:
                rule.append("digits")
            case "ByteLevel" if not step["add_prefix_space"]:
                rule += ["words"] if step["use_regex"] else []
            case _:
                rule.append("unknown")
    found = RULES.get(tuple(rule))
    normaliser = (tokenizer["normalizer"] or {}).get("type", "NFC")  # llama.cpp takes text as it comes
    own = tokenizer["model"]
    bytes_alone = own["type"] == "BPE" and steps[-1].get("type") == "ByteLevel"
    if not found or not bytes_alone or normaliser != "NFC":
        raise GGUFError(
            f"the tokenizer of '{name}' splits text by a rule that is not known here by llama.cpp's name; "
            f"known are those of {', '.join(RULES.values())}"
        )
    if bool(own.get("ignore_merges")) != (found in IGNORES_MERGES):
        raise GGUFError(f"the tokenizer of '{name}' treats whole words otherwise than llama.cpp's '{found}'")
    return found


def add_vocabulary(
    writer: gguf.GGUFWriter,
    processor: AudioLMProcessor,
    size: int,
    ends: Collection[int],
    template: str,
) -> None:
    """Write tokens, merges, special tokens and the chat template; ``size`` is that of the embedding table.

    The audio slot's token is left out: in llama.cpp the audio itself stands there. ``ends`` are the tokens
    that end an answer, the one of the chat template first.
    """
    tokenizer = processor.tokenizer
    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    rule = splitting_rule(fields, str(tokenizer.name_or_path))
    if (most := max(fields["model"]["vocab"].values(), default=-1) + 1) > size:
        raise GGUFError(
            f"the tokenizer of '{tokenizer.name_or_path}' has {most} tokens and its LLM's table of "
            f"embeddings {size} rows: llama.cpp takes no token without one"
        )
    tokens = [f"[PAD{i}]" for i in range(size)]
    kinds = [TokenType.UNUSED] * size
    for token, i in fields["model"]["vocab"].items():
        tokens[i], kinds[i] = token, TokenType.NORMAL
    for one in fields["added_tokens"]:
        if one["id"] < size and one["content"] != processor.audio_token:
            tokens[one["id"]] = one["content"]
            kinds[one["id"]] = TokenType.CONTROL if one["special"] else TokenType.USER_DEFINED
    merges = [
        pair if isinstance(pair, str) else " ".join(half.replace(" ", "Ġ") for half in pair)
        for pair in fields["model"]["merges"]
    ]
    if not merges:
        raise GGUFError(
            f"the tokenizer of '{tokenizer.name_or_path}' joins nothing, which llama.cpp cannot read"
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    first, *others = ends
    writer.add_eos_token_id(first)
    if others:
        writer.add_eot_token_id(others[0])
    if others[1:]:
        writer.add_eom_token_id(others[1])
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id < size:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)  # the chat template writes what is to stand there
    writer.add_chat_template(template)
