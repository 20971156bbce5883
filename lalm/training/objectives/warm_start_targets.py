"""The warm start's data sets, target embeddings and losses."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset

from lalm.data.english import STOP_WORDS
from lalm.data.sample import Sample
from lalm.models.conditioning import instructions, tokenised
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor

TEMPERATURE = 0.07
LABEL_SMOOTHING = 0.05
QUERIES_A_WINDOW = 2
SILENCE = "silence"
ACTIVITY_WORDS = ("no", "start")  # absent, begins
MAX_CLIP_S = 30  # of a clip that queries learn from
LOGIT_SCALE = 8.0  # of the logits along the lines between these words
MAX_CLIP_TOKENS = 96  # of one clip: a long, even ambience must not drown the short sounds


class FrameGroups(Dataset[dict[str, Tensor]]):
    """A data set with an item per audio token: its encoder frames (k, W), and the id of its event's name."""

    def __init__(self, frames: Tensor, names: Tensor) -> None:
        self.frames, self.names = frames, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"frames": self.frames[index], "names": self.names[index]}


class EventClips(Dataset[dict[str, Any]]):
    """A data set with an item per clip: frames (T, W) of its first 30 s, its windows' names, its instruction.

    names: (N,) int64, -1 for a window without a known event; asked: whether the instruction is about one
    sound; activity: (Q, 2), the share of each query's time that the sound fills, and whether it begins there.
    """

    def __init__(
        self,
        model: AudioLMForConditionalGeneration,
        samples: Sequence[Sample],
        frames_of: Callable[[Sample], Tensor],
        name_ids: dict[str, int],
    ) -> None:
        self.config = model.config
        self.samples = [s for s in samples if s.events and len(s.audios) == 1]
        self.frames_of, self.name_ids = frames_of, name_ids
        self.labels = {event["label"] for sample in self.samples for event in sample.events}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample, size, queries = self.samples[index], self.config.segment_frames, self.config.num_queries
        asked = sample.origin.get("asked")
        clip = self.frames_of(sample)[: max(1, round(MAX_CLIP_S / self.config.segment_s)) * size]
        count = -(-len(clip) // size) * queries
        query_s = size / queries / self.config.audio_config.frames_per_second
        names = event_ids(sample, count // QUERIES_A_WINDOW, query_s * QUERIES_A_WINDOW, self.name_ids)
        names[-(-len(clip) * queries // (size * QUERIES_A_WINDOW)) :] = self.name_ids[SILENCE]
        return {
            "frames": clip,
            "names": names,
            "activity": activity(sample, asked, count, query_s),
            "asked": asked in self.labels,
            "instruction": instructions(sample, self.config.instruction)[0],
        }

    def collate(self, processor: AudioLMProcessor, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch. Instructions are swapped between clips, except those that ask about one sound."""
        texts = [item["instruction"] for item in items]
        free = [i for i, item in enumerate(items) if not item["asked"]]
        for i, text in zip(free, [texts[i] for i in [*free[1:], *free[:1]]], strict=True):
            texts[i] = text
        together = partial(nn.utils.rnn.pad_sequence, batch_first=True)
        return {
            "frames": together([item["frames"] for item in items]),
            "lengths": torch.tensor([len(item["frames"]) for item in items]),
            "names": together([item["names"] for item in items], padding_value=-1),
            "activity": together([item["activity"] for item in items]),
            "asked": torch.tensor([item["asked"] for item in items]),
            **tokenised(texts, processor.instructions, self.config.instruction_tokens),
        }


class WarmStartLoss(nn.Module):
    """The connector with a loss that moves its tokens to ``name_embeddings`` (names, tokens a group, D).

    ``centre`` (D,) is the mean of the LLM's embeddings.
    """

    name_embeddings: Tensor
    centre: Tensor

    def __init__(self, connector: nn.Module, name_embeddings: Tensor, centre: Tensor) -> None:
        super().__init__()
        self.connector = connector
        self.register_buffer("name_embeddings", name_embeddings)
        self.register_buffer("centre", centre)

    def name_loss(self, tokens: Tensor, names: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Contrastive loss and distance to the names' embeddings; the cosines are (G, names).

        tokens: (G, tokens a group, D); names and weights: (G,).
        """
        away, words = tokens - self.centre, self.name_embeddings - self.centre
        cosines = torch.einsum(
            "gtd,ntd->gn", nn.functional.normalize(away, dim=2), nn.functional.normalize(words, dim=2)
        ) / len(words[0])
        contrast = nn.functional.cross_entropy(
            cosines / TEMPERATURE, names, label_smoothing=LABEL_SMOOTHING, reduction="none"
        )
        distance = ((tokens - self.name_embeddings[names]) ** 2).sum(2).mean(1) / (words**2).sum(2).mean()
        return {"loss": ((contrast + distance) * weights).sum() / weights.sum(), "cosines": cosines}


class GroupTokenLoss(WarmStartLoss):
    """The loss of connectors that turn each group of frames into tokens of its own."""

    def forward(self, frames: Tensor, names: Tensor) -> dict[str, Tensor]:
        """frames: (G, k, W), names: (G,) int64 -> loss."""
        lengths = torch.full((len(frames),), frames.shape[1], device=frames.device)
        tokens = self.connector(frames, lengths)[0]  # (G, tokens a group, D)
        return self.name_loss(tokens, names, torch.ones_like(names))


class QueryTokenLoss(WarmStartLoss):
    """The loss of queries that see a whole segment; each name of a clip counts once, however long it is.

    ``activity``: (2, D), embeddings of ``ACTIVITY_WORDS``; ``seconds``: (S, D), those of 0, 1, ...
    """

    activity: Tensor
    seconds: Tensor

    def __init__(
        self, connector: nn.Module, name_embeddings: Tensor, centre: Tensor, activity: Tensor, seconds: Tensor
    ) -> None:
        super().__init__(connector, name_embeddings, centre)
        self.register_buffer("activity", activity)
        self.register_buffer("seconds", seconds)

    def forward(
        self,
        frames: Tensor,
        lengths: Tensor,
        names: Tensor,
        activity: Tensor,
        asked: Tensor,
        instruction_ids: Tensor,
        instruction_mask: Tensor,
    ) -> dict[str, Tensor]:
        """frames: (B, T, W), lengths: (B,), names: (B, N), activity: (B, Q, 2), asked: (B,), texts (B, I)."""
        tokens = self.connector(frames, lengths, instruction_ids, instruction_mask)[0][:, 1:]  # (B, Q, D)
        config: Any = self.connector.config
        found = {"loss": tokens.new_zeros(())}
        if not asked.all():
            names = names[~asked]
            alike = (names[:, :, None] == names[:, None]).sum(2)  # windows of the same name in the clip
            known = names >= 0
            windows = tokens[~asked].unflatten(1, (-1, QUERIES_A_WINDOW))  # (b, N, queries a window, D)
            found = self.name_loss(windows[known], names[known], 1.0 / alike[known])
        if asked.any():
            place = torch.arange(tokens.shape[1], device=tokens.device)  # of each query in its clip
            inside = place < (lengths * config.num_queries / config.segment_frames)[asked, None]  # (b, Q)
            second = ((place + 0.5) * config.segment_s / config.num_queries).long()
            second = second.clamp(max=len(self.seconds) - 1).expand(len(inside), -1)[inside]
            found["loss"] = found["loss"] + self.timing_loss(
                tokens[asked][inside], activity[asked][inside], second
            )
        return found

    def timing_loss(self, tokens: Tensor, activity: Tensor, second: Tensor) -> Tensor:
        """The loss of when a sound is heard. tokens: (G, D), activity: (G, 2), second: (G,)."""
        no, start = self.activity
        filled, begins = activity.unbind(1)
        there, beginning = self.seconds[second] - no, start - self.centre  # (G, D), (D,)
        scale = ((self.name_embeddings - self.centre) ** 2).sum(2).mean()
        goal = no + filled[:, None] * there + begins[:, None] * beginning
        distance = ((tokens - goal) ** 2).sum(1) / scale
        logits = torch.stack([_projection(tokens - no, there), _projection(tokens - no, beginning)], 1)
        both = binary_cross_entropy_with_logits((logits - 0.5) * LOGIT_SCALE, activity, reduction="none").sum(
            1
        )
        loss = (distance + both).mean()
        if (full := filled > 0.5).any():
            away = ((tokens[full][:, None] - self.seconds) ** 2).sum(2) / scale  # (g, S)
            loss = loss + nn.functional.cross_entropy(-away * LOGIT_SCALE, second[full]) / 2
        return loss


def _projection(vectors: Tensor, line: Tensor) -> Tensor:
    """Projections of vectors (G, D) onto lines (D,) or (G, D), as a share of the lines' length: (G,)."""
    return (vectors * line).sum(1) / (line * line).sum(-1)


def event_frame_groups(
    model: AudioLMForConditionalGeneration,
    samples: Sequence[Sample],
    frames_of: Callable[[Sample], Tensor],
    name_ids: dict[str, int],
) -> FrameGroups:
    """The audio tokens within an event; where two overlap the shorter event counts."""
    found = [
        clip_groups(model, sample, frames_of, name_ids)
        for sample in samples
        if sample.events and len(sample.audios) == 1
    ]
    return FrameGroups(torch.cat([frames for frames, _ in found]), torch.cat([names for _, names in found]))


def clip_groups(
    model: AudioLMForConditionalGeneration,
    sample: Sample,
    frames_of: Callable[[Sample], Tensor],
    name_ids: dict[str, int],
) -> tuple[Tensor, Tensor]:
    """The frames (G, k, W) of the audio tokens within an event of a one-clip sample, and its ids (G,)."""
    assert model.config.token_groups is not None
    size, stride, _ = model.config.token_groups
    token_s = stride / model.config.audio_config.frames_per_second
    clip = frames_of(sample)[: MAX_CLIP_TOKENS * stride]  # (T, W)
    count = 1 + max(0, -(-(len(clip) - size) // stride))
    event_id = event_ids(sample, count, token_s, name_ids)
    padded = nn.functional.pad(clip, (0, 0, 0, (count - 1) * stride + size - len(clip)))
    inside = event_id >= 0
    return padded.unfold(0, size, stride).transpose(1, 2)[inside], event_id[inside]


def event_ids(sample: Sample, count: int, token_s: float, name_ids: dict[str, int]) -> Tensor:
    """(count,) int64: the id of the event at each token of ``token_s``, -1 where there is none."""
    event_id = torch.full((count,), -1)
    for event in sorted(sample.events, key=lambda e: e["onset_s"] - e["offset_s"]):
        first = int(event["onset_s"] / token_s)
        event_id[first : max(first + 1, round(event["offset_s"] / token_s + 0.5))] = name_ids[
            event["caption"]
        ]
    return event_id


def activity(sample: Sample, asked: str | None, count: int, share_s: float) -> Tensor:
    """(count, 2) float32: the share of each of ``count`` spans of ``share_s`` that the sound fills, and 1
    where it begins."""
    made, edges = torch.zeros(count, 2), torch.arange(count + 1) * share_s
    for event in sample.events:
        if event["label"] == asked:
            heard_s = edges[1:].clamp(max=event["offset_s"]) - edges[:-1].clamp(min=event["onset_s"])
            made[:, 0] += heard_s.clamp(min=0) / share_s
            if (first := int(event["onset_s"] / share_s)) < count:
                made[first, 1] = 1
    return made.clamp(max=1)


def mean_embedding(processor: AudioLMProcessor, text: str, weights: Tensor) -> Tensor:
    """The mean of the LLM's embeddings (V, D) of a text's tokens, without a space before it: (D,)."""
    return weights[processor.tokenizer(text, add_special_tokens=False)["input_ids"]].mean(0)


def name_targets(processor: AudioLMProcessor, caption: str, count: int, weights: Tensor) -> Tensor:
    """Target embeddings of the ``count`` tokens of a group for this caption: (count, D), from weights (V, D).

    One token takes the mean of all content words; of several, each takes one of the last words and the first
    token the mean of all words before them. A caption of fewer words repeats its first.
    """
    words = [w for w in caption.replace(",", " ").split() if w.lower() not in STOP_WORDS] or caption.split()
    ids = [processor.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    last = ids[1:][-(count - 1) :] if count > 1 else []
    first = [i for word in ids[: len(ids) - len(last)] for i in word]
    means = [weights[first].mean(0)] * (count - len(last)) + [weights[word].mean(0) for word in last]
    return torch.stack(means)
