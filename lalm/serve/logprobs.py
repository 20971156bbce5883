"""Log probabilities of tokens in OpenAI's format."""

from collections.abc import Sequence
from typing import Any

from lalm.serve.jobs import TokenLogprob


def token_entry(tokenizer: Any, token: int, logprob: float) -> dict[str, Any]:
    """One token: its text, its log probability (at least -9999, which JSON can hold) and its bytes."""
    text = str(tokenizer.decode([token]))
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}


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
