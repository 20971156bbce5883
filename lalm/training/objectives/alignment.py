"""The training objective of APT's stage 0: the connector learns from clips and captions, without the LLM.

The losses are ``lalm.systems.apt.alignment``'s; validation adds how often clip and caption find each other.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lalm.errors import LalmError
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.systems.apt.alignment import LOSSES, Alignment, alignment_batch, recalls
from lalm.training.batches import Collator
from lalm.training.trainer import Read, RecipeTrainer


class AlignError(LalmError, ValueError):
    """A recipe whose connector cannot be aligned; the text says why."""


class AlignmentTrainer(RecipeTrainer):
    """The recipe's trainer on an ``Alignment``; what it saves is the whole model, as ever.

    With several processes each one validates its own share of the clips.
    """

    def __init__(self, model: AudioLMForConditionalGeneration, **others: Any) -> None:
        super().__init__(model=Alignment(model.model.connector, model.model.encode), **others)
        self.model_accepts_loss_kwargs = False  # the losses are means over clips, not over tokens
        self.whole = model
        self._validated: list[Mapping[str, Tensor]] = []

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """The losses of one batch; its embeddings are kept for the recall."""
        with torch.no_grad():
            found = model(**self._prepare_inputs(inputs))
        self._validated.append({name: found[name].cpu() for name in (*LOSSES, "audio", "text")})
        self._validated[-1] = {**self._validated[-1], "keys": inputs["keys"].cpu()}
        return found["loss"], None, None

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """The Trainer's, and the means of the single losses and the recalls over all clips."""
        self._validated = []
        metrics: dict[str, float] = super().evaluate(*arguments, **options)
        audio, text, keys = (
            torch.cat([batch[name] for batch in self._validated]) for name in ("audio", "text", "keys")
        )
        more = {name: float(torch.stack([b[name] for b in self._validated]).mean()) for name in LOSSES[1:]}
        more |= recalls(audio, text, keys)
        self.log({f"eval_{name}": value for name, value in more.items()})
        return metrics


def check_alignable(model: AudioLMForConditionalGeneration) -> None:
    """Raises AlignError for a system without an aligner, or a recipe that trains more than the connector."""
    if "alignment" not in model.config.to_dict():
        raise AlignError("align: this system's connector reads no text, so there is nothing to align")
    others = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith("model.connector.")
    ]
    if others:
        raise AlignError(f"trainable: alignment trains the connector alone, not {others[0]}")


def alignment_collator(processor: AudioLMProcessor, read: Read) -> Collator:
    """Batches of clips and captions."""
    return Collator(processor, read, partial(alignment_batch, processor))
