"""Decoding without beams: token after token for all rows of a batch, equal to transformers' ``generate``.

It does what ``generate`` does for the engine and none of its bookkeeping, so that a step costs little more
than its products. Beams, and LLMs that do not keep every position's keys and values, go through ``generate``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from lalm.models.alone import NearTies
from lalm.models.finite import check_finite
from lalm.models.likeliest import likeliest
from lalm.models.llm_body import keeps_every_position, read
from lalm.models.next_position import NextPosition
from lalm.models.prefill import preallocated_cache, read_apart, read_in_groups
from lalm.models.sampling import RowDraws

MANY_ENDED = 0.5  # where at most this share of the rows goes on, the others are no longer read
CERTAIN = 1e4  # a logit far above any other
OWN_OPTIONS = {
    "generation_config",
    "logits_processor",
    "stopping_criteria",
}  # of ``generate``, all that is read


def generate_because(body: Any, options: Mapping[str, Any]) -> str:
    """Why answers come from transformers' ``generate``; "" where ``decode`` gives them.

    ``options``: those of ``generate``. The engine gives all that ``decode`` reads; who gives others wants the
    library's.
    """
    if set(options) != OWN_OPTIONS:
        return "options of transformers' own"
    settings = options["generation_config"]
    if settings.num_beams != 1 or settings.do_sample:
        return "beams"
    return "" if keeps_every_position(body) else "the LLM does not keep every position's keys and values"


@torch.no_grad()
def decode(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    cache: Any,
    audio: Sequence[Tensor | None],
    *,
    generation_config: GenerationConfig,
    logits_processor: Sequence[LogitsProcessor],
    stopping_criteria: Sequence[StoppingCriteria],
) -> Tensor:
    """Only the new ids, (B, new), greedy after the processors; ids, mask: (B, L), padded on the left.

    ``cache`` holds the first positions of ids; ``audio``, as ``embed`` takes it, is then that of the rest.
    """
    known = cache.get_seq_length() if cache is not None else 0
    embeds = model.model.embed(ids[:, known:], *audio)  # (B, L - known, D)
    step = NextPosition(model.model.language_model)
    drawn = any(isinstance(processor, RowDraws) for processor in logits_processor)
    choosing: Sequence[LogitsProcessor]
    if drawn or known or step.fixed:
        choosing = [_NoSlot(model.config.audio_token_id), *logits_processor]
    else:
        choosing = [NearTies(model, embeds, mask, logits_processor, generation_config)]
    hidden, cache = _read_prompts(step, embeds, mask, cache)
    return _answer(model, step, hidden, mask, cache, generation_config, choosing, stopping_criteria)


def _read_prompts(step: NextPosition, embeds: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """embeds: (B, L, D) of the positions that ``cache`` lacks -> the last position's output (B, D), cache."""
    body = step.body
    if cache is None and step.fixed:
        cache = read_apart(body, embeds, mask)
        return step(embeds[:, -1], mask, cache), cache
    if cache is None:
        cache = read_in_groups(body, embeds, mask) or preallocated_cache()
        embeds = embeds[:, cache.get_seq_length() :]
    output = read(
        body,
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -embeds.shape[1] :],
        past_key_values=cache,
        use_cache=True,
    )
    return output.last_hidden_state[:, -1], cache


def _answer(
    model: Any,
    step: NextPosition,
    hidden: Tensor,
    mask: Tensor,
    cache: Any,
    settings: GenerationConfig,
    choosing: Sequence[LogitsProcessor],
    stopping: Sequence[StoppingCriteria],
) -> Tensor:
    """hidden: (B, D) the last position's output; mask: (B, L) -> ids (B, new)."""
    table = model.get_input_embeddings()
    ends = torch.tensor(settings.eos_token_id or [], dtype=torch.long, device=mask.device)
    going = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
    rows = torch.arange(len(mask), device=mask.device)  # those that are still read
    ids = mask.new_empty(len(mask), 0)
    while True:
        logits = step.blocks(model.logits, hidden)  # (rows, V)
        check_finite(logits, model)
        logits = _of_all(logits, rows, len(ids))  # (B, V)
        for processor in choosing:
            logits = processor(ids, logits)
        tokens = likeliest(logits)
        if settings.pad_token_id is not None:
            tokens = tokens.masked_fill(~going, settings.pad_token_id)
        ids = torch.cat([ids, tokens[:, None]], 1)
        going &= ~torch.isin(tokens, ends)
        for criterion in stopping:
            going &= ~criterion(ids, logits)
        if ids.shape[1] == settings.max_new_tokens or not bool(going.any()):
            return ids
        if int(going.sum()) <= MANY_ENDED * len(rows):
            mask = _select(cache, mask, going[rows])
            rows = rows[going[rows]]
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        hidden = step(table(tokens[rows]), mask, cache)


def _of_all(logits: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """logits: (rows, V) -> (num_rows, V); what rows that have ended would say does not matter, nor is it near
    a tie."""
    if len(rows) == num_rows:
        return logits
    whole = logits.new_zeros(num_rows, logits.shape[1])
    whole[:, 0] = CERTAIN
    whole[rows] = logits
    return whole


def _select(cache: Any, mask: Tensor, stay: Tensor) -> Tensor:
    """Cut the cache to the rows that stay, without padding that all share; their mask. stay: (rows,)."""
    cache.batch_select_indices(stay.nonzero()[:, 0])
    mask = mask[stay]
    gap = int(mask.shape[1] - mask.sum(1).max())
    for layer in cache.layers if gap else ():
        layer.keys, layer.values = layer.keys[:, :, gap:], layer.values[:, :, gap:]
    return mask[:, gap:]


class _NoSlot(LogitsProcessor):
    """An LLM never says the token that stands for audio, where that has a logit at all."""

    def __init__(self, slot: int | None) -> None:
        self._slot = slot

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: (B, V) -> the same."""
        if self._slot is not None and self._slot < scores.shape[1]:
            scores = scores.clone()
            scores[:, self._slot] = -torch.inf
        return scores
