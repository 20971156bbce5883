"""transformers' ``generate`` over text and audio: beams, and what ``lalm.models.decode_loop`` leaves out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, LogitsProcessorList
from transformers.cache_utils import Cache

from lalm.models.alone import NearTies
from lalm.models.llm_body import RowMemory, reads_rows_together
from lalm.models.prefill import read_prompts
from lalm.models.sampling import RowDraws


def generate(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    past_key_values: Cache | None,
    heard: Sequence[Tensor | None],
    **kwargs: Any,
) -> Tensor:
    """The new ids, (B, new). Arguments as for ``AudioLMForConditionalGeneration.generate``."""
    known = past_key_values.get_seq_length() if past_key_values is not None else 0
    embeds = model.model.embed(input_ids[:, known:], *heard)
    settings = kwargs.get("generation_config") or model.generation_config
    beams = kwargs.get("num_beams") or settings.num_beams or 1
    body = model.model.language_model
    if not reads_rows_together(body):
        past_key_values = RowMemory(len(embeds) * beams)  # no prefix is ever known here
    elif past_key_values is None and attention_mask is not None and beams == 1:
        past_key_values = read_prompts(body, embeds, attention_mask)
    embeds = nn.functional.pad(embeds, (0, 0, known, 0))  # transformers wants a place for what is known
    if past_key_values is not None:
        kwargs["past_key_values"] = past_key_values
    if model.config.audio_token_id < model.config.text_config.vocab_size:  # an LLM never says a slot
        kwargs.setdefault("suppress_tokens", [model.config.audio_token_id])
    processors = list(kwargs.get("logits_processor") or ())
    drawn = settings.do_sample or kwargs.get("do_sample") or any(isinstance(p, RowDraws) for p in processors)
    if beams == 1 and not known and not drawn:
        mask = attention_mask if attention_mask is not None else torch.ones_like(input_ids)
        kwargs["logits_processor"] = LogitsProcessorList(
            [NearTies(model, embeds, mask, processors, settings)]
        )
    return GenerationMixin.generate(model, inputs_embeds=embeds, attention_mask=attention_mask, **kwargs)
