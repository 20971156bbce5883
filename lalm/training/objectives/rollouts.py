"""Answers drawn from the model while it trains, in groups; each from a generator of its own, so that a run
that is resumed draws the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList

from lalm.data.audio_inputs import Audios
from lalm.data.sample import Message, Sample
from lalm.models.answer_end import answer_ends
from lalm.models.llm_body import reads_rows_together
from lalm.models.modeling import IGNORE_INDEX, AudioLMForConditionalGeneration
from lalm.models.prefill import PER_CLIP, read_once
from lalm.models.processing import AudioLMProcessor
from lalm.models.sampling import Drawing, RowDraws


@dataclass(frozen=True)
class Rollouts:
    """Drawn answers of P prompts, G each, those of a prompt behind one another.

    ``batch``: rows of prompt and answer, (P * G, L), labels on the answer and its end, and the audio of each
    row; ``texts``: the answers; ``cut``: which of them the token limit ended. ``log_probs``: (R,) of all
    answers' tokens, by who drew them, where that was another program.
    """

    batch: dict[str, Tensor]
    texts: list[str]
    cut: list[bool]
    log_probs: Tensor | None = None


def row_seeds(seed: int, step: int, rows: int) -> list[int]:
    """A seed for each row of a step."""
    return [int(s) for s in np.random.SeedSequence([seed, 5, step]).generate_state(rows, np.uint64) >> 1]


def draw(
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    batch: Mapping[str, Tensor],
    clips: Sequence[int],
    group: int,
    drawing: Drawing,
    max_new_tokens: int,
    seeds: Sequence[int],
) -> Rollouts:
    """Draw ``group`` answers to each of P prompts; ``clips`` says how many recordings each has.

    ``batch``: prompts as ``AudioLMProcessor.batch`` makes them without labels; ``seeds``: one a row.
    """
    training = model.training
    model.eval()
    once = encoded(model, batch)
    prompts = repeated(once, clips, group)
    ends = answer_ends(processor.tokenizer, str(processor.chat_template), model.generation_config)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,  # ``RowDraws`` draws
        eos_token_id=sorted(ends),
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    draws = LogitsProcessorList([RowDraws(len(prompts["input_ids"]), list(seeds), drawing)])
    ids = model.generate(
        **_read(model, once, prompts, group), generation_config=settings, logits_processor=draws
    )
    model.train(training)
    return collected(processor, prompts, [_until_end(row, ends) for row in ids.tolist()], ends)


@torch.no_grad()
def _read(
    model: AudioLMForConditionalGeneration,
    once: Mapping[str, Tensor],
    prompts: Mapping[str, Tensor],
    group: int,
) -> Mapping[str, Any]:
    """What ``generate`` continues: where it can be, a prompt is read once and not once an answer."""
    body, ids = model.model.language_model, once["input_ids"]
    if group == 1 or not reads_rows_together(body) or bool((ids[:, -1] == model.config.audio_token_id).any()):
        return prompts
    embeds = model.model.embed(ids, **{name: once[name] for name in PER_CLIP if name in once})
    cache = read_once(body, embeds, once["attention_mask"], group)
    if cache is None:
        return prompts
    texts = ("input_ids", "attention_mask")
    return {name: prompts[name] for name in texts} | {"past_key_values": cache}


def collected(
    processor: AudioLMProcessor,
    prompts: Mapping[str, Tensor],
    answers: Sequence[Sequence[int]],
    ends: set[int],
) -> Rollouts:
    """Prompts, a row an answer, with the token ids of their answers behind them."""
    rows = []
    for row, mask, answer in zip(prompts["input_ids"], prompts["attention_mask"], answers, strict=True):
        prompt = row[mask.bool()].tolist()
        rows.append(([*prompt, *answer], [IGNORE_INDEX] * len(prompt) + list(answer)))
    pad = processor.tokenizer.pad_token_id
    made = {name: value for name, value in prompts.items() if name in PER_CLIP}
    made["input_ids"] = _padded([ids for ids, _ in rows], pad)
    made["labels"] = _padded([labels for _, labels in rows], IGNORE_INDEX)
    made["attention_mask"] = _padded([[1] * len(ids) for ids, _ in rows], 0)
    device = prompts["input_ids"].device
    said = [[token for token in answer if token not in ends] for answer in answers]
    return Rollouts(
        {name: value.to(device) for name, value in made.items()},
        [str(text).strip() for text in processor.tokenizer.batch_decode(said, skip_special_tokens=True)],
        [not answer or answer[-1] not in ends for answer in answers],
    )


def encoded(model: AudioLMForConditionalGeneration, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch with the frames of its audio in the waveforms' place."""
    given = dict(batch)
    if "input_values" in given:
        with torch.no_grad():
            frames = model.model.encode(given.pop("input_values"), given.pop("audio_lengths"))
        given["frames"], given["frame_lengths"] = frames
    return given


def repeated(batch: Mapping[str, Tensor], clips: Sequence[int], group: int) -> dict[str, Tensor]:
    """Each row ``group`` times behind one another, and its clips with it."""
    firsts = np.cumsum([0, *clips])
    order = [
        c
        for row, count in enumerate(clips)
        for _ in range(group)
        for c in range(firsts[row], firsts[row] + count)
    ]
    index = torch.tensor(order, dtype=torch.int64)
    return {
        name: value[index.to(value.device)] if name in PER_CLIP else value.repeat_interleave(group, 0)
        for name, value in batch.items()
    }


def unheard(sample: Sample) -> Sample:
    """The prompt of a sample without its recordings: what can be told from the text alone."""
    messages: list[Message] = []
    for message in sample.prompt().messages:
        content: Any = message["content"]
        if not isinstance(content, str):
            content = [part for part in content if part["type"] == "text"] or ""
        messages.append({"role": message["role"], "content": content})
    return replace(sample.prompt(), messages=tuple(messages))


def prompt_batch(
    processor: AudioLMProcessor, samples: Sequence[Sample], audios: Sequence[Audios]
) -> dict[str, Any]:
    """What a step of drawing needs: the prompts' tensors, their samples, and how many clips each has."""
    batch: dict[str, Any] = dict(processor.batch([s.prompt() for s in samples], audios=audios))
    return {**batch, "samples": list(samples), "clips": [len(clips) for clips in audios]}


def _until_end(ids: Sequence[int], ends: set[int]) -> list[int]:
    for i, token in enumerate(ids):
        if token in ends:
            return list(ids[: i + 1])
    return list(ids)


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)
