"""Answers that are JSON of a given schema: which tokens may come next, by llguidance."""

import json
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from lalm.inference.engine import Engine

SCHEMA_CHARACTERS = 50_000
# A state takes some 2 kB, and a client could ask for many.
LIMITS = LLParserLimits(max_lexer_states=20_000, verbose_errors=False)


class Shape:
    """One answer's grammar as far as it was said; not to be used by two threads at once."""

    def __init__(self, matcher: LLMatcher, ends: list[int]) -> None:
        self._matcher = matcher
        self._ends = ends

    def silence(self, logits: Tensor) -> None:
        """Set those of (V,) logits to -inf that may not come now; when all is said only the end may."""
        allowed = torch.zeros(len(logits), dtype=torch.bool)
        if self._matcher.is_stopped():  # all is said, or the schema asks for too much work
            allowed[self._ends] = True
        else:
            bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
            size = min(len(bits), len(allowed))
            allowed[:size] = torch.from_numpy(bits[:size].astype(bool))
            if self._matcher.is_error() or not allowed.any():
                allowed[:] = False
                allowed[self._ends] = True
        logits.masked_fill_(~allowed.to(logits.device), -torch.inf)

    def said(self, token: int) -> None:
        """Note the token that was chosen."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


class Shapes:
    """Schemas -> shapes, for one engine's tokenizer."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._tokenizer: LLTokenizer | None = None

    def shape(self, schema: dict[str, Any]) -> Shape:
        """A new answer's shape; takes up to a second. Raises ValueError for what is no schema."""
        text = json.dumps(schema)
        if len(text) > SCHEMA_CHARACTERS:
            raise ValueError(f"the JSON schema has more than {SCHEMA_CHARACTERS} characters")
        ends = sorted(self.engine.ends())
        if self._tokenizer is None:
            self._tokenizer = from_tokenizer(self.engine.processor.tokenizer, eos_token=ends)
        grammar = LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            reason = " ".join(matcher.get_error().split())
            raise ValueError(f"the JSON schema cannot be used: {reason[:200]}")
        return Shape(matcher, ends)
