"""Direct preference optimisation over audio conversations (Rafailov et al.; Qwen2-Audio, equation 2).

    loss = -log sigmoid(beta * [(log p(y_w) - log p_ref(y_w)) - (log p(y_l) - log p_ref(y_l))])

where log p(y) sums over the tokens of the response and its end. A sample's prompt comes with ``chosen``
and ``rejected``; a batch of n pairs has 2n rows, chosen ones first, and encodes each audio once. The
reference is the model as it starts: a frozen copy, the LLM without its LoRA, or numbers computed before.
DPO alone may make both answers less likely and the chosen one still by less: ``sft_weight`` holds it.
"""

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import BatchFeature

from lalm.data.audio_inputs import Audios
from lalm.data.mixture import DataError
from lalm.data.sample import Sample, SampleError
from lalm.models.lora import set_lora_scale
from lalm.models.loss import row_numbers
from lalm.models.modeling import IGNORE_INDEX, AudioLMForConditionalGeneration
from lalm.models.prefill import PER_CLIP
from lalm.models.processing import AudioLMProcessor
from lalm.training.batches import Augment, Collator
from lalm.training.objectives.reference_free import orpo_loss, simpo_loss
from lalm.training.parallel.gradients import PartwiseTrainer
from lalm.training.sections import Dpo
from lalm.training.trainer import Read

BATCHES_KEPT = 50  # a reference table is written after so many


def preference_loss(
    policy: Tensor, reference: Tensor, beta: float, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mean loss and the pairs' margins (n,). policy, reference: (2n,) log-probabilities, chosen first.

    ``label_smoothing`` is the probability that a pair's labels are the wrong way round (conservative DPO).
    """
    chosen, rejected = (policy - reference).chunk(2)
    margins = beta * (chosen - rejected)
    losses = -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)
    return losses.mean(), margins


def chosen_loss(policy: Tensor, rows: Tensor) -> Tensor:
    """Cross-entropy of the chosen answers, a mean over their tokens. rows: (R,), the row of each token."""
    chosen, _ = policy.chunk(2)
    return -chosen.sum() / (rows < len(chosen)).sum()


def response_logits(
    model: AudioLMForConditionalGeneration, batch: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (R, V) at all labelled positions, the R target ids, and the row of each."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state  # (2n, L, D)
    targets = batch["labels"][:, 1:]
    keep = targets != IGNORE_INDEX
    return (
        model.logits(hidden[:, :-1][keep]),
        targets[keep],
        row_numbers(batch["labels"], batch.get("position_ids"))[:, 1:][keep],
    )


def row_log_probs(logits: Tensor, targets: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Sum of the targets' log-probabilities in each row, (num_rows,) float32."""
    picked = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)  # (R,)
    return picked.new_zeros(num_rows).index_add(0, rows, picked)


def pair_batch(
    processor: AudioLMProcessor,
    samples: Sequence[Sample],
    *,
    audios: Sequence[Audios] | None = None,
) -> BatchFeature:
    """Chosen rows, then rejected rows; labels mark the last answer alone; audio is there once a pair."""
    audios = audios if audios is not None else [processor.clips(sample) for sample in samples]
    rows = [s.with_target(s.chosen) for s in samples] + [s.with_target(s.rejected) for s in samples]
    batch = processor.batch(rows, labels=True, audios=[*audios, *audios])
    batch["labels"] = last_answer(batch["labels"])
    for name in PER_CLIP:
        if name in batch:
            batch[name] = batch[name][: len(batch[name]) // 2]
    return batch


def last_answer(labels: Tensor) -> Tensor:
    """labels: (B, L), -100 outside answers -> the same with only the last answer of each row left."""
    inside = labels != IGNORE_INDEX
    starts = inside.clone()
    starts[:, 1:] &= ~inside[:, :-1]
    places = torch.arange(labels.shape[1], device=labels.device)
    last = torch.where(starts, places, -1).amax(1, keepdim=True)  # (B, 1)
    return labels.masked_fill(places < last, IGNORE_INDEX)


def check_pairs(samples: Iterable[Sample], manifest: str) -> None:
    """Raises DataError for a sample that is no pair."""
    for number, sample in enumerate(samples, 1):
        name = sample.id or f"sample {number}"
        for field, text in (("chosen", sample.chosen), ("rejected", sample.rejected)):
            if not text.strip():
                raise DataError(f"{manifest}: {name} has no '{field}' answer to learn preferences from")
        if sample.chosen == sample.rejected:
            raise DataError(f"{manifest}: {name} prefers an answer to itself")


def pair_key(sample: Sample) -> str:
    """What a pair's precomputed reference is kept under."""
    fields = {
        key: value for key, value in sample.to_json().items() if key in ("messages", "chosen", "rejected")
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]


class PreferenceTrainer(PartwiseTrainer):
    """The recipe's trainer with the preference loss; logs the margin, accuracy and KL of its pairs.

    ``kl`` is KL(policy || reference) in nats, averaged over the tokens of both answers; there is none with a
    precomputed reference, which keeps no distributions.
    """

    def __init__(self, settings: Dpo, **others: Any) -> None:
        super().__init__(**others)
        self._dpo = settings
        self._copy: AudioLMForConditionalGeneration | None = None
        if settings.loss in ("simpo", "orpo"):
            return  # no reference
        if settings.reference == "copy":
            self._copy = frozen_copy(self.model)
        elif settings.reference == "adapter":
            check_adapter(self.model)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        batch = {name: value for name, value in inputs.items() if name != "reference"}
        plain = self.model
        shared = not any(p.requires_grad for p in plain.model.audio_tower.parameters())
        own = encoded_once(plain, batch)
        logits, targets, rows = response_logits(model, own)
        num_rows = int(row_numbers(batch["labels"], batch.get("position_ids")).max()) + 1
        policy = row_log_probs(logits, targets, rows, num_rows)
        found: dict[str, Tensor] = {}
        reference = policy.detach()
        if self._dpo.loss != "dpo":
            pass
        elif self._dpo.reference == "precomputed":
            reference = inputs["reference"]
        else:
            with torch.no_grad(), reference_model(plain, self._copy) as other:
                given = own if shared else encoded_once(other, batch)
                other_logits, _, _ = response_logits(other, given)
                reference = row_log_probs(other_logits, targets, rows, num_rows)
                p, q = logits.detach().log_softmax(1), other_logits.log_softmax(1)
                found["kl"] = (p.exp() * (p - q)).sum(1).mean()
        loss, margins = self._preference(policy, reference, rows)
        chosen, rejected = policy.detach().chunk(2)
        found |= {
            "margin": margins.detach().mean(),
            "accuracy": (margins > 0).float().mean(),
            "chosen_log_prob": chosen.mean(),
            "rejected_log_prob": rejected.mean(),
        }
        for name, value in found.items():
            self.note(name, float(value))
        return (loss, {}) if return_outputs else loss

    def _preference(self, policy: Tensor, reference: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of the pairs and their margins. policy, reference: (2n,); rows: (R,), each token's."""
        settings = self._dpo
        lengths = torch.bincount(rows, minlength=len(policy)).clamp(min=1)
        weight = settings.sft_weight
        if settings.loss == "simpo":
            loss, margins = simpo_loss(
                policy, lengths, settings.beta, settings.margin, settings.label_smoothing
            )
        elif settings.loss == "orpo":
            loss, margins = orpo_loss(policy, lengths, settings.beta)
            weight = 1.0
        else:
            loss, margins = preference_loss(policy, reference, settings.beta, settings.label_smoothing)
        return loss + weight * chosen_loss(policy, rows), margins


def frozen_copy(model: AudioLMForConditionalGeneration) -> AudioLMForConditionalGeneration:
    """A copy that never learns; parts of the model that do not learn either are shared with it."""
    still = [m for m in model.modules() if not any(p.requires_grad for p in m.parameters())]
    twin = copy.deepcopy(model, {id(module): module for module in still if list(module.parameters())})
    return twin.requires_grad_(False).eval()


def check_adapter(model: AudioLMForConditionalGeneration) -> None:
    """Raises ValueError unless LoRA, fresh, is all that learns: only then is the LLM without it the start."""
    other = [n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n]
    if other or not model.config.lora:
        what = other[0] if other else "there is no LoRA"
        raise ValueError(f"reference: 'adapter' needs LoRA to be all that learns ({what}): say 'copy'")
    trained = [n for n, p in model.named_parameters() if "lora_B" in n and bool(p.any())]
    if trained:
        raise ValueError("reference: 'adapter' would forget what this LoRA has learned: say 'copy'")


@contextmanager
def reference_model(
    model: AudioLMForConditionalGeneration, twin: AudioLMForConditionalGeneration | None
) -> Any:
    """The copy, or the model itself with its LoRA, if it has one, switched off."""
    if twin is not None or not model.config.lora:
        yield twin or model
        return
    set_lora_scale(model, 0.0)
    try:
        yield model
    finally:
        set_lora_scale(model, None)


def encoded_once(model: AudioLMForConditionalGeneration, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch with the frames of its audio, encoded once and there for both halves of the rows."""
    given = dict(batch)
    if "input_values" in given:
        frames = model.model.encode(given.pop("input_values"), given.pop("audio_lengths"))
        given["frames"], given["frame_lengths"] = frames
    for name in PER_CLIP:
        if name in given:
            given[name] = torch.cat([given[name]] * 2)
    return given


class ReferenceTable:
    """Reference log-probabilities of pairs, computed once with the model as it starts and kept in a file.

    ``run``: the digest of the run (``lalm.training.resuming``); what another one kept there is not taken.
    """

    def __init__(self, file: Path, run: str) -> None:
        self._file, self._run = file, run
        self._rows = read_rows(file, run)

    def __len__(self) -> int:
        return len(self._rows)

    @torch.no_grad()
    def fill(
        self,
        model: AudioLMForConditionalGeneration,
        processor: AudioLMProcessor,
        sources: Iterable[Sequence[Sample]],
        read: Read,
        batch_size: int,
    ) -> None:
        """Compute what is missing; pairs that cannot be read are left to the collator to name.

        The first of several processes computes, the others read its file. A batch of which something is
        missing is computed whole, so a start after a kill has the numbers of one that was not stopped.
        """
        first, several = os.environ.get("RANK", "0") == "0", int(os.environ.get("WORLD_SIZE", "1")) > 1
        if not first:
            torch.distributed.barrier()
            self._rows = read_rows(self._file, self._run)
            return
        wanted = {pair_key(sample): sample for source in sources for sample in source}
        keys, training = list(wanted), model.training
        model.eval()
        for number, at in enumerate(range(0, len(keys), batch_size), 1):
            batch = keys[at : at + batch_size]
            if all(key in self._rows for key in batch):
                continue
            self._add(model, processor, {key: wanted[key] for key in batch}, read)
            if number % BATCHES_KEPT == 0:
                self._keep()
        model.train(training)
        self._keep()
        if several:
            torch.distributed.barrier()

    def of(self, samples: Sequence[Sample]) -> Tensor:
        """(2n,) float32, chosen first. Raises SampleError for a pair that could not be read before."""
        for sample in samples:
            if pair_key(sample) not in self._rows:
                raise SampleError(f"{sample.id or 'a sample'}: the reference could not read this pair")
        rows = [self._rows[pair_key(sample)] for sample in samples]
        return torch.tensor([chosen for chosen, _ in rows] + [rejected for _, rejected in rows])

    def _add(
        self,
        model: AudioLMForConditionalGeneration,
        processor: AudioLMProcessor,
        pairs: Mapping[str, Sample],
        read: Read,
    ) -> None:
        """Compute the numbers of a batch of pairs, by their keys; of new ones they are kept."""
        keys, audios = [], []
        for key, sample in pairs.items():
            try:
                own = read(sample)
                pair_batch(processor, [sample], audios=[own])
            except (ValueError, OSError):
                continue
            audios.append(own)
            keys.append(key)
        if not keys:
            return
        batch = pair_batch(processor, [pairs[key] for key in keys], audios=audios).to(model.device)
        logits, targets, rows = response_logits(model, encoded_once(model, batch))
        chosen, rejected = row_log_probs(logits, targets, rows, 2 * len(keys)).chunk(2)
        found = dict(zip(keys, zip(chosen.tolist(), rejected.tolist(), strict=True), strict=True))
        self._rows = found | self._rows

    def _keep(self) -> None:
        draft = self._file.with_suffix(".part")
        draft.write_text(json.dumps({"run": self._run, "pairs": self._rows}))
        draft.replace(self._file)


def read_rows(file: Path, run: str) -> dict[str, tuple[float, float]]:
    """A table's file: pair -> log-probabilities of chosen and rejected; none of another run's."""
    told = json.loads(file.read_text()) if file.is_file() else {}
    pairs = told["pairs"] if told.get("run") == run else {}
    return {key: (float(chosen), float(rejected)) for key, (chosen, rejected) in pairs.items()}


def pair_collator(
    processor: AudioLMProcessor,
    read: Read,
    table: ReferenceTable | None,
    *,
    augment: Augment | None = None,
    packing: bool = False,
) -> Collator:
    """Batches of pairs for the trainer, with the reference's numbers where they are precomputed."""

    def render(samples: Sequence[Sample], audios: Sequence[Audios]) -> BatchFeature:
        batch = pair_batch(processor, samples, audios=audios)
        if table is not None:
            batch["reference"] = table.of(samples)
        return batch

    return Collator(processor, read, render, augment, packing=packing)
