"""A budget for thinking: a model that thinks aloud is made to stop after so many tokens, and then answers.

The end of the thinking is put in the model's mouth when its budget is spent ("budget forcing", Muennighoff et
al. 2025, arXiv 2501.19393, section 3.1), so that thinking never takes the tokens that the answer may have.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from lalm.inference.final_answer import thinking_close, thinking_end, thinking_open

TAIL = 24  # tokens that a tag takes at most, where it is spelled out


class Thinking:
    """Follows one answer's tokens: whether it thinks, since when, and when its budget is spent."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, budget: int, prompt: Sequence[int] = ()) -> None:
        """prompt: the ids before the answer; some templates open the thinking there."""
        self.spent = 0  # tokens of the thinking, its tags included
        self.cut = False  # whether the budget ended it
        self._tokenizer, self._budget = tokenizer, budget
        self._tokens: list[int] = []
        self._closing: list[int] = []  # what is still to be put in the model's mouth
        before = self._text([token for token in prompt[-TAIL:] if 0 <= token < len(tokenizer)])
        opened = thinking_open(before, at_end=True)
        self._close = thinking_close(opened) if opened else ""
        self._state = "thinking" if opened else "beginning"

    @property
    def on(self) -> bool:
        """Whether it is thinking now."""
        return self._state == "thinking"

    @property
    def forced(self) -> int | None:
        """The token that must come next; None: any may."""
        return self._closing[0] if self._closing else None

    def add(self, token: int) -> None:
        """The next token of the answer."""
        self._tokens.append(token)
        if self._closing and token == self._closing[0]:
            self._closing.pop(0)
        if self._state == "beginning":
            self._begin()
        if self._state == "thinking":
            self._think()

    def _begin(self) -> None:
        said = self._text(self._tokens[:TAIL]).lstrip()
        if opened := thinking_open(said):
            self._state, self._close = "thinking", thinking_close(opened)
        elif said and (said[0] not in "<[\u25c1" or len(self._tokens) >= TAIL):
            self._state = "answering"

    def _think(self) -> None:
        self.spent = len(self._tokens)
        ended = thinking_end(self._text(self._tokens[-TAIL:]))
        if ended and not self._closing:
            self._state = "answering"
        elif self.spent >= self._budget and not self.cut:
            self.cut = True
            self._closing = list(self._tokenizer.encode(f"\n{self._close}\n\n", add_special_tokens=False))

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))


class ThinkingBudget(LogitsProcessor):
    """For ``generate``: ends each row's thinking where its budget is spent. Who follows the answers adds
    their tokens to the rows."""

    def __init__(self, rows: Sequence[Thinking]) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: the new ids, (B, new); scores (B, V) -> the same; a forced token is the only one."""
        changed = None
        for number, row in enumerate(self._rows):
            if row.forced is not None:
                changed = scores.clone() if changed is None else changed
                changed[number] = -torch.inf
                changed[number, row.forced] = 0.0
        return scores if changed is None else changed


def unfinished(text: str) -> bool:
    """Whether an answer ends while it still thinks aloud."""
    opened = thinking_open(text.lstrip())
    return bool(opened) and not thinking_end(re.sub(r"^\s*\S+", "", text, count=1))
