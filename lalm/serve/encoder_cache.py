"""A least-recently-used cache of encoder outputs, keyed by the audio: repeated clips are encoded once."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lalm.data.audio_inputs import CachedFrames, Clip


class EncoderCache:
    """Frames (T, W) of clips, at most ``limit`` bytes; the least recently used are evicted first."""

    def __init__(self, model: Any, limit: int) -> None:
        self.model = model
        self.limit = limit
        self.size = 0  # bytes
        self.hits = 0
        self.misses = 0
        self._frames: OrderedDict[bytes, Tensor] = OrderedDict()

    def frames(self, clips: Sequence[Clip]) -> list[CachedFrames]:
        """The frames of each clip; clips that are not cached are encoded one by one."""
        return [CachedFrames(self._lookup(clip)) for clip in clips]

    def _lookup(self, clip: Clip) -> Tensor:
        key = hashlib.sha256(clip.audio.tobytes()).digest()
        if (cached := self._frames.get(key)) is not None:
            self.hits += 1
            self._frames.move_to_end(key)
            return cached
        self.misses += 1
        device = self.model.device
        audio = torch.tensor(clip.audio, device=device)[None]  # (1, N)
        frames, lengths = self.model.model.encode(audio, torch.tensor([len(clip.audio)], device=device))
        found: Tensor = frames[0, : int(lengths[0])].clone()
        self._frames[key] = found
        self.size += found.nbytes
        while self.size > self.limit and len(self._frames) > 1:
            self.size -= self._frames.popitem(last=False)[1].nbytes
        return found
