"""Audio-MAE, APT's encoder (Masked Autoencoders that Listen, arXiv 2207.06405).

    waveform - mean -> fbank (T, 128) -> zeros up to whole windows of 1,024 frames -> (x + 4.27) / (2 * 4.57)
      -> 16 x 16 patches, time-major, 8 frequency bands inner -> + fixed positions, a CLS in front
      -> 12 pre-norm blocks (ViT-B), no norm after the last -> without CLS = 512 x 768 per window of 10.24 s

Front end, positions and the parts of a block are EAT's; the block's order and the windows differ. A longer
clip is several windows in time order, the last one filled up with zeros, as APT does it.
``lalm.encoders.audio_mae_import`` reads the released checkpoints.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lalm.audio.features import HOP, WINDOW, fbank_frames
from lalm.encoders.contract import TOKENS_AT_ONCE, Encoder, PatchConfig, chosen_layers, side_by_side
from lalm.encoders.eat import EATBlock, centred, padded_fbank, position_table


class AudioMAEConfig(PatchConfig):
    """Audio-MAE's shapes (ViT-B by default), its normalisation of AudioSet, and what is taken from it.

    ``tap``: the output of the "last" block, not normalised, which is what APT's code takes, or of the
    "penultimate" block, which is what its paper says; then the last block is not run.
    """

    model_type = "lalm_audio_mae"

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        mlp_ratio: float = 4.0,
        patch_size: int = 16,
        num_mel_bins: int = 128,
        window_frames: int = 1024,
        mean: float = -4.2677393,
        deviation: float = 4.5689974,
        layer_norm_eps: float = 1e-6,
        tap: Literal["last", "penultimate"] = "last",
        layers: list[int] | str | None = None,
        **kwargs: Any,
    ) -> None:
        if hidden_size % 4 or hidden_size % num_attention_heads:
            raise ValueError(f"hidden_size {hidden_size} must divide by 4 and by {num_attention_heads} heads")
        if window_frames < patch_size or window_frames % patch_size:
            raise ValueError(f"window_frames must be a multiple of {patch_size}, not {window_frames}")
        if tap not in ("last", "penultimate"):
            raise ValueError(f"tap must be 'last' or 'penultimate', not '{tap}'")
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.mlp_ratio = mlp_ratio
        self.patch_size = patch_size
        self.num_mel_bins = num_mel_bins
        self.window_frames = window_frames
        self.mean = mean
        self.deviation = deviation
        self.layer_norm_eps = layer_norm_eps
        self.tap = tap
        self.layers = chosen_layers(layers, num_hidden_layers)
        super().__init__(**kwargs)

    @property
    def given_layers(self) -> list[int]:
        """As asked; else the tapped one."""
        return self.layers or [self.num_hidden_layers - (self.tap == "penultimate")]

    @property
    def frames_per_window(self) -> int:
        """64 steps x 8 bands = 512."""
        return self.window_frames // self.patch_size * self.num_bands

    def num_windows(self, num_samples: int) -> int:
        """Windows of 10.24 s of one clip, the last one filled up: 1 for the shortest."""
        return max(1, -(-fbank_frames(num_samples) // self.window_frames))

    def num_frames(self, num_samples: int) -> int:
        """Frames of one clip: 512 up to 10.24 s."""
        return self.num_windows(num_samples) * self.frames_per_window


class AudioMAEBlock(EATBlock):
    """EAT's parts in pre-norm order: x = x + attention(norm1(x)); x = x + mlp(norm2(x))."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (A, T, D) -> (A, T, D)."""
        x = x + self.attend(self.norm1(x), mask)
        return x + self.feed(self.norm2(x))


class AudioMAEEncoder(Encoder):
    """Audio-MAE with random weights; ``lalm.encoders.load_encoder`` opens a folder that has them."""

    positions: Tensor

    def __init__(self, config: AudioMAEConfig) -> None:
        super().__init__(config)
        self.patch = nn.Conv2d(1, config.hidden_size, config.patch_size, stride=config.patch_size)
        self.cls = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        # Fixed, yet part of the weights: a checkpoint's own are kept. The CLS has zeros.
        steps = config.window_frames // config.patch_size
        table = torch.from_numpy(position_table(steps, config.num_bands, config.hidden_size))
        self.register_buffer("positions", torch.cat([table.new_zeros(1, config.hidden_size), table]))
        self.blocks = nn.ModuleList(AudioMAEBlock(config) for _ in range(config.num_hidden_layers))

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """audio: (A, N) float32 16 kHz; audio_lengths: (A,) -> frames (A, T, width), frame_lengths (A,)."""
        size, samples = self.config.frames_per_window, audio_lengths.tolist()
        if not samples:
            raise ValueError("Audio-MAE was given a batch without a clip")
        audio = centred(audio.float(), audio_lengths.to(audio.device))
        rows = [(clip, n) for clip, s in enumerate(samples) for n in range(self.config.num_windows(s))]
        windows = [self._window(audio[clip], fbank_frames(samples[clip]), n) for clip, n in rows]
        at_once = max(1, TOKENS_AT_ONCE // (1 + size))
        hidden = torch.cat(
            [self.encode(self.spectrogram(windows[i : i + at_once])) for i in range(0, len(windows), at_once)]
        )
        counts = [self.config.num_windows(s) for s in samples]
        frames = nn.utils.rnn.pad_sequence([part.flatten(0, 1) for part in hidden.split(counts)], True)
        return frames, torch.tensor(counts, device=audio.device) * size

    def _window(self, samples: Tensor, num_fbank_frames: int, number: int) -> Tensor:
        """The samples (n,) that the frames of one window are made of; none for a clip without a frame."""
        start = number * self.config.window_frames
        stop = min(start + self.config.window_frames, num_fbank_frames)
        return samples[start * HOP : (stop - 1) * HOP + WINDOW] if stop > start else samples[:0]

    def spectrogram(self, audio: list[Tensor]) -> Tensor:
        """The normalised fbank of windows (N,): (A, window_frames, M) float32; 0.467 where there is none."""
        mel = padded_fbank(audio, self.config.window_frames, self.config.num_mel_bins)
        return (mel - self.config.mean) / (2 * self.config.deviation)

    def encode(self, mel: Tensor) -> Tensor:
        """mel: (A, window_frames, M) normalised -> (A, 512, D) of the tapped block, the CLS left out."""
        patches = self.patch(mel[:, None].to(self.patch.weight.dtype))  # (A, D, 64, 8)
        x = patches.flatten(2).transpose(1, 2)  # (A, 512, D), time-major
        cls = self.cls.expand(len(x), -1, -1)
        x = torch.cat([cls, x], dim=1) + self.positions.to(x.dtype)  # (A, 513, D)
        return side_by_side(self.blocks, x, self.config.given_layers)[:, 1:]
