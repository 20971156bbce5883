"""KTO: learning from answers that are good or bad by themselves, not in pairs (arXiv 2402.01306, 4.1).

    r = log p(y) - log p_ref(y)          z = max(0, mean over mismatched y' of r(y'))
    loss = w+ * (1 - sigmoid(beta * (r - z)))     for a good answer
           w- * (1 - sigmoid(beta * (z - r)))     for a bad one

A sample's ``chosen`` answer is good, its ``rejected`` one bad; either may be missing, as where listeners
gave thumbs up or down. z estimates KL(p || p_ref): each prompt of a batch is read with an answer to the next
one's, and nothing is learned of that, so a batch needs two samples or more. Audio is encoded once a sample.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

from lalm.data.audio_inputs import Audios
from lalm.data.mixture import DataError
from lalm.data.sample import Sample
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.prefill import PER_CLIP
from lalm.models.processing import AudioLMProcessor
from lalm.training.batches import Augment, Collator
from lalm.training.objectives.dpo import (
    PreferenceTrainer,
    last_answer,
    reference_model,
    response_logits,
    row_log_probs,
)
from lalm.training.trainer import Read

GOOD, BAD, OTHERS = 1, 0, -1  # kinds of rows; those of others' answers stand last
NOTED = ("kl", "accuracy", "chosen_log_prob", "rejected_log_prob", "margin")
KINDS, CLIPS = "kinds", "clip_rows"  # of a batch: (R,) kinds of rows; the clips of all rows, in reading order


def kto_loss(
    ratios: Tensor, good: Tensor, kl: Tensor, beta: float, weights: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Mean loss. ratios: (R,) log p - log p_ref of whole answers; good: (R,) bool; kl: (), not below 0;
    ``weights``: of good and of bad answers."""
    value = torch.sigmoid(beta * torch.where(good, ratios - kl, kl - ratios))
    return ((1 - value) * torch.where(good, *weights)).mean()


def answer_batch(
    processor: AudioLMProcessor, samples: Sequence[Sample], audios: Sequence[Audios]
) -> BatchFeature:
    """A row for each answer, then one a sample with the next one's answer; audio is there once a sample."""
    rows: list[tuple[int, str, int]] = []
    for number, sample in enumerate(samples):
        rows += [(number, sample.chosen, GOOD)] if sample.chosen else []
        rows += [(number, sample.rejected, BAD)] if sample.rejected else []
    if len(samples) > 1:
        following = [samples[(number + 1) % len(samples)] for number in range(len(samples))]
        rows += [(number, one.chosen or one.rejected, OTHERS) for number, one in enumerate(following)]
    asked = [samples[number].with_target(text) for number, text, _ in rows]
    once = processor.batch([sample.prompt() for sample in samples], audios=audios)
    batch = processor.batch(asked, labels=True, audios=[audios[number] for number, _, _ in rows])
    batch["labels"] = last_answer(batch["labels"])
    for name in PER_CLIP:
        if name in batch:
            batch[name] = once[name]
    firsts = [sum(len(clips) for clips in audios[:number]) for number in range(len(audios))]
    order = [firsts[number] + clip for number, _, _ in rows for clip in range(len(audios[number]))]
    batch[KINDS] = torch.tensor([kind for _, _, kind in rows])
    batch[CLIPS] = torch.tensor(order, dtype=torch.int64)
    return batch


def check_answers(samples: Iterable[Sample], manifest: str) -> None:
    """Raises DataError for a sample with neither a chosen nor a rejected answer."""
    for number, sample in enumerate(samples, 1):
        if not (sample.chosen.strip() or sample.rejected.strip()):
            name = sample.id or f"sample {number}"
            raise DataError(f"{manifest}: {name} has no 'chosen' and no 'rejected' answer to learn from")


class KtoTrainer(PreferenceTrainer):
    """The recipe's trainer with KTO's loss.

    Logs ``kl``, the z above, ``accuracy``, the share of answers on their side of it, the log-probability of
    good and of bad answers, and where a batch has both ``margin``, beta times the difference of their ratios.
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch of answers. The model runs in parts, as for pairs."""
        batch = {name: value for name, value in inputs.items() if name not in (KINDS, CLIPS)}
        kinds, plain = inputs[KINDS], self.model
        answers = kinds != OTHERS
        own = heard(plain, batch, inputs[CLIPS])
        policy = row_log_probs(*response_logits(plain, own), len(kinds))
        shared = not any(p.requires_grad for p in plain.model.audio_tower.parameters())
        with torch.no_grad(), reference_model(plain, self._copy) as other:
            given = own if shared else heard(other, batch, inputs[CLIPS])
            reference = row_log_probs(*response_logits(other, given), len(kinds))
        kl = policy.new_zeros(())
        if bool((~answers).any()):
            kl = (policy - reference)[~answers].mean().detach().clamp(min=0)
        ratios, good = (policy - reference)[answers], kinds[answers] == GOOD
        loss = kto_loss(
            ratios, good, kl, self._dpo.beta, (self._dpo.chosen_weight, self._dpo.rejected_weight)
        )
        with torch.no_grad():
            right = torch.where(good, ratios > kl, ratios < kl)
            of_good, of_bad = (policy[answers][chosen].mean() for chosen in (good, ~good))
            margin = self._dpo.beta * (ratios[good].mean() - ratios[~good].mean())
        values = (kl, right.float().mean(), of_good, of_bad, margin)
        for name, value in zip(NOTED, values, strict=True):
            self.note(name, None if bool(value.isnan()) else float(value))
        return (loss, {}) if return_outputs else loss


def heard(
    model: AudioLMForConditionalGeneration, batch: Mapping[str, Tensor], clips: Tensor
) -> dict[str, Tensor]:
    """The batch with the frames of its audio, encoded once, and there for each row; clips: (C,) int64."""
    given = dict(batch)
    if "input_values" in given:
        frames = model.model.encode(given.pop("input_values"), given.pop("audio_lengths"))
        given["frames"], given["frame_lengths"] = frames
    return given | {name: given[name][clips] for name in PER_CLIP if name in given}


def answer_collator(
    processor: AudioLMProcessor, read: Read, *, augment: Augment | None = None, packing: bool = False
) -> Collator:
    """Batches of answers for the trainer."""

    def render(samples: Sequence[Sample], audios: Sequence[Audios]) -> BatchFeature:
        return answer_batch(processor, samples, audios)

    return Collator(processor, read, render, augment, packing=packing)
