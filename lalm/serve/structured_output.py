"""Structured output: masks the tokens that would break a schema or grammar, using llguidance."""

from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from lalm.inference.engine import Engine
from lalm.serve.guidance import NAMES, Guide, schema_guide

# A lexer state takes about 2 kB, and a schema can need very many.
LIMITS = LLParserLimits(max_lexer_states=20_000, verbose_errors=False)


class Grammar:
    """The state of one answer within its grammar. Not thread-safe."""

    def __init__(self, matcher: LLMatcher, eos_ids: list[int]) -> None:
        self._matcher = matcher
        self._eos_ids = eos_ids

    def mask_logits(self, logits: Tensor) -> None:
        """Set the logits (V,) of forbidden tokens to -inf; after a complete value only the end is allowed."""
        allowed = torch.zeros(len(logits), dtype=torch.bool)
        if self._matcher.is_stopped():  # the value is complete, or the schema exceeds the limits
            allowed[self._eos_ids] = True
        else:
            bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
            size = min(len(bits), len(allowed))
            allowed[:size] = torch.from_numpy(bits[:size].astype(bool))
            if self._matcher.is_error() or not allowed.any():
                allowed[:] = False
                allowed[self._eos_ids] = True
        logits.masked_fill_(~allowed.to(logits.device), -torch.inf)

    def accept_token(self, token: int) -> None:
        """Advance by the token that was chosen."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


class GrammarCompiler:
    """Compiles schemas, regular expressions and grammars over one engine's tokenizer."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._tokenizer: LLTokenizer | None = None

    def compile(self, asked: Guide | dict[str, Any]) -> Grammar:
        """A grammar for one answer, from a guide or a JSON schema; takes up to a second.

        Raises ValueError for what cannot be kept to.
        """
        guide = asked if isinstance(asked, Guide) else schema_guide(asked)
        eos_ids = sorted(self.engine.ends())
        if self._tokenizer is None:
            self._tokenizer = from_tokenizer(self.engine.processor.tokenizer, eos_token=eos_ids)
        match guide.kind:
            case "json":
                grammar = LLMatcher.grammar_from_json_schema(
                    guide.text, overrides={"whitespace_flexible": False}
                )
            case "regex":
                grammar = LLMatcher.grammar_from_regex(guide.text)
            case "lark":
                grammar = LLMatcher.grammar_from_lark(guide.text)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            reason = " ".join(matcher.get_error().split())
            raise ValueError(f"the {NAMES[guide.kind]} cannot be used: {reason[:200]}")
        return Grammar(matcher, eos_ids)
