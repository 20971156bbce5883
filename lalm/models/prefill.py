"""Reading prompts before the first token of an answer: rows of like length together, known text not again.

transformers' ``generate`` reads a batch as one padded rectangle. Here rows are read in groups of like
length and their keys and values put into one left-padded cache, so that a short row costs what it is long.
The cache has room for the answer: transformers' own is moved as a whole for every token.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

LIKE_LENGTH = 0.8  # rows read together are at least this fraction of the longest
WORTHWHILE = 0.8  # padded batches fuller than this are read as they are
PER_CLIP = (  # names in a batch whose rows are clips
    *("input_values", "audio_lengths", "frames", "frame_lengths"),
    *("instruction_ids", "instruction_mask"),
)
ROOM = 64  # positions that keys and values are moved for at a time


class RoomyLayer(DynamicLayer):
    """Keys and values of one LLM layer, (B, heads, L, D), with room after them that new ones are put in."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._rooms: list[Tensor] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add the states of new positions; the states of all, as views of the room."""
        length = self.get_seq_length()
        if not length:  # a prompt is kept as it comes
            return super().update(key_states, value_states, *args, **kwargs)
        total = length + key_states.shape[2]
        # Beams and selected rows are new tensors, a cropped one is a view of the same beginning.
        held = [self.keys, self.values]
        if (
            not self._rooms
            or total > self._rooms[0].shape[2]
            or any(
                a.data_ptr() != b.data_ptr() or len(a) != len(b)
                for a, b in zip(held, self._rooms, strict=True)
            )
        ):
            self._rooms = [self._moved(states, total + ROOM) for states in held]
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, length:total] = states
        self.keys, self.values = (room[:, :, :total] for room in self._rooms)
        return self.keys, self.values

    @staticmethod
    def _moved(states: Tensor, total: int) -> Tensor:
        room = states.new_empty(*states.shape[:2], total, states.shape[3])
        room[:, :, : states.shape[2]] = states
        return room


def roomy_cache() -> DynamicCache:
    """An empty cache whose layers have room."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = RoomyLayer
    return cache


def read_prompts(llm: nn.Module, embeds: Tensor, attention_mask: Tensor) -> DynamicCache | None:
    """What ``generate`` goes on from: the rows read in groups where that is worthwhile, else an empty cache
    with room; None for LLMs with a cache of their own kind."""
    config: Any = llm.config
    if not keeps_every_position(DynamicCache(config=config)):
        return None
    return read_in_groups(llm, embeds, attention_mask) or roomy_cache()


def read_in_groups(llm: nn.Module, embeds: Tensor, attention_mask: Tensor) -> DynamicCache | None:
    """A cache of all but the last position of a left-padded batch; None where one pass does as well.

    embeds: (B, L, D); attention_mask: (B, L). ``llm`` is the body of a transformers causal LM.
    """
    lengths = attention_mask.sum(1).tolist()
    left_padded = bool(attention_mask[:, -1].all())
    if not left_padded or sum(lengths) > WORTHWHILE * embeds.shape[0] * embeds.shape[1]:
        return None
    config: Any = llm.config
    if not keeps_every_position(DynamicCache(config=config)):
        return None
    total = embeds.shape[1] - 1
    joined: list[tuple[Tensor, Tensor]] = []
    for rows in groups(lengths):
        size = lengths[rows[0]]
        if size == 1:  # nothing before the last position
            continue
        mask = attention_mask[rows, -size:-1]
        outputs: Any = llm(
            inputs_embeds=embeds[rows, -size:-1],
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
        )
        for number, layer in enumerate(outputs.past_key_values.layers):
            if len(joined) <= number:
                shape = (len(lengths), layer.keys.shape[1], total)
                joined.append(
                    (
                        layer.keys.new_zeros(*shape, layer.keys.shape[3]),
                        layer.values.new_zeros(*shape, layer.values.shape[3]),
                    )
                )
            keys, values = joined[number]
            keys[rows, :, total - size + 1 :] = layer.keys
            values[rows, :, total - size + 1 :] = layer.values
    cache = roomy_cache()
    for number, (keys, values) in enumerate(joined):
        cache.update(keys, values, number)
    return cache


def keeps_every_position(cache: DynamicCache) -> bool:
    """False where a layer has a sliding window or a state: it cannot be cut or padded."""
    return all(type(layer) in (DynamicLayer, RoomyLayer) for layer in cache.layers)


def groups(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of the rows in groups of like length, longest first."""
    found: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if found and lengths[row] >= LIKE_LENGTH * lengths[found[-1][0]]:
            found[-1].append(row)
        else:
            found.append([row])
    return found


class Memory:
    """What the LLM has read of one conversation: its keys and values, and what they stand for.

    A conversation grows, so the beginning that its next prompt shares with the last one is not read, and its
    audio not encoded, again. Audio tokens are known by what their clip holds (``named``).
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.cache = roomy_cache()
        self.ids = torch.empty(0, dtype=torch.long)
        self.lora_scale: float | None = None

    def unread(
        self, batch: dict[str, Tensor], ids: Tensor, clip_tokens: Sequence[int], lora_scale: float | None
    ) -> dict[str, Any]:
        """The batch of one row without what was read before, and the cache of that.

        ``ids`` are those of the row as ``named`` gives them, ``clip_tokens`` the audio tokens of each clip.
        What was read with LoRA at another scale is worth nothing.
        """
        if lora_scale != self.lora_scale:
            self.forget()
            self.lora_scale = lora_scale
        shared = min(len(ids) - 1, len(self.ids), self.cache.get_seq_length())
        same = (ids[:shared] == self.ids[:shared]).long().cumprod(0).sum()
        known = int(same) if keeps_every_position(self.cache) else 0
        slots = int((ids[:known] < 0).sum())
        heard = 0
        while heard < len(clip_tokens) and slots >= clip_tokens[heard]:
            slots -= clip_tokens[heard]
            heard += 1
        if slots:  # the shared beginning ends inside a clip: read that clip again, whole
            first = (ids < 0).nonzero()[sum(clip_tokens[:heard]), 0]
            known = int(first)
        surplus = self.cache.get_seq_length() - known
        if known == 0:
            self.cache = roomy_cache()
        elif surplus:
            self.cache.crop(-surplus)
        self.ids = ids[:known]
        left = dict(batch)
        for name in PER_CLIP:
            if name in left:
                left[name] = left[name][heard:]
        return {**left, "past_key_values": self.cache}

    def keep(self, prompt: Tensor, answer: Tensor) -> None:
        """Note what the cache holds: the prompt, as named (L,), and the answer (new,) but its last token."""
        self.ids = torch.cat([prompt, answer.cpu()])[: self.cache.get_seq_length()]


def named(
    batch: dict[str, Tensor], audio_token_id: int, sounds: Sequence[np.ndarray], clip_tokens: Sequence[int]
) -> Tensor:
    """The ids of a batch's one row, (L,), each audio token being a negative number of its clip's own.

    A clip is told by its samples and, for systems that hear instructions, by its instruction.
    """
    ids: Tensor = batch["input_ids"][0].cpu().clone()
    names = []
    for number, (sound, count) in enumerate(zip(sounds, clip_tokens, strict=True)):
        digest = hashlib.sha256(sound.tobytes())
        if "instruction_ids" in batch:
            told = batch["instruction_ids"][number][batch["instruction_mask"][number].bool()]
            digest.update(told.cpu().numpy().tobytes())
        names += [-1 - int.from_bytes(digest.digest()[:7])] * count
    ids[ids == audio_token_id] = torch.tensor(names, dtype=torch.long)
    return ids
