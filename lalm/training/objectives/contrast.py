"""Contrastive pre-alignment: clip and caption meet in every layer of the LLM (arXiv 2412.15712).

The frozen LLM reads a clip's audio tokens, and by itself the caption (or transcript). In each layer the
states are averaged over the audio tokens, and over the caption's; of the clips of a batch each shall be
nearer to its own caption than to the others', and each caption to its clip:

    loss = mean over layers of (CE(cos(a, t) / T) + CE(cos(t, a) / T)) / 2

No answer is learned: a recipe of the next stage starts ``from`` the run's folder.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import BatchFeature

from lalm.data.audio_inputs import Audios
from lalm.data.sample import Sample, SampleError
from lalm.errors import LalmError
from lalm.models.processing import AudioLMProcessor
from lalm.training.batches import Collator
from lalm.training.objectives.distil import heard_text
from lalm.training.parallel.gradients import PartwiseTrainer
from lalm.training.sections import Contrast
from lalm.training.trainer import Read

SAME = -1e4  # logit between a clip and the same caption of another clip: neither right nor wrong


class ContrastError(LalmError, ValueError):
    """A contrast that the LLM does not allow; the text says why."""


def contrastive_loss(audio: Tensor, text: Tensor, same: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The loss of one layer, and the share of clips nearest to their own caption. audio, text: (B, D) means
    of states; same: (B, B), which captions have the same words."""
    logits = normalize(audio, dim=1) @ normalize(text, dim=1).T / temperature
    logits = logits.masked_fill(same & ~torch.eye(len(same), dtype=torch.bool, device=same.device), SAME)
    own = torch.arange(len(logits), device=logits.device)
    loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    return loss, (logits.argmax(1) == own).float().mean()


def mean_states(states: Sequence[Tensor], where: Tensor) -> list[Tensor]:
    """states: of each layer (B, L, D); where: (B, L) bool -> their means there, (B, D) float32 each."""
    weights = where.float() / where.sum(1, keepdim=True).clamp(min=1)
    return [torch.einsum("bl,bld->bd", weights, layer.float()) for layer in states]


class ContrastTrainer(PartwiseTrainer):
    """The recipe's trainer with the contrastive loss; logs ``recall``, the share of clips whose own caption
    is the nearest of the batch's, as a mean over layers."""

    def __init__(self, settings: Contrast, **others: Any) -> None:
        super().__init__(**others)
        self._contrast = settings
        most = self.model.config.text_config.num_hidden_layers
        if odd := [layer for layer in settings.layers or () if not -most - 1 <= layer <= most]:
            raise ContrastError(f"contrast.layers: there is no layer {odd[0]}: the LLM has 0 to {most}")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch of clips and captions."""
        plain, settings = self.model, self._contrast
        batch = {k: v for k, v in inputs.items() if not k.startswith("text_") and k != "labels"}
        slots = batch["input_ids"] == plain.config.audio_token_id
        heard = plain.model(**batch, use_cache=False, output_hidden_states=True).hidden_states
        with torch.no_grad():
            read = plain.model.language_model(
                input_ids=inputs["text_ids"],
                attention_mask=inputs["text_mask"],
                use_cache=False,
                output_hidden_states=True,
            ).hidden_states
        ids = inputs["text_ids"] * inputs["text_mask"]
        same = (ids[:, None] == ids[None]).all(2)
        chosen = range(len(heard)) if settings.layers is None else settings.layers
        audio = mean_states([heard[layer] for layer in chosen], slots)
        text = mean_states([read[layer] for layer in chosen], inputs["text_mask"].bool())
        pairs = [contrastive_loss(a, t, same, settings.temperature) for a, t in zip(audio, text, strict=True)]
        loss = torch.stack([one for one, _ in pairs]).mean()
        self.note("recall", float(torch.stack([found for _, found in pairs]).mean()))
        return (loss, {}) if return_outputs else loss


def contrast_collator(processor: AudioLMProcessor, read: Read, augment: Any = None) -> Collator:
    """Batches of clips and of what is known of each; samples of which nothing is are left out by name."""

    def render(samples: Sequence[Sample], audios: Sequence[Audios]) -> BatchFeature:
        texts = [heard_text(sample) for sample in samples]
        for sample, text, clips in zip(samples, texts, audios, strict=True):
            if not text or len(clips) != 1:
                raise SampleError(f"{sample.id or 'a sample'}: contrast needs one recording and its caption")
        alone = [Sample(({"role": "user", "content": [sample.audios[0]]},)) for sample in samples]
        batch = dict(processor.batch(alone, audios=audios, padding_side="right"))
        rows = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        batch["text_ids"] = padded
        batch["text_mask"] = (torch.arange(padded.shape[1])[None] < lengths[:, None]).long()
        batch["labels"] = torch.full_like(batch["input_ids"], -100)  # nothing is learned word for word
        return BatchFeature(batch)

    return Collator(processor, read, render, augment=augment)
