"""The warm start's targets: which words each audio token is trained towards, and the losses that do it."""

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
MARKS = ("no", "start")  # absent, begins
LONGEST_S = 30  # of a clip that queries learn from
SHARPNESS = 8.0  # of the logits along the lines between these words
LONGEST_TOKENS = 96  # of one clip: a long, even ambience must not drown the short sounds


class Groups(Dataset[dict[str, Tensor]]):
    """One item an audio token: its group of encoder frames (k, W), and the number of its event's name."""

    def __init__(self, frames: Tensor, names: Tensor) -> None:
        self.frames, self.names = frames, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"frames": self.frames[index], "names": self.names[index]}


class Clips(Dataset[dict[str, Any]]):
    """One item a clip: frames (T, W) of its first 30 s, its windows' names, its instruction.

    names: (N,) int64, -1 for a window that nothing is known of; asked: whether the instruction is about one
    sound, and marks: (Q, 2) how much of each query's time that sound fills, and whether it begins there.
    """

    def __init__(
        self,
        model: AudioLMForConditionalGeneration,
        samples: Sequence[Sample],
        frames_of: Callable[[Sample], Tensor],
        numbers: dict[str, int],
    ) -> None:
        self.config = model.config
        self.samples = [s for s in samples if s.events and len(s.audios) == 1]
        self.frames_of, self.numbers = frames_of, numbers
        self.labels = {event["label"] for sample in self.samples for event in sample.events}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample, size, queries = self.samples[index], self.config.segment_frames, self.config.num_queries
        asked = sample.origin.get("asked")
        clip = self.frames_of(sample)[: max(1, round(LONGEST_S / self.config.segment_s)) * size]
        count = -(-len(clip) // size) * queries
        query_s = size / queries / self.config.audio_config.frames_per_second
        names = owners(sample, count // QUERIES_A_WINDOW, query_s * QUERIES_A_WINDOW, self.numbers)
        names[-(-len(clip) * queries // (size * QUERIES_A_WINDOW)) :] = self.numbers[SILENCE]
        return {
            "frames": clip,
            "names": names,
            "marks": marks(sample, asked, count, query_s),
            "asked": asked in self.labels,
            "instruction": instructions(sample, self.config.instruction)[0],
        }

    def collate(self, processor: AudioLMProcessor, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch in which each clip has its neighbour's instruction, unless that asks about a sound."""
        texts = [item["instruction"] for item in items]
        free = [i for i, item in enumerate(items) if not item["asked"]]
        for i, text in zip(free, [texts[i] for i in [*free[1:], *free[:1]]], strict=True):
            texts[i] = text
        together = partial(nn.utils.rnn.pad_sequence, batch_first=True)
        return {
            "frames": together([item["frames"] for item in items]),
            "lengths": torch.tensor([len(item["frames"]) for item in items]),
            "names": together([item["names"] for item in items], padding_value=-1),
            "marks": together([item["marks"] for item in items]),
            "asked": torch.tensor([item["asked"] for item in items]),
            **tokenised(texts, processor.instructions, self.config.instruction_tokens),
        }


class Pull(nn.Module):
    """The connector with the loss that pulls its tokens to names. ``table``: (names, tokens a group, D)."""

    table: Tensor
    centre: Tensor

    def __init__(self, connector: nn.Module, table: Tensor, centre: Tensor) -> None:
        super().__init__()
        self.connector = connector
        self.register_buffer("table", table)
        self.register_buffer("centre", centre)

    def pulled(self, tokens: Tensor, names: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """tokens: (G, tokens a group, D), names and weights: (G,) -> loss, and cosines (G, names)."""
        away, words = tokens - self.centre, self.table - self.centre
        cosines = torch.einsum(
            "gtd,ntd->gn", nn.functional.normalize(away, dim=2), nn.functional.normalize(words, dim=2)
        ) / len(words[0])
        contrast = nn.functional.cross_entropy(
            cosines / TEMPERATURE, names, label_smoothing=LABEL_SMOOTHING, reduction="none"
        )
        distance = ((tokens - self.table[names]) ** 2).sum(2).mean(1) / (words**2).sum(2).mean()
        return {"loss": ((contrast + distance) * weights).sum() / weights.sum(), "cosines": cosines}


class NamePull(Pull):
    """For connectors that make tokens of each group of frames."""

    def forward(self, frames: Tensor, names: Tensor) -> dict[str, Tensor]:
        """frames: (G, k, W), names: (G,) int64 -> loss."""
        lengths = torch.full((len(frames),), frames.shape[1], device=frames.device)
        tokens = self.connector(frames, lengths)[0]  # (G, tokens a group, D)
        return self.pulled(tokens, names, torch.ones_like(names))


class QueryPull(Pull):
    """For queries that see a whole segment; each name of a clip counts once, however long it is.

    ``marks``: (2, D), the LLM's embeddings of ``MARKS``; ``seconds``: (S, D), those of 0, 1, 2, ...
    """

    marks: Tensor
    seconds: Tensor

    def __init__(
        self, connector: nn.Module, table: Tensor, centre: Tensor, marks: Tensor, seconds: Tensor
    ) -> None:
        super().__init__(connector, table, centre)
        self.register_buffer("marks", marks)
        self.register_buffer("seconds", seconds)

    def forward(
        self,
        frames: Tensor,
        lengths: Tensor,
        names: Tensor,
        marks: Tensor,
        asked: Tensor,
        instruction_ids: Tensor,
        instruction_mask: Tensor,
    ) -> dict[str, Tensor]:
        """frames: (B, T, W), lengths: (B,), names: (B, N), marks: (B, Q, 2), asked: (B,), texts (B, I)."""
        tokens = self.connector(frames, lengths, instruction_ids, instruction_mask)[0][:, 1:]  # (B, Q, D)
        config: Any = self.connector.config
        found = {"loss": tokens.new_zeros(())}
        if not asked.all():
            names = names[~asked]
            alike = (names[:, :, None] == names[:, None]).sum(2)  # windows of the same name in the clip
            known = names >= 0
            windows = tokens[~asked].unflatten(1, (-1, QUERIES_A_WINDOW))  # (b, N, queries a window, D)
            found = self.pulled(windows[known], names[known], 1.0 / alike[known])
        if asked.any():
            place = torch.arange(tokens.shape[1], device=tokens.device)  # of each query in its clip
            inside = place < (lengths * config.num_queries / config.segment_frames)[asked, None]  # (b, Q)
            second = ((place + 0.5) * config.segment_s / config.num_queries).long()
            second = second.clamp(max=len(self.seconds) - 1).expand(len(inside), -1)[inside]
            found["loss"] = found["loss"] + self.marked(tokens[asked][inside], marks[asked][inside], second)
        return found

    def marked(self, tokens: Tensor, marks: Tensor, second: Tensor) -> Tensor:
        """Queries' tokens (G, D), their marks (G, 2) and the seconds they are in (G,) -> loss."""
        no, start = self.marks
        filled, begins = marks.unbind(1)
        there, beginning = self.seconds[second] - no, start - self.centre  # (G, D), (D,)
        scale = ((self.table - self.centre) ** 2).sum(2).mean()
        goal = no + filled[:, None] * there + begins[:, None] * beginning
        distance = ((tokens - goal) ** 2).sum(1) / scale
        logits = torch.stack([_reached(tokens - no, there), _reached(tokens - no, beginning)], 1)
        both = binary_cross_entropy_with_logits((logits - 0.5) * SHARPNESS, marks, reduction="none").sum(1)
        loss = (distance + both).mean()
        if (full := filled > 0.5).any():
            away = ((tokens[full][:, None] - self.seconds) ** 2).sum(2) / scale  # (g, S)
            loss = loss + nn.functional.cross_entropy(-away * SHARPNESS, second[full]) / 2
        return loss


def _reached(vectors: Tensor, line: Tensor) -> Tensor:
    """How far vectors (G, D) reach along lines (D,) or (G, D): 1 where they end as these do."""
    return (vectors * line).sum(1) / (line * line).sum(-1)


def event_groups(
    model: AudioLMForConditionalGeneration,
    samples: Sequence[Sample],
    frames_of: Callable[[Sample], Tensor],
    numbers: dict[str, int],
) -> Groups:
    """The audio tokens that fall into an event; where two overlap the shorter event counts."""
    size, stride, _ = model.config.token_groups
    token_s = stride / model.config.audio_config.frames_per_second
    frames, names = [], []
    for sample in samples:
        if not sample.events or len(sample.audios) != 1:
            continue
        clip = frames_of(sample)[: LONGEST_TOKENS * stride]  # (T, W)
        count = 1 + max(0, -(-(len(clip) - size) // stride))
        owner = owners(sample, count, token_s, numbers)
        padded = nn.functional.pad(clip, (0, 0, 0, (count - 1) * stride + size - len(clip)))
        inside = owner >= 0
        frames.append(padded.unfold(0, size, stride).transpose(1, 2)[inside])
        names.append(owner[inside])
    return Groups(torch.cat(frames), torch.cat(names))


def owners(sample: Sample, count: int, token_s: float, numbers: dict[str, int]) -> Tensor:
    """(count,) int64: the number of the event in each stretch of ``token_s``, -1 where there is none."""
    owner = torch.full((count,), -1)
    for event in sorted(sample.events, key=lambda e: e["onset_s"] - e["offset_s"]):
        first = int(event["onset_s"] / token_s)
        owner[first : max(first + 1, round(event["offset_s"] / token_s + 0.5))] = numbers[event["caption"]]
    return owner


def marks(sample: Sample, asked: str | None, count: int, share_s: float) -> Tensor:
    """(count, 2) float32: how much of each of ``count`` stretches of ``share_s`` the sound fills, 0 to 1,
    and 1 where it begins."""
    made, edges = torch.zeros(count, 2), torch.arange(count + 1) * share_s
    for event in sample.events:
        if event["label"] == asked:
            heard_s = edges[1:].clamp(max=event["offset_s"]) - edges[:-1].clamp(min=event["onset_s"])
            made[:, 0] += heard_s.clamp(min=0) / share_s
            if (first := int(event["onset_s"] / share_s)) < count:
                made[first, 1] = 1
    return made.clamp(max=1)


def spelt(processor: AudioLMProcessor, text: str, weights: Tensor) -> Tensor:
    """The mean of the LLM's embeddings of a text's tokens, as they stand without a space before: (D,)."""
    return weights[processor.tokenizer(text, add_special_tokens=False)["input_ids"]].mean(0)


def name_words(processor: AudioLMProcessor, caption: str, count: int, weights: Tensor) -> Tensor:
    """What the ``count`` tokens of a group should be for this caption: (count, D), from weights (V, D).

    One token takes the mean of all content words; of several, each takes one of the last words and the first
    token the mean of all words before them. A caption of fewer words repeats its first.
    """
    words = [w for w in caption.replace(",", " ").split() if w.lower() not in STOP_WORDS] or caption.split()
    ids = [processor.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    last = ids[1:][-(count - 1) :] if count > 1 else []
    first = [i for word in ids[: len(ids) - len(last)] for i in word]
    means = [weights[first].mean(0)] * (count - len(last)) + [weights[word].mean(0) for word in last]
    return torch.stack(means)
