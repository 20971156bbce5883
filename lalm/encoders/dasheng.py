"""Dasheng: a general audio encoder of Xiaomi's (arXiv 2406.06992), also MiDashengLM's ear (2508.03983).

    waveform --512-point power spectrum, 64 mel bins (HTK), dB--> (64, T), 10 ms --scale, shift of a bin-->
      --patches of all 64 bins x 4 frames--> one token each 40 ms + learned positions
      --> pre-norm blocks, each piece of 252 tokens (10.08 s) by itself --> norm = 25 frames a second

The spectrogram is that of the whole clip, whose loudest bin sets the floor 120 dB below; the pieces follow
one another without padding. Pieces of a batch are masked to their length, so a clip's frames are its own.
``lalm.encoders.dasheng_import`` reads what is published.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.audio_utils import mel_filter_bank

from lalm.audio.features import HOP, SAMPLE_RATE, Array
from lalm.encoders.audio_mae import AudioMAEBlock
from lalm.encoders.contract import TOKENS_AT_ONCE, Encoder, chosen_layers, passes, side_by_side

FFT = 512  # samples of the spectrum, and of its Hann window
RANGE_DB = 120.0  # between a clip's loudest bin and the floor of all its bins
QUIETEST = 1e-10  # power


class DashengConfig(PreTrainedConfig):
    """Dasheng-base's shapes by default. ``positions``: tokens that a piece has at most.

    ``layers``: as for the other encoders; the last one's states are normalised.
    """

    model_type = "lalm_dasheng"

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        mlp_ratio: float = 4.0,
        num_mel_bins: int = 64,
        patch_frames: int = 4,
        positions: int = 252,
        layer_norm_eps: float = 1e-6,
        layers: list[int] | str | None = None,
        **kwargs: Any,
    ) -> None:
        if hidden_size % num_attention_heads:
            raise ValueError(f"hidden_size {hidden_size} must divide by {num_attention_heads} heads")
        if patch_frames < 4 or positions < 1:
            raise ValueError(f"patch_frames {patch_frames} or positions {positions} is too small")
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.mlp_ratio = mlp_ratio
        self.num_mel_bins = num_mel_bins
        self.patch_frames = patch_frames
        self.positions = positions
        self.layer_norm_eps = layer_norm_eps
        self.layers = chosen_layers(layers, num_hidden_layers)
        super().__init__(**kwargs)

    @property
    def width(self) -> int:
        """Width of a frame."""
        return len(self.layers or [0]) * self.hidden_size

    @property
    def frames_per_second(self) -> float:
        """100 / 4 = 25."""
        return SAMPLE_RATE / HOP / self.patch_frames

    def num_frames(self, num_samples: int) -> int:
        """Frames of one clip: whole patches of a spectrogram whose frames stand on the samples 0, 160, ..."""
        return (1 + num_samples // HOP) // self.patch_frames if num_samples else 0


class DashengEncoder(Encoder):
    """Dasheng with random weights; ``lalm.encoders.load_encoder`` opens a folder that has them."""

    mel_scale: Tensor
    mel_shift: Tensor

    def __init__(self, config: DashengConfig) -> None:
        super().__init__(config)
        bins, width = config.num_mel_bins, config.hidden_size
        self.register_buffer("mel_scale", torch.ones(bins))  # of the batch norm that it was trained with
        self.register_buffer("mel_shift", torch.zeros(bins))
        self.patch = nn.Conv2d(1, width, (bins, config.patch_frames), stride=(bins, config.patch_frames))
        self.positions = nn.Parameter(torch.randn(config.positions, width) * 0.02)
        self.blocks = nn.ModuleList(AudioMAEBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """audio: (A, N) float32 16 kHz; audio_lengths: (A,) -> frames (A, T, width), frame_lengths (A,)."""
        config, lengths = self.config, audio_lengths.tolist()
        counts = [config.num_frames(length) for length in lengths]
        tokens = [
            self._patches(clip[:length]) if count else None
            for clip, length, count in zip(audio, lengths, counts, strict=True)
        ]
        weight = self.patch.weight
        frames = torch.zeros(len(audio), max(counts), self.width, dtype=weight.dtype, device=weight.device)
        rows = [
            (clip, start, min(count, start + config.positions))
            for clip, count in enumerate(counts)
            for start in range(0, count, config.positions)
        ]
        for chunk in passes(rows, TOKENS_AT_ONCE):
            pieces = [made[start:stop] for clip, start, stop in chunk if (made := tokens[clip]) is not None]
            sizes = torch.tensor([len(piece) for piece in pieces], device=weight.device)
            hidden = self._encode(nn.utils.rnn.pad_sequence(pieces, batch_first=True), sizes)
            for row, (clip, start, stop) in enumerate(chunk):
                frames[clip, start:stop] = hidden[row, : stop - start]
        return frames, torch.tensor(counts, device=audio.device)

    def _patches(self, clip: Tensor) -> Tensor:
        """clip: (N,) -> (T, D), without positions."""
        mel = decibels(clip.float(), self.config.num_mel_bins)  # (M, T_mel)
        mel = mel * self.mel_scale.float()[:, None] + self.mel_shift.float()[:, None]
        made: Tensor = self.patch(mel[None, None].to(self.patch.weight.dtype))[0, :, 0]  # (D, T)
        return made.T

    def _encode(self, x: Tensor, counts: Tensor) -> Tensor:
        """x: (W, T, D) patches of pieces; counts: (W,) of them inside -> (W, T, width)."""
        x = x + self.positions[: x.shape[1]]
        mask = None
        if int(counts.min()) < x.shape[1]:
            mask = (torch.arange(x.shape[1], device=x.device) < counts[:, None])[:, None, None]
        depth = self.config.num_hidden_layers
        wanted = self.config.layers or [depth]
        states = side_by_side(self.blocks, x, wanted, mask).chunk(len(wanted), dim=2)
        normed = [self.norm(s) if n == depth else s for n, s in zip(wanted, states, strict=True)]
        return torch.cat(normed, dim=2)


def decibels(clip: Tensor, num_mels: int) -> Tensor:
    """clip: (N,) float32, 257 samples or more -> (M, 1 + N // 160) dB of mel power, the ends mirrored."""
    with torch.autocast(clip.device.type, enabled=False):
        window = torch.hann_window(FFT, device=clip.device)
        spectrum = torch.stft(clip, FFT, HOP, window=window, center=True, return_complex=True)
        power = spectrum.real**2 + spectrum.imag**2  # (F, T)
        mel = torch.from_numpy(htk_filters(num_mels)).to(clip.device).T @ power
        level = 10 * mel.clamp(min=QUIETEST).log10()
        return torch.maximum(level, level.max() - RANGE_DB)


@cache
def htk_filters(num_mels: int) -> Array:
    """(F, M) float32 triangles of height 1 over 0 to 8 kHz, on HTK's mel scale."""
    return mel_filter_bank(
        num_frequency_bins=FFT // 2 + 1,
        num_mel_filters=num_mels,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm=None,
        mel_scale="htk",
    ).astype(np.float32)
