"""Drawing an answer's next token: one generator a row, so an answer does not depend on its batch mates."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessor

DRAW_BLOCK = 128  # vocabulary entries that are summed together before a token is looked for among them


class Drawing(Protocol):
    """How tokens are drawn: the likeliest at temperature 0, among the likely ones with ``top_p``."""

    @property
    def temperature(self) -> float:
        """What logits are divided by."""

    @property
    def top_p(self) -> float:
        """Share of the probability that is drawn from, the likeliest tokens first."""


def draw(logits: Tensor, generators: Sequence[torch.Generator], drawing: Drawing, top_k: int = 0) -> Tensor:
    """logits: (B, V) -> one token a row, (B,) int64, by inverse transform with each row's own generator.

    With ``top_k`` only that many of the likeliest tokens are drawn from (0: all).
    """
    if drawing.temperature <= 0:
        return logits.argmax(1)
    logits = logits.float() / drawing.temperature
    if 0 < top_k < logits.shape[1]:
        logits = logits.masked_fill(logits < logits.topk(top_k, 1).values[:, -1:], -torch.inf)
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
    """For transformers' greedy ``generate``: leaves each row the one token that its own generator draws."""

    def __init__(self, num_rows: int, seed: int, drawing: Drawing, top_k: int = 0) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for _ in range(num_rows)]
        self._drawing, self._top_k = drawing, top_k

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: (B, V) -> the same shape, 0 at the drawn tokens and -inf elsewhere."""
        tokens = draw(scores, self._generators, self._drawing, self._top_k)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


class RepetitionPenalty(LogitsProcessor):
    """Makes tokens of the prompt and of the answer so far less likely, as transformers does with whole rows.

    Its own looks at the ids that ``generate`` is given, which are none where a prompt comes as embeddings,
    and counts padding, so that a row would depend on its batch mates.
    """

    def __init__(self, prompts: Tensor, mask: Tensor, vocabulary: int, penalty: float) -> None:
        """prompts, mask: (B, L) ids and what of them is no padding."""
        self._penalty = penalty
        seen = torch.zeros(len(prompts), vocabulary + 1, dtype=torch.bool, device=prompts.device)
        known = prompts.clamp(max=vocabulary).masked_fill(
            mask == 0, vocabulary
        )  # the last: outside the table
        self._seen = seen.scatter(1, known, True)[:, :-1]  # (B, V)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: the new ids of each row or beam, (B * beams, new); scores (B * beams, V) -> scores."""
        seen = self._seen.repeat_interleave(len(scores) // len(self._seen), 0).scatter(1, input_ids, True)
        weakened = torch.where(scores < 0, scores * self._penalty, scores / self._penalty)
        return torch.where(seen, weakened, scores)


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
