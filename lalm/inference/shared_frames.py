"""Encoder frames that several questions about one recording share, within a bounded memory.

The encoder is most of a short answer's cost, and an evaluation asks about each recording many times: in other
tasks, under controls, with the options in other places. Unlike ``lalm.data.frame_cache`` nothing is written.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

LIMIT_BYTES = 1 << 30  # of frames: some 300 clips of 30 s by a Whisper encoder of width 768 in float32


class SharedFrames:
    """An encoder that remembers: each clip is encoded once, as long as its frames are among those used last.

    Called as the encoder is, (A, N) float32 and (A,) -> frames (A, T, W), lengths (A,). The clips of a call
    that are not known are encoded together, as they would be without this; on a CPU lalm encodes clips one by
    one, so that nothing changes to the last bit.
    """

    def __init__(self, encode: Any, limit_bytes: int = LIMIT_BYTES) -> None:
        self.encoded = self.shared = 0  # clips
        self.num_bytes = 0
        self._encode, self._limit, self._lock = encode, limit_bytes, threading.Lock()
        self._frames: OrderedDict[bytes, Tensor] = OrderedDict()  # (T, W) each, in the computer's memory

    def __call__(self, audio: Tensor, audio_lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """audio: (A, N); audio_lengths: (A,) -> (A, T, W), (A,)."""
        if audio_lengths is None or torch.is_grad_enabled():
            frames, lengths = self._encode(audio, audio_lengths)
            return frames, lengths
        with self._lock:  # the next batch may be encoded in a thread while this one is answered
            return self._shared(audio, audio_lengths)

    def _shared(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        keys = [_key(clip[:length]) for clip, length in zip(audio, audio_lengths.tolist(), strict=True)]
        own = {key: self._known(key) for key in keys}
        new = {key: keys.index(key) for key in own if own[key] is None}
        if new:
            rows = torch.tensor(list(new.values()), device=audio.device)
            longest = int(audio_lengths[rows].max())
            frames, lengths = self._encode(audio[rows, :longest], audio_lengths[rows])
            for key, clip, length in zip(new, frames, lengths.tolist(), strict=True):
                own[key] = clip[:length]
                self._keep(key, clip[:length])
        self.encoded, self.shared = self.encoded + len(new), self.shared + len(keys) - len(new)
        found = [kept.to(audio.device) for key in keys if (kept := own[key]) is not None]
        counts = torch.tensor([len(clip) for clip in found], device=audio.device)
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True), counts

    def _known(self, key: bytes) -> Tensor | None:
        if key in self._frames:
            self._frames.move_to_end(key)
        return self._frames.get(key)

    def _keep(self, key: bytes, frames: Tensor) -> None:
        kept = frames.to("cpu", copy=True)
        self._frames[key] = kept
        self.num_bytes += kept.nbytes
        while self.num_bytes > self._limit:
            self.num_bytes -= self._frames.popitem(last=False)[1].nbytes


def _key(clip: Tensor) -> bytes:
    """A digest of one clip's samples, (N,), and of the number format that they are encoded in."""
    on = torch.is_autocast_enabled(clip.device.type)
    said = str(torch.get_autocast_dtype(clip.device.type) if on else "").encode()
    return hashlib.blake2b(clip.cpu().contiguous().numpy().tobytes() + said, digest_size=16).digest()


@contextmanager
def sharing(encoder: torch.nn.Module, limit_bytes: int = LIMIT_BYTES) -> Iterator[SharedFrames]:
    """Within it the encoder encodes each clip once; its weights must stay as they are."""
    before = encoder.__dict__.get("forward")
    shared = SharedFrames(encoder.forward, limit_bytes)
    encoder.__dict__["forward"] = shared
    try:
        yield shared
    finally:
        del encoder.__dict__["forward"]
        if before is not None:
            encoder.__dict__["forward"] = before
