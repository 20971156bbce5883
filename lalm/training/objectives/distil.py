"""Distillation from the LLM that reads the caption: the frozen LLM teaches itself to hear.

The teacher is the LLM as it was before training, given the true caption or transcript as text; the student
is the same conversation with the recording in the caption's place. Over the tokens of the answer

    loss = weight * T^2 * KL(teacher || student) + (1 - weight) * cross-entropy

with both distributions at temperature T (Hinton et al. 2015). The teacher's ``top_k`` likeliest tokens are
kept one by one and all others as one: the KL over these k + 1 classes is a lower bound of the whole one. With
``on: hidden`` the distance between the last hidden states takes the place of the KL (DiVA, arXiv 2410.02678).
Whole next-token distributions tell more a sample than one drawn answer (Ultravox; SALAD, arXiv 2510.13632).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

from lalm.data.audio_inputs import Audios
from lalm.data.mixture import DataError
from lalm.data.sample import Message, Sample, SampleError
from lalm.models.loss import summed_in_parts
from lalm.models.modeling import IGNORE_INDEX, AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.training.batches import Collator
from lalm.training.objectives.dpo import frozen_copy, reference_model
from lalm.training.objectives.teacher_table import TeacherTable
from lalm.training.sections import Distil
from lalm.training.text_replay import ROWS
from lalm.training.trainer import Read, RecipeTrainer

TEACHER = "teacher_"  # prefix of the teacher's tensors in a batch
LOOKED_AT = 1000  # samples that are looked through for one of which something is known
SMALLEST_REST = 1e-6  # of the probability that lies outside the top k, for its logarithm
DISTANCE = {"logits": "kl", "hidden": "distance"}  # what the log calls it
REPLAYED = ("loss_audio", "loss_text")
CAPTION_TASKS = ("response", "continuation", "pool")  # of rows whose reference is the caption (lalm respond)


def heard_text(sample: Sample) -> str:
    """What is known of a sample's one recording, for the teacher to read; empty if nothing is.

    Its caption, else the captions of its events; before them its transcript, if there is one. Of rows that
    ``lalm respond`` wrote the reference is the caption.
    """
    origin = sample.origin
    caption = origin.get("caption", "") or "; ".join(event["caption"] for event in sample.events)
    if not caption and sample.task in CAPTION_TASKS and sample.references:
        caption = sample.references[0]
    transcript = origin.get("transcript", "")
    return "\n".join(text for text in (f'"{transcript}"' if transcript else "", caption) if text)


def read_instead(sample: Sample) -> Sample | None:
    """The sample with text in place of its recording; itself where it has none, None where nothing is known.

    Text of the same turn follows on a line of its own. Samples with several recordings are not known.
    """
    if not sample.audios:
        return sample
    known = heard_text(sample)
    if not known or len(sample.audios) > 1:
        return None
    messages: list[Message] = []
    for message in sample.messages:
        content = message["content"]
        if not isinstance(content, str):
            texts = [known if part["type"] == "audio" else part.get("text", "") for part in content]
            content = "\n".join(str(text).strip() for text in texts)
        messages.append({"role": message["role"], "content": content})
    return replace(sample, messages=tuple(messages))


def check_known(samples: Iterable[Sample]) -> None:
    """Raises DataError where nothing is known of the recordings of the first thousand samples."""
    for number, sample in enumerate(samples):
        if read_instead(sample) is not None and sample.audios:
            return
        if number + 1 >= LOOKED_AT:
            break
    raise DataError(
        "no training sample says what is heard: known are origin.caption, "
        "origin.transcript, the captions of events, or the references of rows that 'lalm respond' wrote"
    )


def teacher_rows(processor: AudioLMProcessor, samples: Sequence[Sample], batch: BatchFeature) -> BatchFeature:
    """The teacher's rows of a labelled batch, (B', L'): input_ids, attention_mask, labels and ``rows`` (B',),
    the numbers of the rows of ``batch`` they belong to. A row is there where something is known.

    Raises SampleError where the answers' tokens differ, which a chat template could bring about.
    """
    told = [(i, read) for i, sample in enumerate(samples) if (read := read_instead(sample)) is not None]
    if not told:
        return BatchFeature({})
    found = processor.batch([sample for _, sample in told], labels=True, audios=[()] * len(told))
    for row, (i, sample) in enumerate(told):
        theirs = found["labels"][row][found["labels"][row] != IGNORE_INDEX]
        ours = batch["labels"][i][batch["labels"][i] != IGNORE_INDEX]
        if not torch.equal(theirs, ours):
            raise SampleError(f"{sample.id or 'a sample'}: teacher and student would say other tokens")
    return BatchFeature(
        {
            **{name: found[name] for name in ("input_ids", "attention_mask", "labels")},
            "rows": torch.tensor([i for i, _ in told]),
        }
    )


def answer_states(
    model: AudioLMForConditionalGeneration, batch: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Hidden states (P, D) from which the tokens of the answers follow, and the rows (P,) they are of."""
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "rows")}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state
    keep = batch["labels"][:, 1:] != IGNORE_INDEX
    rows = torch.arange(len(keep), device=keep.device)[:, None].expand_as(keep)[keep]
    return hidden[:, :-1][keep], rows


def top_log_probs(logits: Tensor, top_k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The ``top_k`` likeliest tokens of logits (P, V) at a temperature: ids (P, k) int64, log p (P, k)."""
    logits = logits.float() / temperature
    values, ids = logits.topk(min(top_k, logits.shape[1]), dim=1)
    return ids, values - logits.logsumexp(1, keepdim=True)


def rest_of(log_probs: Tensor) -> Tensor:
    """log of the probability that log_probs (P, k) leave to all other tokens, (P, 1)."""
    return torch.log1p(-log_probs.exp().sum(1, keepdim=True).clamp(max=1 - SMALLEST_REST))


def kl_over_top(ids: Tensor, teacher: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of each position, (P,), over the teacher's top k tokens and all others as one.

    ids, teacher: (P, k) tokens and their log-probabilities; logits: (P, V) the student's.
    """
    logits = logits.float() / temperature
    student = logits.gather(1, ids) - logits.logsumexp(1, keepdim=True)
    if ids.shape[1] < logits.shape[1]:
        teacher = torch.cat([teacher, rest_of(teacher)], 1)
        student = torch.cat([student, rest_of(student)], 1)
    return (teacher.exp() * (teacher - student)).sum(1)


class Sums:
    """Sums over the tokens of a batch and how many there were, by name."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, float]] = {}

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        """Add a sum over so many tokens."""
        before, tokens = self._found.get(name, (0.0, 0.0))
        self._found[name] = (before + float(total.detach()), tokens + float(count))

    def mean(self, name: str) -> float | None:
        """The mean a token; None where there was none."""
        total, tokens = self._found.get(name, (0.0, 0.0))
        return total / tokens if tokens else None


class DistillationTrainer(RecipeTrainer):
    """The recipe's trainer with the distillation loss; logs ``kl`` (or ``distance``) and ``cross_entropy`` a
    token, and of batches that tell which rows are text alone the loss of those and of the others.

    Positions of rows of which nothing is known are learned by cross-entropy alone. With a table the teacher's
    distributions come with the batch, else the teacher reads in every step.
    """

    def __init__(self, settings: Distil, **others: Any) -> None:
        super().__init__(**others)
        self._distil = settings
        self._twin: AudioLMForConditionalGeneration | None = None
        llm = [n for n, p in self.model.named_parameters() if p.requires_grad and "language_model" in n]
        if settings.cache is None and any("lora_" not in name for name in llm):
            self._twin = frozen_copy(self.model)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss a token; the teacher reads now unless the batch brings what it said."""
        batch = {name: value for name, value in inputs.items() if not name.startswith(TEACHER)}
        told = {
            name.removeprefix(TEACHER): value for name, value in inputs.items() if name.startswith(TEACHER)
        }
        known, text = told.pop("rows"), batch.pop(ROWS, None)
        if "input_ids" in told:
            told = self._read(told)
        sums = Sums()

        def answer_loss(hidden: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
            aware = torch.isin(rows, known)
            if text is None:
                loss = self._loss(hidden, targets, aware, told, sums)
            else:
                loss = hidden.new_zeros((), dtype=torch.float32)
                for name, own in (("loss_audio", ~text[rows]), ("loss_text", text[rows])):
                    its = {key: value[own[aware]] for key, value in told.items()}
                    part = self._loss(hidden[own], targets[own], aware[own], its, sums)
                    sums.add(name, part, own.sum())
                    loss = loss + part
            return loss / (num_items_in_batch if num_items_in_batch is not None else len(targets))

        batch["answer_loss"] = answer_loss
        found = super().compute_loss(model, batch, return_outputs, num_items_in_batch=num_items_in_batch)
        apart = (*REPLAYED, DISTANCE[self._distil.on], "cross_entropy")
        for name in apart if text is not None else apart[len(REPLAYED) :]:
            self.note(name, sums.mean(name))
        return found

    @torch.no_grad()
    def _read(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the teacher says of its rows: states (P, D), or ids and log_probs (P, k)."""
        with reference_model(self.model, self._twin) as teacher:
            return teach(teacher, rows, self._distil)

    def _loss(
        self,
        hidden: Tensor,
        targets: Tensor,
        known: Tensor,
        told: Mapping[str, Tensor],
        sums: Sums,
    ) -> Tensor:
        """The summed loss of all positions. hidden: (P, D), targets, known: (P,); told: of the known ones."""
        settings, plain = self._distil, self.model
        vocabulary = plain.config.text_config.vocab_size

        def entropy(states: Tensor, wanted: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(plain.logits(states), wanted, reduction="sum")

        hard = hidden.new_zeros((), dtype=torch.float32)
        if settings.weight < 1 or not bool(known.all()):
            share = torch.where(known, 1 - settings.weight, 1.0)
            for weight, chosen in ((1 - settings.weight, known), (1.0, ~known)):
                if weight and bool(chosen.any()):
                    hard = hard + weight * summed_in_parts(
                        entropy, vocabulary, hidden[chosen], targets[chosen]
                    )
            sums.add("cross_entropy", hard, share.sum())
        if not bool(known.any()):
            return hard
        if settings.on == "hidden":
            distance = (hidden[known].float() - told["states"].float()).pow(2).mean(1).sum()
            sums.add("distance", distance, known.sum())
            return settings.weight * distance + hard

        def divergence(states: Tensor, ids: Tensor, log_probs: Tensor) -> Tensor:
            return kl_over_top(ids, log_probs, plain.logits(states), settings.temperature).sum()

        soft = summed_in_parts(
            divergence, vocabulary, hidden[known], told["ids"].long(), told["log_probs"].float()
        )
        sums.add("kl", soft, known.sum())
        return settings.weight * settings.temperature**2 * soft + hard


@torch.no_grad()
def teach(
    teacher: AudioLMForConditionalGeneration,
    rows: Mapping[str, Tensor],
    settings: Distil,
) -> dict[str, Tensor]:
    """What the teacher says of the P answer tokens: "states" (P, D), or "ids" and "log_probs" (P, k)."""
    training = teacher.training
    teacher.eval()
    hidden, _ = answer_states(teacher, rows)
    teacher.train(training)
    if settings.on == "hidden":
        return {"states": hidden}
    pieces = [
        top_log_probs(teacher.logits(part), settings.top_k, settings.temperature)
        for part in hidden.split(256)
    ]
    return {
        "ids": torch.cat([ids for ids, _ in pieces]),
        "log_probs": torch.cat([log_probs for _, log_probs in pieces]),
    }


def distil_collator(
    processor: AudioLMProcessor,
    read: Read,
    table: TeacherTable | None,
    augment: Callable[..., Audios] | None = None,
    *,
    packing: bool = False,
    replay: bool = False,
) -> Collator:
    """Batches with labels, and beside them the teacher's rows, or what the table holds of them.

    With ``replay`` they tell which rows are text alone.
    """

    def render(samples: Sequence[Sample], audios: Sequence[Audios]) -> BatchFeature:
        batch = processor.batch(samples, labels=True, audios=audios)
        if replay:
            batch[ROWS] = torch.tensor([not clips for clips in audios])
        rows = teacher_rows(processor, samples, batch)
        told: dict[str, Tensor] = {"rows": rows.pop("rows", torch.zeros(0, dtype=torch.int64))}
        if table is None:
            told |= rows
        elif rows:
            told |= table.of(rows)
        return BatchFeature({**batch, **{TEACHER + name: value for name, value in told.items()}})

    return Collator(processor, read, render, augment=augment, packing=packing)


def known_rows(
    processor: AudioLMProcessor, sources: Iterable[Sequence[Sample]]
) -> Iterable[tuple[list[int], list[int]]]:
    """Token ids and labels of what the teacher reads of every sample; rows that are no samples are left out,
    for the collator to name them."""
    for source in sources:
        for number in range(len(source)):
            try:
                if (told := read_instead(source[number])) is None:
                    continue
                row = processor.batch([told], labels=True, audios=[()])
            except (ValueError, OSError):
                continue
            yield row["input_ids"][0].tolist(), row["labels"][0].tolist()
