"""Choosing an answer's next token: by rules, then by a draw with one generator a row.

So an answer does not depend on its batch mates. The engine, the server and the writing LLM all choose here.
"""

import math
from collections.abc import Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessor

from lalm.models.likeliest import likeliest

SMALLEST_TEMPERATURE = 1e-5  # below it the likeliest token is taken, as in vLLM
DRAW_BLOCK = 128  # vocabulary entries that are summed together before a token is looked for among them


class Drawing(Protocol):
    """How tokens are drawn: the likeliest at temperature 0, else one of the likely ones."""

    @property
    def temperature(self) -> float:
        """What logits are divided by."""

    @property
    def top_p(self) -> float:
        """Share of the probability that is drawn from, the likeliest tokens first."""

    @property
    def top_k(self) -> int:
        """How many of the likeliest tokens are drawn from; 0 or less: all."""

    @property
    def min_p(self) -> float:
        """How likely a token must be, as a share of the likeliest one's probability."""


class Rules(Protocol):
    """What an answer's next token may be; see ``TokenRules``."""

    @property
    def repetition_penalty(self) -> float:
        """Above 1: tokens that were said become less likely; 1: nothing changes."""

    @property
    def no_repeat_ngram_size(self) -> int:
        """So many tokens in a row never come twice; 0: they may."""

    @property
    def min_tokens(self) -> int:
        """Tokens before which an answer does not end."""


def draw(logits: Tensor, generators: Sequence[torch.Generator], drawing: Drawing) -> Tensor:
    """logits: (B, V) -> one token a row, (B,) int64, by inverse transform with each row's own generator.

    As in vLLM: ``min_p`` and ``top_k`` come after the temperature, ``top_p`` is a share of what they leave.
    """
    if drawing.temperature < SMALLEST_TEMPERATURE:
        return likeliest(logits)
    logits = logits.float() / drawing.temperature
    if drawing.min_p > 0:
        least = logits.max(1, keepdim=True).values + math.log(drawing.min_p)
        logits = logits.masked_fill(logits < least, -torch.inf)
    if 0 < drawing.top_k < logits.shape[1]:
        least = logits.topk(drawing.top_k, 1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    weights = logits.softmax(1)
    uniform = torch.cat([torch.rand(1, generator=row, dtype=torch.float64) for row in generators])  # (B,)
    uniform = uniform.to(logits.device)[:, None]
    if drawing.top_p >= 1:
        return _inverse(weights, uniform)[:, 0]
    ordered, order = weights.sort(dim=1, descending=True)
    before = ordered.cumsum(1, dtype=torch.float64) - ordered  # the first is always kept
    ordered = ordered.masked_fill(before > drawing.top_p * ordered.sum(1, keepdim=True), 0.0)
    return order.gather(1, _inverse(ordered, uniform))[:, 0]


class RowDraws(LogitsProcessor):
    """For transformers' greedy ``generate``: leaves each row the one token that its own generator draws.

    ``seed``: that of every row, or one a row.
    """

    def __init__(self, num_rows: int, seed: int | Sequence[int], drawing: Drawing) -> None:
        seeds = [seed] * num_rows if isinstance(seed, int) else list(seed)
        self._generators = [torch.Generator().manual_seed(own) for own in seeds]
        self._drawing = drawing

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: (B, V) -> the same shape, 0 at the drawn tokens and -inf elsewhere."""
        tokens = draw(scores, self._generators, self._drawing)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


def rules_anything(rules: Rules) -> bool:
    """Whether the rules can change any token."""
    return rules.repetition_penalty != 1 or rules.no_repeat_ngram_size > 0 or rules.min_tokens > 0


class TokenRules:
    """The rules of one answer: a penalty on what stands in prompt or answer, no sequence of tokens twice in
    the answer, and no end before so many tokens. Nothing of it depends on rows beside it."""

    def __init__(self, prompt: Tensor, vocabulary: int, ends: Collection[int], rules: Rules) -> None:
        """prompt: (L,) its ids, without padding; ``ends``: tokens that end an answer."""
        self._rules = rules
        self._ends = [end for end in ends if end < vocabulary]
        self._seen = prompt.unique()
        self._seen = self._seen[(self._seen >= 0) & (self._seen < vocabulary)]  # a slot may lie outside

    def apply(self, logits: Tensor, said: Sequence[int]) -> Tensor:
        """logits: (V,) after the tokens ``said`` -> (V,), a copy if anything changes."""
        if not rules_anything(self._rules):
            return logits
        logits = logits.clone()
        if self._rules.repetition_penalty != 1:
            seen = torch.cat([self._seen, self._seen.new_tensor(said)]).unique()
            old = logits[seen]
            penalty = self._rules.repetition_penalty
            logits[seen] = torch.where(old < 0, old * penalty, old / penalty)
        forbidden = repeating_tokens(said, self._rules.no_repeat_ngram_size)
        if len(said) < self._rules.min_tokens:
            forbidden += self._ends
        logits[forbidden] = -torch.inf
        return logits


class RowRules(LogitsProcessor):
    """For transformers' ``generate``: the rules of each row, or of each row's beams."""

    def __init__(self, rows: Sequence[TokenRules]) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: the new ids of each row or beam, (B * beams, new); scores (B * beams, V) -> scores."""
        beams = len(scores) // len(self._rows)
        said = input_ids.tolist()
        changed = [self._rows[i // beams].apply(row, said[i]) for i, row in enumerate(scores)]
        return torch.stack(changed)


def repeating_tokens(said: Sequence[int], size: int) -> list[int]:
    """The tokens that would complete a sequence of ``size`` tokens that was said before."""
    if not 0 < size <= len(said):
        return []
    last = list(said[len(said) - size + 1 :])
    starts = range(len(said) - size + 1)
    return [said[i + size - 1] for i in starts if list(said[i : i + size - 1]) == last]


def _inverse(weights: Tensor, uniform: Tensor) -> Tensor:
    """The index at which each row's running sum passes ``uniform`` of the whole; (B, V), (B, 1) -> (B, 1).

    Block by block: a running sum over a whole vocabulary is slow, and coarse in float32.
    """
    entries = weights.shape[1]
    if entries % DRAW_BLOCK:
        weights = torch.nn.functional.pad(weights, (0, -entries % DRAW_BLOCK))
    blocks = weights.unflatten(1, (-1, DRAW_BLOCK))
    sums = blocks.sum(2).double()  # (B, V / block)
    ends = sums.cumsum(1)
    target = uniform * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp(max=ends.shape[1] - 1)  # (B, 1)
    within = blocks.gather(1, block[:, :, None].expand(-1, 1, DRAW_BLOCK))[:, 0]  # (B, block)
    running = within.cumsum(1, dtype=torch.float64)
    starts = ends.gather(1, block) - sums.gather(1, block)
    # Rounding must not lead past the last entry that has any weight.
    passed = torch.minimum(target - starts, running[:, -1:] * (1 - 1e-12))
    place = torch.searchsorted(running, passed, right=True).clamp(max=DRAW_BLOCK - 1)
    return (block * DRAW_BLOCK + place).clamp(max=entries - 1)
