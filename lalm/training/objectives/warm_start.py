"""The warm start: trains a connector towards embeddings of event names, without running the LLM (ours).

Manifests with ``events`` tell what sounds when. Each audio token is moved to the LLM's input embeddings
of the words that name the event at its time: by contrast with all other names, and by distance, so that
direction and scale are both those of words. Two tokens a group share the words: the last one (mostly the
verb) goes to the second token, the mean of the others to the first, because an LLM reads a single word
better than a mean of words. An epoch takes seconds on a CPU.

A connector of queries that see a whole clip and hear instructions (APT) has no tokens of a time of their own:
there the time of a segment is divided evenly, two queries a window. Windows after the clip's end are
moved to silence. Instructions are those of other clips, so that names come from hearing, not from reading.
Where a sample asks about one sound (``origin["asked"]`` names an event, as in manifests of detection,
counting and presence), its own instruction is read, and each query says of its share of the time how much
of it that sound fills, from the LLM's word "no" to the digits of its second, and whether it begins there,
by adding "start".
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lalm.data.sample import Sample
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.training.objectives.warm_start_targets import (
    ACTIVITY_WORDS,
    MAX_CLIP_S,
    QUERIES_A_WINDOW,
    SILENCE,
    EventClips,
    FrameGroups,
    GroupTokenLoss,
    QueryTokenLoss,
    WarmStartLoss,
    event_frame_groups,
    mean_embedding,
    name_targets,
)

BATCH_TOKENS = 1024
BATCH_CLIPS = 64


class Progress(TrainerCallback):
    """Reports steps done, all steps and the loss of the last tenth."""

    def __init__(self, report: Callable[[int, int, float], None]) -> None:
        self.report = report

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **others: Any,
    ) -> None:
        if logs and "loss" in logs:
            self.report(state.global_step, state.max_steps, logs["loss"])


def warm_start(
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    samples: Sequence[Sample],
    frames_of: Callable[[Sample], Tensor],
    *,
    epochs: float,
    learning_rate: float,
    folder: str,
    seed: int = 0,
    progress: Callable[[int, int, float], None] = lambda done, steps, loss: None,
) -> float:
    """Train the connector on the events of one-clip samples; returns the loss at its end.

    ``progress`` is told ten times: steps done, all steps, loss.

    Works for connectors that turn each group of frames into tokens of its own (``config.token_groups``) or
    have queries and hear instructions, and that can ``standardise`` frames. ``frames_of`` gives a sample's
    encoder frames (T, W). Raises ValueError when no sample has events.
    """
    captions = sorted({event["caption"] for sample in samples for event in sample.events})
    if not captions:
        raise ValueError("warm_start: no training sample has events to learn names from")
    embedding: Any = model.get_input_embeddings()
    weights: Tensor = embedding.weight.detach().float()  # (V, D)
    connector: Any = model.model.connector.train()
    data: FrameGroups | EventClips
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]] = default_collate
    build_loss: Callable[..., WarmStartLoss] = GroupTokenLoss
    count, batch_size = QUERIES_A_WINDOW, BATCH_TOKENS
    if "aligner" in model.config.to_dict():  # APT's, whose queries are shared out
        if model.config.num_queries % QUERIES_A_WINDOW:
            raise ValueError(f"warm_start: {model.config.num_queries} queries cannot be shared out in twos")
        captions = sorted({*captions, SILENCE})
        data = EventClips(model, samples, frames_of, {name: i for i, name in enumerate(captions)})
        drawn = [data[i]["frames"] for i in range(0, len(data), max(1, len(data) // 300))]
        connector.standardise(*channel_scales(torch.cat(drawn)[:, None]))
        words = torch.cat([name_targets(processor, word, 1, weights) for word in ACTIVITY_WORDS])
        digits = torch.stack([mean_embedding(processor, str(n), weights) for n in range(MAX_CLIP_S)])
        build_loss, collate = (
            partial(QueryTokenLoss, activity=words, seconds=digits),
            partial(data.collate, processor),
        )
        batch_size = BATCH_CLIPS
    elif model.config.token_groups is None:
        raise ValueError(
            "warm_start: the audio tokens of this connector see more than a group of frames of their own, so "
            "'kind: steps' has no time to name them by: say 'kind: least_squares'"
        )
    else:
        data = event_frame_groups(model, samples, frames_of, {name: i for i, name in enumerate(captions)})
        connector.standardise(*channel_scales(data.frames))
        _, _, count = model.config.token_groups
    name_embeddings = torch.stack([name_targets(processor, name, count, weights) for name in captions])
    loss_model = build_loss(connector, name_embeddings, weights.mean(0))
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        weight_decay=0.01,
        max_grad_norm=1.0,
        seed=seed,
        use_cpu=not torch.accelerator.is_available(),
        save_strategy="no",
        logging_steps=0.1,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
    )
    trainer = Trainer(model=loss_model, args=arguments, train_dataset=data, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress(progress))
    mean = trainer.train().training_loss
    return float(next((log["loss"] for log in reversed(trainer.state.log_history) if "loss" in log), mean))


def channel_scales(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation of each channel of frames (G, k, W): two of (W,)."""
    sample = frames[:: max(1, len(frames) // 20_000)].flatten(0, 1).float()
    sample = sample[sample.abs().sum(1) > 0]  # not the padding of last groups
    return sample.mean(0), 1.0 / sample.std(0).clamp(min=1e-4)
