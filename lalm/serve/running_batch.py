"""The running batch (continuous batching): rows are added and removed between any two decoding steps.

The keys and values of all rows lie left-padded in one cache. Prompts are prefilled alone or with prompts of
similar length before they join. Each row's answer equals the one it would get alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lalm.inference.answer import Answer
from lalm.inference.engine import Engine
from lalm.models.alone import LoneRow, settled, tolerance_of
from lalm.models.finite import NonFiniteError, non_finite
from lalm.models.llm_body import keeps_every_position, new_memory, read
from lalm.models.next_position import NextPosition
from lalm.models.prefill import length_groups, preallocated_cache
from lalm.models.sampling import Drawing, TokenRules, draw, rules_anything
from lalm.serve.jobs import Job, TokenLogprob


@dataclass
class BatchRow:
    """One answer being generated: its job, the prompt (ids (L,), embeddings (L', D)) and what is said.

    With a prefix cache, the embeddings are those of the L' positions that it lacks, and the ids are
    ``lalm.models.prefill.content_ids``.
    """

    job: Job
    ids: Tensor
    embeds: Tensor
    audio_tokens: int
    answer: Answer
    rules: TokenRules
    generator: torch.Generator = field(init=False)
    scores: list[TokenLogprob] = field(default_factory=list)
    alone: LoneRow | None = None
    failure: NonFiniteError | None = None

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.job.options.seed)

    @property
    def tokens(self) -> list[int]:
        """The new tokens."""
        return self.answer.tokens

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the whole prompt."""
        return len(self.ids)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt found in the prefix cache."""
        return self.prompt_tokens - len(self.embeds)

    @property
    def max_positions(self) -> int:
        """Positions the row may need: the prompt and the longest answer."""
        return self.prompt_tokens + self.job.options.max_new_tokens


class RunningBatch:
    """The rows of one engine that are decoded together. Not thread-safe."""

    def __init__(self, engine: Engine) -> None:
        engine.pack()
        self.model: Any = engine.model
        self.body: Any = engine.model.model.language_model
        self.rows: list[BatchRow] = []
        # False for LLMs whose cache drops positions: their rows run alone, without a prefix cache.
        self.supports_batching = keeps_every_position(self.body)
        self._read_next = NextPosition(self.body)
        self._audio_token_id: int | None = engine.model.config.audio_token_id  # never generated
        self.clear()

    def clear(self) -> None:
        """Remove all rows."""
        self.rows = []
        self._cache: Any = DynamicCache()
        self._mask = torch.empty(0, 0, dtype=torch.long, device=self.model.device)  # (B, T)
        self._next = torch.empty(0, 0, device=self.model.device)  # (B, D), read by the next step

    def add(self, rows: Sequence[BatchRow]) -> None:
        """Prefill the prompts of ``rows``, all but their last position, and add them to the batch."""
        fresh = [row for row in rows if row.job.prefix_cache is None]
        apart = [[number] for number in range(len(fresh))]
        groups = apart if self._read_next.fixed else length_groups([len(row.embeds) for row in fresh])
        for numbers in groups:
            self._prefill([fresh[i] for i in numbers])
        for row in rows:
            if row.job.prefix_cache is not None:
                self._prefill([row], row.job.prefix_cache.cache)

    def _prefill(self, rows: list[BatchRow], cache: Any = None) -> None:
        sizes = [len(row.embeds) - 1 for row in rows]
        if cache is None:
            cache = preallocated_cache() if self.supports_batching else new_memory(self.body)
        known = cache.get_seq_length()
        if max(sizes):
            embeds = rows[0].embeds.new_zeros(len(rows), max(sizes), rows[0].embeds.shape[1])
            mask = self._mask.new_ones(len(rows), known + max(sizes))
            for i, (row, size) in enumerate(zip(rows, sizes, strict=True)):
                embeds[i, max(sizes) - size :] = row.embeds[:-1]
                mask[i, : max(sizes) - size] = 0
            cache = read(
                self.body,
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, known:],
                past_key_values=cache,
                use_cache=True,
            ).past_key_values
        else:
            mask = self._mask.new_ones(len(rows), known)
        if not self.rows:
            self._cache, self._mask = cache, mask
            self._next = torch.stack([row.embeds[-1] for row in rows])
            if rows[0].job.prefix_cache is not None:
                self._cache = _copy_cache(cache)  # the prefix cache keeps its own tensors
        else:
            length = max(self._mask.shape[1], mask.shape[1])
            joined = preallocated_cache()
            for number, (old, new) in enumerate(zip(self._cache.layers, cache.layers, strict=True)):
                keys = torch.cat([_pad(old.keys, length), _pad(new.keys, length)])
                joined.update(keys, torch.cat([_pad(x.values, length) for x in (old, new)]), number)
            self._cache = joined
            self._mask = torch.cat(
                [torch.nn.functional.pad(m, (length - m.shape[1], 0)) for m in (self._mask, mask)]
            )
            self._next = torch.cat([self._next, torch.stack([row.embeds[-1] for row in rows])])
        self.rows.extend(rows)

    def step(self) -> list[int]:
        """Decode one more token for every row; the tokens."""
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        hidden = self._read_next(self._next, self._mask, self._cache)  # (B, D)
        logits = self._finite(self._read_next.blocks(self.model.logits, hidden))  # (B, V)
        greedy = [
            number
            for number, row in enumerate(self.rows)
            if row.job.options.temperature <= 0 and row.job.prefix_cache is None
        ]
        if self._read_next.fixed:
            logits = self._allowed(logits)
        else:
            logits = settled(logits, self._allowed, self._alone, greedy, tolerance_of(self._next.dtype))
        tokens = self._sample(logits)
        for row, token, scores in zip(self.rows, tokens.tolist(), logits, strict=True):
            row.answer.add(token)
            if row.job.grammar is not None:
                row.job.grammar.accept_token(token)
            if row.job.top_logprobs is not None:
                row.scores.append(_token_logprob(scores, token, row.job.top_logprobs))
        self._next = self.model.get_input_embeddings()(tokens)
        return list(tokens.tolist())

    def _finite(self, logits: Tensor) -> Tensor:
        """logits: (B, V) -> the same, and 0 for rows that fail because theirs are not finite."""
        if math.isfinite(float(logits.sum())):
            return logits
        finite = torch.isfinite(logits).all(1)
        if bool(finite.all()):  # their sum alone is not
            return logits
        error = non_finite(self.model)
        for row, good in zip(self.rows, finite.tolist(), strict=True):
            row.failure = None if good else error
        return logits.masked_fill(~finite[:, None], 0.0)

    def _allowed(self, logits: Tensor) -> Tensor:
        """logits: (B, V) -> the same, by each row's rules and grammar; -inf where a token may not come."""
        logits = logits.clone()
        if self._audio_token_id is not None and self._audio_token_id < logits.shape[1]:
            logits[:, self._audio_token_id] = -torch.inf
        for number, row in enumerate(self.rows):
            if row.job.grammar is not None or rules_anything(row.job.options):
                logits[number] = _allowed(row, logits[number])
        return logits

    def _alone(self, number: int) -> Tensor:
        """The next token's logits of one row, (V,), read without the others."""
        row = self.rows[number]
        if row.alone is None:
            row.alone = LoneRow(self.model, row.embeds)
        return row.alone.logits(torch.tensor(row.tokens, dtype=torch.long, device=row.embeds.device))

    def _sample(self, logits: Tensor) -> Tensor:
        """logits: (B, V) -> tokens (B,); every row by its own options and generator."""
        tokens = torch.empty(len(logits), dtype=torch.long, device=logits.device)
        kinds: dict[tuple[float, ...], list[int]] = {}
        for i, row in enumerate(self.rows):
            options = row.job.options
            kind = (options.temperature, options.top_p, options.top_k, options.min_p)
            kinds.setdefault(kind, []).append(i)
        for numbers in kinds.values():
            drawing: Drawing = self.rows[numbers[0]].job.options
            generators = [self.rows[i].generator for i in numbers]
            own = logits if len(numbers) == len(self.rows) else logits[numbers]
            tokens[numbers] = draw(own, generators, drawing)
        return tokens

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove rows; rows with a prefix cache store their keys and values in it."""
        for i in numbers:
            if (prefix_cache := self.rows[i].job.prefix_cache) is not None:
                length = int(self._mask[i].sum())
                prefix_cache.cache = _copy_cache(self._cache, i, length)
                prefix_cache.store(self.rows[i].ids, torch.tensor(self.rows[i].tokens, dtype=torch.long))
        stay = [i for i in range(len(self.rows)) if i not in set(numbers)]
        if not stay:
            self.clear()
            return
        self.rows = [self.rows[i] for i in stay]
        keep = torch.tensor(stay, device=self._mask.device)
        gap = int(self._mask.shape[1] - self._mask[keep].sum(1).max())  # columns that are padding in all
        self._cache.batch_select_indices(keep)
        self._mask, self._next = self._mask[keep, gap:], self._next[keep]
        if gap:
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, gap:], layer.values[:, :, gap:]


def _allowed(row: BatchRow, scores: Tensor) -> Tensor:
    """scores: (V,) -> the same by the row's rules and grammar, which wins where both allow nothing."""
    ruled = row.rules.apply(scores, row.tokens)
    grammar = row.job.grammar
    if grammar is None:
        return ruled
    for allowed in (ruled.clone(), scores.clone()):
        grammar.mask_logits(allowed)
        if allowed.max() > -torch.inf:
            break
    return allowed


def _pad(values: Tensor, length: int) -> Tensor:
    """(B, H, T, D) -> (B, H, length, D), padded with zeros on the left."""
    return torch.nn.functional.pad(values, (0, 0, length - values.shape[2], 0))


def _copy_cache(cache: Any, row: int = 0, length: int | None = None) -> DynamicCache:
    """Copy the last ``length`` positions of one row into a cache of its own."""
    copied = preallocated_cache()
    for number, layer in enumerate(cache.layers):
        start = 0 if length is None else layer.keys.shape[2] - length
        keys, values = (x[row : row + 1, :, start:].clone() for x in (layer.keys, layer.values))
        copied.update(keys, values, number)
    return copied


def _token_logprob(logits: Tensor, token: int, top: int) -> TokenLogprob:
    """logits: (V,)."""
    logprobs = logits.log_softmax(0)
    values, ids = logprobs.topk(top) if top else (logprobs[:0], logprobs[:0])
    pairs = tuple((int(i), float(v)) for i, v in zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), pairs)
