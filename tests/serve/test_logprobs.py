"""Tokens with their log probabilities and bytes, also where these are no text."""

import base64
import io

import numpy as np
import pytest
import soundfile
import torch
from tiny_parts import byte_tokenizer, sentencepiece_llama
from transformers import AutoTokenizer

from lalm.serve import running_batch
from lalm.serve.logprobs import token_bytes, token_entry


def question() -> list[dict]:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000, "PCM_16", format="wav")
    sound = {"data": base64.b64encode(file.getvalue()).decode(), "format": "wav"}
    parts = [{"type": "input_audio", "input_audio": sound}, {"type": "text", "text": "What?"}]
    return [{"role": "user", "content": parts}]


def test_bytes_of_a_token_are_its_own():
    tokenizer = byte_tokenizer()
    text = "a snow\u2603man \u2581 "
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(token_bytes(tokenizer, one) for one in ids) == text.encode()
    broken = next(one for one in ids if token_bytes(tokenizer, one) == b"\xe2")
    assert token_entry(tokenizer, broken, -1.0) == {"token": "\ufffd", "logprob": -1.0, "bytes": [0xE2]}
    (end,) = tokenizer.encode("<|im_end|>", add_special_tokens=False)
    assert token_bytes(tokenizer, end) == b"<|im_end|>"


def test_sentencepiece_has_its_spaces_and_bytes(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(sentencepiece_llama(tmp_path))
    ids = tokenizer.encode("A dog \u2603", add_special_tokens=False)
    assert any(token_bytes(tokenizer, one) == b" dog" for one in ids)
    assert b"".join(token_bytes(tokenizer, one) for one in ids).lstrip() == "A dog \u2603".encode()


@pytest.mark.parametrize("byte", [b"\xe2", b" "])
def test_tokens_without_a_text_are_told(serve, client, engine, monkeypatch, byte):
    """Bytes of which no character comes, and spaces that are stripped from an answer."""
    tokenizer = engine.processor.tokenizer
    token = next(one for one in range(len(tokenizer)) if token_bytes(tokenizer, one) == byte)
    monkeypatch.setattr(
        running_batch, "draw", lambda logits, *_: torch.full((len(logits),), token, dtype=torch.long)
    )
    asked = client(serve())
    wish = {"model": "tiny", "messages": question(), "max_tokens": 5, "logprobs": True}
    whole = asked.chat.completions.create(**wish).choices[0].logprobs.content
    assert [entry.bytes for entry in whole] == [list(byte)] * 5
    told = []
    for chunk in asked.chat.completions.create(**wish, stream=True):
        for choice in chunk.choices:
            told += choice.logprobs.content if choice.logprobs else []
    assert [entry.bytes for entry in told] == [list(byte)] * 5
