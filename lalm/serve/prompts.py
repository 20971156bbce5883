"""Prompts as tensors, made away from the scheduler's thread: rendering, tokenising, checking the length."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor

from lalm.data.audio_inputs import Clip
from lalm.data.sample import Sample
from lalm.inference.engine import Engine, Options

Prompt: TypeAlias = dict[str, Tensor]
AUDIO = ("input_values", "audio_lengths")  # the scheduler has the encoder's output instead


def prompt_of(engine: Engine, sample: Sample, clips: list[Clip], options: Options) -> Prompt:
    """What ``embed`` takes beside the audio: input_ids (1, L) and, for some, instruction_ids (A, I).

    Raises ValueError where the prompt and the longest answer do not fit into the model.
    """
    batch = engine.processor.batch([sample], audios=[engine.with_transcripts(clips)])
    engine.check_length(clips, batch["input_ids"].shape[1], options)
    return {name: tensor for name, tensor in batch.items() if name not in AUDIO}


def text_length(messages: Sequence[Any]) -> int:
    """Characters of text in OpenAI's messages, whatever else is wrong with them."""
    total = 0
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        total += sum(len(text) for text in texts if isinstance(text, str))
    return total
