"""The instruction text that conditions the connector, for systems whose connector reads one."""

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lalm.data.sample import Sample

MARK = "\N{CURRENCY SIGN}"  # a user's turn, to see what a template puts around it


def instructions(sample: Sample, scope: str) -> list[str]:
    """What the connector is told with each clip of a conversation, in reading order.

    With the scope "own" that is the text between the clip and the next one, with "whole" all text of its
    message. A clip that no text follows is told all of it in either case.
    """
    told: list[str] = []
    for message in sample.messages:
        content = message["content"]
        if isinstance(content, str):
            continue
        places = [i for i, part in enumerate(content) if part["type"] == "audio"]
        whole = _text(content)
        for i, following in itertools.pairwise([*places, len(content)]):
            told.append((_text(content[i:following]) if scope == "own" else "") or whole)
    return told


def instructions_in(text: str, slot: str, turn: tuple[str, str], scope: str) -> list[str]:
    """The same, read from a rendered prompt with one ``slot`` a clip, for programs that have nothing else.

    ``turn`` is what stands before and after a user's turn, nothing where there are no role markers: then the
    prompt is one turn. Text parts that nothing stood between are one.
    """
    told: list[str] = []
    for part in text.split(turn[1]) if turn[1] else [text]:
        pieces = (part.rpartition(turn[0])[2] if turn[0] else part).split(slot)
        whole = " ".join(piece.strip() for piece in pieces).strip()
        told += [(piece.strip() if scope == "own" else "") or whole for piece in pieces[1:]]
    return told


def told_in(processor: Any, texts: str | Sequence[str]) -> dict[str, Tensor]:
    """What the connector is told with each clip of rendered prompts, as ``tokenised`` gives it; nothing for
    one that reads no instructions."""
    if processor.instructions is None:
        return {}
    tokenizer, config = processor.tokenizer, processor.config
    asked = [{"role": "user", "content": MARK}]
    around = tokenizer.apply_chat_template(
        asked, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )
    begin = tokenizer.bos_token or ""
    before, _, after = around.partition(MARK)
    turn = (before.removeprefix(begin), after)
    prompts = [text.removeprefix(begin) for text in ([texts] if isinstance(texts, str) else texts)]
    told = [
        t for text in prompts for t in instructions_in(text, processor.audio_token, turn, config.instruction)
    ]
    return tokenised(told, processor.instructions, config.instruction_tokens)


def tokenised(texts: list[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> dict[str, Tensor]:
    """instruction_ids and instruction_mask, (A, I) int64 each; of over ``limit`` tokens the end counts."""
    tokenizer.truncation_side = "left"
    encoded = tokenizer(
        texts,
        padding=True,
        padding_side="right",
        truncation=True,
        max_length=limit,
        return_tensors="pt",
        split_special_tokens=True,  # "[SEP]" in a question is text
    )
    return {"instruction_ids": encoded["input_ids"], "instruction_mask": encoded["attention_mask"]}


def _text(parts: Sequence[Any]) -> str:
    """The text parts among ``parts`` as one line."""
    return " ".join(part["text"].strip() for part in parts if part["type"] == "text").strip()
