"""How likely each of several answers is: log-probabilities of given texts as the whole reply to a prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lalm.engine import Engine
from lalm.modeling import IGNORE_INDEX, AudioLMForConditionalGeneration
from lalm.sample import Sample


def log_likelihoods(engine: Engine, sample: Sample, options: Sequence[str]) -> list[float]:
    """log p(option | prompt) of each option, the end of the answer included; the prompt is read once.

    Raises ValueError for an empty option, or a prompt that is longer than the LLM takes.
    Example: ``log_likelihoods(engine, ask(["horse.ogg"], "Is it a horse?"), ["Yes.", "No."])``.
    """
    prompt = sample.prompt()
    clips = engine.processor.clips(prompt)
    inputs = engine.processor.batch([prompt], audios=[clips])
    read = inputs["input_ids"][0].tolist()
    rows = []
    for option in options:
        if not option.strip():
            raise ValueError("an empty text is no answer that could be likely")
        whole = engine.processor.batch([prompt.with_target(option)], labels=True, audios=[clips])
        ids, learned = whole["input_ids"][0].tolist(), whole["labels"][0].tolist()
        last = max(place for place, label in enumerate(learned) if label != IGNORE_INDEX)
        if ids[: len(read)] != read:
            raise ValueError("this model's chat template writes a prompt otherwise when it has an answer")
        rows.append(ids[len(read) : last + 1])
    return continuations(engine.model, dict(inputs.to(engine.model.device)), rows)


@torch.inference_mode()
def continuations(
    model: AudioLMForConditionalGeneration, inputs: Mapping[str, Any], rows: Sequence[Sequence[int]]
) -> list[float]:
    """inputs: a batch of one prompt, (1, L) ids and its audio; rows: C continuations of it, token ids.

    The sum of each row's log-probabilities, (C,).
    """
    known = {name: value for name, value in inputs.items() if name != "attention_mask"}
    embeds = model.model.embed(**known)  # (1, L, D)
    body = model.model.language_model
    cache = DynamicCache(config=body.config)
    hidden = body(inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state
    first = model.logits(hidden[:, -1:]).expand(len(rows), -1, -1)  # (C, 1, V)
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[row[-1]] * (length - len(row))] for row in rows], device=embeds.device)
    logits = [first]
    if length > 1:  # what pads a row comes after its tokens, which do not see it
        cache.batch_repeat_interleave(len(rows))
        words = model.get_input_embeddings()(ids[:, :-1])
        hidden = body(inputs_embeds=words, past_key_values=cache, use_cache=True).last_hidden_state
        logits.append(model.logits(hidden))
    found = torch.cat(logits, 1).log_softmax(-1).gather(2, ids[..., None])[..., 0]  # (C, T)
    lengths = torch.tensor([len(row) for row in rows], device=embeds.device)
    inside: Tensor = torch.arange(length, device=embeds.device) < lengths[:, None]
    return [float(total) for total in found.masked_fill(~inside, 0.0).sum(1)]
