"""Log probabilities of tokens in OpenAI's format: with the bytes that a token is, which may be part of a
character only."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from lalm.serve.jobs import TokenLogprob


def token_entry(tokenizer: Any, token: int, logprob: float) -> dict[str, Any]:
    """One token: its text, its log probability (at least -9999, which JSON can hold) and its bytes. The bytes
    of all tokens in a row are the answer's; what is no whole character by itself is a U+FFFD in the text."""
    raw = token_bytes(tokenizer, token)
    return {
        "token": raw.decode("utf-8", "replace"),
        "logprob": max(logprob, -9999.0),
        "bytes": list(raw),
    }


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """The bytes that a token stands for, in byte-level and SentencePiece vocabularies; of a token that is
    written otherwise those of its text."""
    name = tokenizer.convert_ids_to_tokens(token)
    if not isinstance(name, str):
        return str(tokenizer.decode([token])).encode()
    kinds = _decoders(tokenizer)
    if "ByteLevel" in kinds:
        table = _byte_signs()
        return bytes(table[sign] for sign in name) if all(s in table for s in name) else name.encode()
    if "ByteFallback" in kinds and (byte := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", name)):
        return bytes.fromhex(byte[1])
    if "\u2581" in name:
        return name.replace("\u2581", " ").encode()
    return str(tokenizer.decode([token])).encode()


def _decoders(tokenizer: Any) -> frozenset[str]:
    """The kinds of a fast tokenizer's decoders; none of any other."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if decoder is None:
        return frozenset()
    told = json.loads(decoder.__getstate__())
    return frozenset(own["type"] for own in told.get("decoders", [told]))


@cache
def _byte_signs() -> Mapping[str, int]:
    """The sign by which byte-level vocabularies write each byte (GPT-2's): itself where it can be seen."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + at): byte for at, byte in enumerate(others)}


def chosen_tokens(tokenizer: Any, scores: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """The tokens of an answer."""
    return [token_entry(tokenizer, score.token, score.logprob) for score in scores]


def chat_logprobs(tokenizer: Any, scores: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The tokens of an answer, each with the likeliest at its place."""
    content = [
        {
            **token_entry(tokenizer, score.token, score.logprob),
            "top_logprobs": [token_entry(tokenizer, *pair) for pair in score.top],
        }
        for score in scores
    ]
    return {"content": content, "refusal": None}
