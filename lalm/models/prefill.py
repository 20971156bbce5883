"""Prefill: prompts of similar length are read together, and a prefix cache spares what was read before.

transformers' ``generate`` reads a batch as one padded rectangle. Here rows are read in groups of similar
length, and their keys and values are put into one left-padded cache, so that short rows cost little. The
cache has spare positions for the answer: transformers' own is copied as a whole for every token.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from lalm.models.llm_body import keeps_every_position, read

GROUP_RATIO = 0.8  # rows read together are at least this fraction of the longest
FULL_ENOUGH = 0.8  # padded batches with a larger share of real positions are read as they are
PER_CLIP = (  # names in a batch whose rows are clips
    *("input_values", "audio_lengths", "frames", "frame_lengths"),
    *("instruction_ids", "instruction_mask"),
)
SPARE_POSITIONS = 64  # positions allocated beyond the current ones


class PreallocatedLayer(DynamicLayer):
    """Keys and values of one LLM layer, (B, heads, L, D), in a buffer with spare positions for new ones."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[Tensor] = []
        self._held: tuple[Tensor, Tensor] | None = None  # what ``update`` gave last

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add the states of new positions; returns all states as views of the buffer."""
        if not self._held or self.keys is not self._held[0] or self.values is not self._held[1]:
            if not self.get_seq_length():  # a prompt is kept as it comes
                return super().update(key_states, value_states, *args, **kwargs)
            if not self._begin_alike():
                self._buffers = []
        length, added = self.keys.shape[2], key_states.shape[2]
        total = length + added
        if not self._buffers or total > self._buffers[0].shape[2]:
            held = (self.keys, self.values)
            self._buffers = [self._enlarge(states, total + SPARE_POSITIONS) for states in held]
        keys, values = self._buffers
        keys.narrow(2, length, added).copy_(key_states)
        values.narrow(2, length, added).copy_(value_states)
        self._held = self.keys, self.values = keys.narrow(2, 0, total), values.narrow(2, 0, total)
        return self._held

    def _begin_alike(self) -> bool:
        """Whether keys and values lie in the buffers: beams and selected rows are new tensors, a cropped one
        is a view of the same beginning."""
        pairs = zip((self.keys, self.values), self._buffers, strict=False)
        return all(a.data_ptr() == b.data_ptr() and len(a) == len(b) for a, b in pairs)

    @staticmethod
    def _enlarge(states: Tensor, total: int) -> Tensor:
        buffer = states.new_empty(*states.shape[:2], total, states.shape[3])
        buffer[:, :, : states.shape[2]] = states
        return buffer


def preallocated_cache() -> DynamicCache:
    """An empty cache whose layers preallocate positions."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = PreallocatedLayer
    return cache


def read_prompts(llm: nn.Module, embeds: Tensor, attention_mask: Tensor) -> DynamicCache | None:
    """The cache that ``generate`` continues from: rows read in groups if that saves work, else an empty
    preallocated cache. None means transformers' own cache (sliding windows)."""
    if not keeps_every_position(llm):
        return None
    return read_in_groups(llm, embeds, attention_mask) or preallocated_cache()


def read_in_groups(llm: nn.Module, embeds: Tensor, attention_mask: Tensor) -> DynamicCache | None:
    """A cache of all but the last position of a left-padded batch; None if groups would not save work.

    embeds: (B, L, D); attention_mask: (B, L). ``llm`` is the body of a transformers causal LM.
    """
    lengths = attention_mask.sum(1).tolist()
    left_padded = bool(attention_mask[:, -1].all())
    if not left_padded or sum(lengths) > FULL_ENOUGH * embeds.shape[0] * embeds.shape[1]:
        return None
    return _joined(llm, embeds, attention_mask, length_groups(lengths)) if keeps_every_position(llm) else None


def read_apart(llm: nn.Module, embeds: Tensor, attention_mask: Tensor) -> DynamicCache:
    """The same cache, each row read by itself: its keys and values do not depend on the others."""
    return _joined(llm, embeds, attention_mask, [[row] for row in range(len(embeds))])


def read_once(llm: nn.Module, embeds: Tensor, attention_mask: Tensor, times: int) -> DynamicCache | None:
    """All but the last position of a left-padded batch, read once, each row then ``times`` in a row:
    what answers drawn to the same prompts begin from, (B * times, heads, L - 1, D) a layer.

    None where the LLM keeps no keys and values that can be repeated, or a row would begin with nothing.
    """
    lengths = attention_mask.sum(1).tolist()
    if not keeps_every_position(llm) or not bool(attention_mask[:, -1].all()) or max(lengths) < 2:
        return None
    cache = _joined(llm, embeds, attention_mask, length_groups(lengths))
    if times > 1:
        cache.batch_repeat_interleave(times)
    return cache


def _joined(
    llm: nn.Module, embeds: Tensor, attention_mask: Tensor, groups: Sequence[Sequence[int]]
) -> DynamicCache:
    """A cache of all but the last position; the rows of a group, longest first, are read together."""
    lengths, total = attention_mask.sum(1).tolist(), embeds.shape[1] - 1
    joined: list[tuple[Tensor, Tensor]] = []
    for group in groups:
        rows, size = list(group), lengths[group[0]]
        if size == 1:  # nothing before the last position
            continue
        mask = attention_mask[rows, -size:-1]
        outputs: Any = read(
            llm,
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
    cache = preallocated_cache()
    for number, (keys, values) in enumerate(joined):
        cache.update(keys, values, number)
    return cache


def is_whole(cache: Cache) -> bool:
    """False if a layer has a sliding window or a recurrent state, which cannot be cut or padded."""
    return all(type(layer) in (DynamicLayer, PreallocatedLayer) for layer in cache.layers)


def length_groups(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the rows in groups of similar length, longest first."""
    found: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if found and lengths[row] >= GROUP_RATIO * lengths[found[-1][0]]:
            found[-1].append(row)
        else:
            found.append([row])
    return found


class PrefixCache:
    """The keys and values of one conversation so far, and the token ids that they belong to.

    The beginning that the next prompt shares with the last one is not read or encoded again. Audio tokens are
    identified by the content of their clip (``content_ids``).
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Empty the cache."""
        self.cache = preallocated_cache()
        self.ids = torch.empty(0, dtype=torch.long)
        self.lora_scale: float | None = None

    def reuse(
        self, batch: dict[str, Tensor], ids: Tensor, clip_tokens: Sequence[int], lora_scale: float | None
    ) -> dict[str, Any]:
        """A batch of one row without the clips read before, and with the cache of the known positions.

        ``ids`` are the row's ``content_ids``, ``clip_tokens`` the audio tokens of each clip. A cache computed
        at another LoRA scale is discarded.
        """
        if lora_scale != self.lora_scale:
            self.clear()
            self.lora_scale = lora_scale
        shared = min(len(ids) - 1, len(self.ids), self.cache.get_seq_length())
        same = (ids[:shared] == self.ids[:shared]).long().cumprod(0).sum()
        known = int(same) if is_whole(self.cache) else 0
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
            self.cache = preallocated_cache()
        elif surplus:
            self.cache.crop(-surplus)
        self.ids = ids[:known]
        left = dict(batch)
        for name in PER_CLIP:
            if name in left:
                left[name] = left[name][heard:]
        return {**left, "past_key_values": self.cache}

    def store(self, prompt: Tensor, answer: Tensor) -> None:
        """Record which ids the cache holds: the prompt's ``content_ids`` (L,) and the answer's (new,)."""
        self.ids = torch.cat([prompt, answer.cpu()])[: self.cache.get_seq_length()]


def content_ids(
    batch: dict[str, Tensor], audio_token_id: int, sounds: Sequence[np.ndarray], clip_tokens: Sequence[int]
) -> Tensor:
    """The ids of a batch's one row, (L,); audio tokens become a negative hash of their clip's content.

    The hash is of the samples and, for systems that hear instructions, of the instruction.
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
