"""Likelihood of candidate answers: log-probabilities of given texts as the reply to a prompt."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from lalm.data.audio_inputs import CachedFrames, Clip
from lalm.data.sample import Sample
from lalm.inference.engine import Engine
from lalm.models.llm_body import keeps_every_position, new_memory
from lalm.models.llm_body import read as read_body
from lalm.models.modeling import IGNORE_INDEX, AudioLMForConditionalGeneration


def log_likelihoods(engine: Engine, sample: Sample, options: Sequence[str]) -> list[float]:
    """log p(option | prompt) of each option, the end of the answer included; the prompt is read once.

    Raises ValueError for an empty option, or a prompt that is longer than the LLM takes.
    Example: ``log_likelihoods(engine, ask(["horse.ogg"], "Is it a horse?"), ["Yes.", "No."])``.
    """
    return answered(engine, sample, options, engine.clips(sample), 0)[1]


def answered(
    engine: Engine,
    sample: Sample,
    options: Sequence[str],
    clips: Sequence[Clip | CachedFrames],
    max_new_tokens: int,
) -> tuple[str, list[float]]:
    """The likeliest answer token by token, and how likely each option is, the prompt being read once.

    ``clips`` are the sample's audios, decoded or encoded already. Raises as ``log_likelihoods`` does.
    """
    prompt = sample.prompt()
    inputs = engine.processor.batch([prompt], audios=[clips])
    told = inputs["input_ids"][0].tolist()
    rows = []
    for option in options:
        if not option.strip():
            raise ValueError("an empty text is no answer that could be likely")
        whole = engine.processor.batch([prompt.with_target(option)], labels=True, audios=[clips])
        ids, learned = whole["input_ids"][0].tolist(), whole["labels"][0].tolist()
        last = max(place for place, label in enumerate(learned) if label != IGNORE_INDEX)
        if ids[: len(told)] != told:
            raise ValueError("this model's chat template writes a prompt otherwise when it has an answer")
        rows.append(ids[len(told) : last + 1])
    cache, logits = read(engine.model, dict(inputs.to(engine.model.device)))
    cuts = keeps_every_position(engine.model.model.language_model)  # a recurrent state is copied instead
    said = likeliest(engine, (cache if cuts else copy.deepcopy(cache), logits), max_new_tokens)
    if said and cuts:
        cache.crop(len(told) - cache.get_seq_length())
    text = engine.processor.decode_new(torch.tensor([said], dtype=torch.long))[0]
    return text, continuations(engine.model, (cache, logits), rows)


@torch.inference_mode()
def read(model: AudioLMForConditionalGeneration, inputs: Mapping[str, Any]) -> tuple[Cache, Tensor]:
    """inputs: a batch of one prompt, (1, L) ids and its audio -> what the LLM keeps of it, and what it
    expects next: logits (1, 1, V)."""
    known = {name: value for name, value in inputs.items() if name != "attention_mask"}
    body = model.model.language_model
    cache = new_memory(body)
    embeds = model.model.embed(**known)  # (1, L, D)
    hidden = read_body(body, inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state
    return cache, model.logits(hidden[:, -1:])


@torch.inference_mode()
def likeliest(engine: Engine, prompt: tuple[Cache, Tensor], max_new_tokens: int) -> list[int]:
    """The answer whose every token is the likeliest, without its end; the prompt's cache grows by it."""
    (cache, logits), model, said = prompt, engine.model, list[int]()
    while len(said) < max_new_tokens and (token := int(logits[0, -1].argmax())) not in engine.ends():
        said.append(token)
        words = model.get_input_embeddings()(torch.tensor([[token]], device=logits.device))
        body = model.model.language_model
        hidden = read_body(body, inputs_embeds=words, past_key_values=cache, use_cache=True)
        logits = model.logits(hidden.last_hidden_state)
    return said


@torch.inference_mode()
def continuations(
    model: AudioLMForConditionalGeneration, prompt: tuple[Cache, Tensor], rows: Sequence[Sequence[int]]
) -> list[float]:
    """The sum of each row's log-probabilities, (C,). rows: C continuations of the prompt, token ids.

    ``prompt`` is what ``read`` gives, and is used up.
    """
    cache, logits = prompt
    first = logits.expand(len(rows), -1, -1)  # (C, 1, V)
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[row[-1]] * (length - len(row))] for row in rows], device=logits.device)
    told = [first]
    if length > 1:  # what pads a row comes after its tokens, which do not see it
        cache.batch_repeat_interleave(len(rows))
        words = model.get_input_embeddings()(ids[:, :-1])
        body = model.model.language_model
        hidden = read_body(body, inputs_embeds=words, past_key_values=cache, use_cache=True).last_hidden_state
        told.append(model.logits(hidden))
    found = torch.cat(told, 1).log_softmax(-1).gather(2, ids[..., None])[..., 0]  # (C, T)
    lengths = torch.tensor([len(row) for row in rows], device=logits.device)
    inside: Tensor = torch.arange(length, device=logits.device) < lengths[:, None]
    return [float(total) for total in found.masked_fill(~inside, 0.0).sum(1)]
