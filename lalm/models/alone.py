"""What a row gets alone, it gets beside others: clips encoded one by one, near ties settled by the row alone.

The same row gives logits that differ in their last bits with the rows it is read beside: products of other
shapes are summed in another order, and padding moves positions. That matters only where two tokens are nearly
as likely as each other. There the row's logits are computed again from nothing but the row, without padding:
one pass over its prompt and one over what it has said. An answer that is given alone is settled alike. Where
each row's bits are its own already (``NextPosition.fixed``, int8) there is nothing to settle.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

from lalm.models.likeliest import nearly_tied
from lalm.models.llm_body import keeps_every_position, read

# The two best logits are nearly tied when rounding could exchange them. Measured between a row in a padded
# batch and alone, margin of the two best: at most 1e-5 in float32 (Qwen2.5-Coder-0.5B, 45 positions), at most
# 0.38, on average 0.06, in bfloat16 (SmolLM2-135M, 102 positions, a CPU without bfloat16 instructions).
TOLERANCE = {torch.float32: 0.002, torch.bfloat16: 0.5, torch.float16: 0.1}


def tolerance_of(dtype: torch.dtype) -> float:
    """The margin below which two logits of a model of that dtype are nearly tied."""
    return TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16])


def settled(
    logits: Tensor,
    allowed: Callable[[Tensor], Tensor],
    alone: Callable[[int], Tensor],
    rows: Collection[int],
    tolerance: float,
) -> Tensor:
    """logits: (B, V) -> ``allowed(logits)``, computed from the row alone where two tokens are nearly tied.

    ``allowed`` takes (B, V) and returns it with penalties and with -inf where a token may not come; ``alone``
    gives a row's logits (V,); ``rows`` are the rows whose next token matters.
    """
    scores = allowed(logits)
    close = nearly_tied(scores, tolerance)
    tied = [row for row in rows if close[row]]
    if not tied:
        return scores
    fresh = logits.clone()
    for row in tied:
        fresh[row] = alone(row).to(logits.dtype)
    scores[tied] = allowed(fresh)[tied]
    return scores


class LoneRow:
    """One row read by itself: its prompt once, when it is first needed, then what it has said."""

    def __init__(self, model: Any, prompt: Tensor) -> None:
        """prompt: (L, D) embeddings, no padding. ``model`` is a whole model of ours."""
        self._model, self._prompt = model, prompt
        self._cache: Any = None

    @torch.no_grad()
    def logits(self, said: Tensor) -> Tensor:
        """said: (new,) ids of the answer so far -> the next token's logits, (V,) float32."""
        body = self._model.model.language_model
        answer = self._model.get_input_embeddings()(said).to(self._prompt.dtype)  # (new, D)
        if not len(said) or not keeps_every_position(body):
            whole = torch.cat([self._prompt, answer])[None]
            hidden = read(body, inputs_embeds=whole, use_cache=False).last_hidden_state
        else:
            if self._cache is None:
                prompt = self._prompt[None]
                self._cache = read(body, inputs_embeds=prompt, use_cache=True).past_key_values
            hidden = read(
                body, inputs_embeds=answer[None], past_key_values=self._cache, use_cache=True
            ).last_hidden_state
            self._cache.crop(-len(said))
        logits: Tensor = self._model.logits(hidden[:, -1])[0]
        return logits


class NearTies(LogitsProcessor):
    """For transformers' ``generate``: ``processors`` in turn, with near ties settled by each row alone."""

    def __init__(
        self,
        model: Any,
        embeds: Tensor,
        mask: Tensor,
        processors: Sequence[LogitsProcessor],
        settings: GenerationConfig,
    ) -> None:
        """embeds: (B, L, D) prompts, left-padded as ``mask`` (B, L) says."""
        counts = mask.sum(1).tolist()
        self._rows = [LoneRow(model, row[-count:]) for row, count in zip(embeds, counts, strict=True)]
        self._processors = processors
        self._slot = model.config.audio_token_id  # never said
        ends = settings.eos_token_id
        listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
        self._ends = torch.tensor(listed, dtype=torch.long, device=embeds.device)
        self._tolerance = tolerance_of(embeds.dtype)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: (B, new) the answers so far; scores: (B, V) logits."""
        ended = torch.isin(input_ids, self._ends).any(1).tolist()
        going = [row for row, over in enumerate(ended) if not over]

        def allowed(logits: Tensor) -> Tensor:
            logits = logits.clone()
            if self._slot is not None and self._slot < logits.shape[1]:
                logits[:, self._slot] = -torch.inf
            for processor in self._processors:
                logits = processor(input_ids, logits)
            return logits

        return settled(
            scores, allowed, lambda row: self._rows[row].logits(input_ids[row]), going, self._tolerance
        )


def each_clip(
    input_values: Tensor | None,
    audio_lengths: Tensor | None,
    frames: Tensor | None,
    frame_lengths: Tensor | None,
    instruction_ids: Tensor | None,
    instruction_mask: Tensor | None,
) -> Iterator[tuple[Tensor | None, ...]]:
    """The arguments of ``AudioLMModel.embed`` clip by clip, each without its padding."""
    values, lengths = (input_values, audio_lengths) if frames is None else (frames, frame_lengths)
    if values is None or lengths is None:
        return
    for clip, length in enumerate(lengths.tolist()):
        piece = (values[clip : clip + 1, :length], lengths[clip : clip + 1])
        told: tuple[Tensor | None, Tensor | None] = (None, None)
        if instruction_ids is not None and instruction_mask is not None:
            inside = instruction_mask[clip].bool()
            told = instruction_ids[clip][inside][None], instruction_mask[clip][inside][None]
        yield (*piece, None, None, *told) if frames is None else (None, None, *piece, *told)
