"""Two encoders as one: their frames are aligned in time and concatenated (SALMONN, section 3.1).

    waveform --first (Whisper)--> 50 frames a second x W1 --------------------+
        |                                                                     +--> frames (T, W1 + W2)
        +-----second (BEATs, EAT, aiSFX)--> at the times of the first's ------+

The first encoder is the clock: a clip has as many frames as the first gives. Where the second has none
(BEATs drops a last, partial patch), its channels are zero, which is how a connector that normalises the
two parts tells the padding: see ``present``.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from lalm.encoders.beats import BEATsConfig
from lalm.encoders.contract import Encoder
from lalm.encoders.eat import EATConfig
from lalm.encoders.whisper import WhisperEncoderConfig

ROUNDING = 1e-6  # of a frame: rates are quotients


class PairConfig(PreTrainedConfig):
    """The configurations of the two encoders."""

    model_type = "lalm_pair"
    sub_configs = {"first": AutoConfig, "second": AutoConfig}  # noqa: RUF012
    has_no_defaults_at_init = True

    def __init__(
        self,
        first: PreTrainedConfig | dict[str, Any] | None = None,
        second: PreTrainedConfig | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.first: Any = AutoConfig.for_model(**first) if isinstance(first, dict) else first
        self.second: Any = AutoConfig.for_model(**second) if isinstance(second, dict) else second
        self.first = self.first or WhisperEncoderConfig()
        self.second = self.second or BEATsConfig()
        for part in (self.first, self.second):
            if isinstance(part, PairConfig):
                raise ValueError("a pair of encoders cannot be part of another pair")
            if isinstance(part, EATConfig) and part.keep_cls:
                raise ValueError("EAT's CLS frame has no time: in a pair give EAT the option keep_cls: false")
        super().__init__(**kwargs)

    @property
    def widths(self) -> list[int]:
        """Widths of the two parts of a frame."""
        return [self.first.width, self.second.width]

    @property
    def width(self) -> int:
        """Width of a frame."""
        return sum(self.widths)

    @property
    def frames_per_second(self) -> float:
        """The first encoder's."""
        return float(self.first.frames_per_second)

    def num_frames(self, num_samples: int) -> int:
        """Frames of one clip: the first encoder's."""
        return int(self.first.num_frames(num_samples))


class PairEncoder(Encoder):
    """Both encoders on the same waveform."""

    def __init__(self, config: PairConfig, first: nn.Module, second: nn.Module) -> None:
        super().__init__(config)
        self.first = first
        self.second = second

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """audio: (A, N) float32 16 kHz; audio_lengths: (A,) -> frames (A, T, W1 + W2), frame_lengths (A,)."""
        frames, lengths = self.first(audio, audio_lengths)  # (A, T, W1)
        beside, counts = self.second(audio, audio_lengths)  # (A, T2, W2)
        ratio = self.config.second.frames_per_second / self.config.first.frames_per_second
        beside = at_times_of(beside, counts, frames.shape[1], ratio)  # (A, T, W2)
        return torch.cat([frames, beside.to(frames.dtype)], dim=2), lengths


def at_times_of(frames: Tensor, lengths: Tensor, count: int, ratio: float) -> Tensor:
    """frames: (A, T2, W), lengths: (A,) -> (A, count, W): the frame at the start of each moment.

    ``ratio`` is frames a moment. Equal rates pair frame i with moment i, a slower encoder's frame stands at
    every moment that it covers, of a faster one as many frames are averaged as fit a moment. Zero where
    there is no frame.
    """
    group = max(1, int(ratio + ROUNDING))
    if group > 1:
        frames = nn.functional.pad(frames, (0, 0, 0, -frames.shape[1] % group))
        inside = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]  # (A, T2)
        sums = (frames * inside[..., None]).float().unflatten(1, (-1, group)).sum(2)
        held = inside.unflatten(1, (-1, group)).sum(2).clamp(min=1)
        frames, lengths = (sums / held[..., None]).to(frames.dtype), -(-lengths // group)
    if not frames.shape[1]:
        return frames.new_zeros(len(frames), count, frames.shape[2])
    moments = torch.arange(count, dtype=torch.float64, device=frames.device)
    index = (moments * (ratio / group) + ROUNDING).long()  # (count,)
    there = index < lengths[:, None]  # (A, count)
    return frames[:, index.clamp(max=frames.shape[1] - 1)].masked_fill(~there[..., None], 0.0)


def widths(config: PreTrainedConfig) -> list[int]:
    """Widths of the parts a frame is made of: two for a pair, one for any other encoder."""
    if isinstance(config, PairConfig):
        return config.widths
    encoder: Any = config
    return [encoder.width]


def present(part: Tensor) -> Tensor:
    """part: (..., W) one encoder's channels of frames -> (...,) False where it is padding (all zero)."""
    return (part != 0).any(-1)
