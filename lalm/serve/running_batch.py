"""A batch that answers join and leave between any two tokens.

The keys and values of all rows lie left-padded in one cache. A row that joins has its prompt read alone or
with rows of like length; a row that ends is taken out, and its answer is the one it gets alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lalm.inference.engine import Engine
from lalm.models.prefill import groups, keeps_every_position, roomy_cache
from lalm.serve.detokenizer import Words
from lalm.serve.jobs import Job, Score
from lalm.synthesis.completions import Sampling, draw


@dataclass
class Row:
    """One answer being written: its job, the prompt (ids (L,), embeddings (L', D)) and what was said.

    With a memory, the embeddings are those of the L' positions that were not read before, and the ids are
    ``lalm.models.prefill.named``.
    """

    job: Job
    ids: Tensor
    embeds: Tensor
    audio_tokens: int
    words: Words
    generator: torch.Generator = field(init=False)
    tokens: list[int] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.job.options.seed)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the whole prompt."""
        return len(self.ids)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that the memory knew."""
        return self.prompt_tokens - len(self.embeds)

    @property
    def longest(self) -> int:
        """Positions the row may come to take."""
        return self.prompt_tokens + self.job.options.max_new_tokens


class Rows:
    """The running batch of one engine; not to be used by two threads at once."""

    def __init__(self, engine: Engine) -> None:
        self.model: Any = engine.model
        self.body: Any = engine.model.model.language_model
        self.rows: list[Row] = []
        # False for LLMs whose cache has no place for every position: their rows run alone, without memory.
        self.joinable = keeps_every_position(DynamicCache(config=self.body.config))
        self._silent: int | None = engine.model.config.audio_token_id  # an LLM never says a slot
        self.clear()

    def clear(self) -> None:
        """Forget all rows."""
        self.rows = []
        self._cache: Any = DynamicCache()
        self._mask = torch.empty(0, 0, dtype=torch.long, device=self.model.device)  # (B, T)
        self._next = torch.empty(0, 0, device=self.model.device)  # (B, D), read by the next step

    def join(self, rows: Sequence[Row]) -> None:
        """Read the prompts of ``rows``, all but their last position, and put them into the batch."""
        fresh = [row for row in rows if row.job.memory is None]
        for numbers in groups([len(row.embeds) for row in fresh]):
            self._read([fresh[i] for i in numbers])
        for row in rows:
            if row.job.memory is not None:
                self._read([row], row.job.memory.cache)

    def _read(self, rows: list[Row], cache: Any = None) -> None:
        sizes = [len(row.embeds) - 1 for row in rows]
        if cache is None and self.joinable:
            cache = roomy_cache()
        known = cache.get_seq_length() if cache is not None else 0
        if max(sizes):
            embeds = rows[0].embeds.new_zeros(len(rows), max(sizes), rows[0].embeds.shape[1])
            mask = self._mask.new_ones(len(rows), known + max(sizes))
            for i, (row, size) in enumerate(zip(rows, sizes, strict=True)):
                embeds[i, max(sizes) - size :] = row.embeds[:-1]
                mask[i, : max(sizes) - size] = 0
            cache = self.body(
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
            if rows[0].job.memory is not None:
                self._cache = _copy(cache)  # the memory keeps its own, whatever becomes of the row
        else:
            length = max(self._mask.shape[1], mask.shape[1])
            joined = roomy_cache()
            for number, (old, new) in enumerate(zip(self._cache.layers, cache.layers, strict=True)):
                keys = torch.cat([_padded(old.keys, length), _padded(new.keys, length)])
                joined.update(keys, torch.cat([_padded(x.values, length) for x in (old, new)]), number)
            self._cache = joined
            self._mask = torch.cat(
                [torch.nn.functional.pad(m, (length - m.shape[1], 0)) for m in (self._mask, mask)]
            )
            self._next = torch.cat([self._next, torch.stack([row.embeds[-1] for row in rows])])
        self.rows.extend(rows)

    def step(self) -> list[int]:
        """One more token for every row; the tokens."""
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        hidden = self.body(
            inputs_embeds=self._next[:, None],  # (B, 1, D)
            attention_mask=self._mask,
            position_ids=self._mask.sum(1, keepdim=True) - 1,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        logits = self.model.logits(hidden[:, -1])  # (B, V)
        if self._silent is not None and self._silent < logits.shape[1]:
            logits[:, self._silent] = -torch.inf
        for row, scores in zip(self.rows, logits, strict=True):
            if row.job.shape is not None:
                row.job.shape.silence(scores)
        tokens = self._drawn(logits)
        for row, token, scores in zip(self.rows, tokens.tolist(), logits, strict=True):
            row.tokens.append(token)
            if row.job.shape is not None:
                row.job.shape.said(token)
            if row.job.top_logprobs is not None:
                row.scores.append(_score(scores, token, row.job.top_logprobs))
        self._next = self.model.get_input_embeddings()(tokens)
        return list(tokens.tolist())

    def _drawn(self, logits: Tensor) -> Tensor:
        """logits: (B, V) -> tokens (B,); every row by its own options and generator."""
        tokens = torch.empty(len(logits), dtype=torch.long, device=logits.device)
        kinds: dict[tuple[float, float], list[int]] = {}
        for i, row in enumerate(self.rows):
            options = row.job.options
            kinds.setdefault((options.temperature, options.top_p), []).append(i)
        for (temperature, top_p), numbers in kinds.items():
            generators = [self.rows[i].generator for i in numbers]
            tokens[numbers] = draw(logits[numbers], generators, Sampling(temperature, top_p))
        return tokens

    def leave(self, numbers: Sequence[int]) -> None:
        """Take rows out; those with a memory leave what was read of them there."""
        for i in numbers:
            if (memory := self.rows[i].job.memory) is not None:
                length = int(self._mask[i].sum())
                memory.cache = _copy(self._cache, i, length)
                memory.keep(self.rows[i].ids, torch.tensor(self.rows[i].tokens, dtype=torch.long))
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


def _padded(values: Tensor, length: int) -> Tensor:
    """(B, H, T, D) with zeros before, (B, H, length, D)."""
    return torch.nn.functional.pad(values, (0, 0, length - values.shape[2], 0))


def _copy(cache: Any, row: int = 0, length: int | None = None) -> DynamicCache:
    """A cache of one row's last positions, with memory of its own."""
    copied = roomy_cache()
    for number, layer in enumerate(cache.layers):
        start = 0 if length is None else layer.keys.shape[2] - length
        keys, values = (x[row : row + 1, :, start:].clone() for x in (layer.keys, layer.values))
        copied.update(keys, values, number)
    return copied


def _score(logits: Tensor, token: int, top: int) -> Score:
    """logits: (V,)."""
    logprobs = logits.log_softmax(0)
    values, ids = logprobs.topk(top) if top else (logprobs[:0], logprobs[:0])
    pairs = tuple((int(i), float(v)) for i, v in zip(ids.tolist(), values.tolist(), strict=True))
    return Score(token, float(logprobs[token]), pairs)
