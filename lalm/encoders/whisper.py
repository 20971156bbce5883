"""Whisper's encoder: 50 frames a second, any set of its layers, audio of any length.

A clip costs what it is long: it is not padded to Whisper's 30 s unless ``pad_to_window`` asks for the
original's behaviour, and a longer clip runs as several windows joined in time order. The same layers run
Qwen2-Audio's encoder (``qwen2_audio``), to the same numbers as its released weights without their padding.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as WhisperLayers

from lalm.audio.features import HOP, SAMPLE_RATE, log_mel
from lalm.encoders.contract import Encoder, chosen_layers

SAMPLES_PER_FRAME = 320  # 10 ms hop x 2 by the strided convolution: 20 ms
WINDOWS_AT_ONCE = 16  # bounds the memory of long clips
LIKE_LENGTH = 0.8  # windows encoded together are at least this fraction of the longest: little is padding


class WhisperEncoderConfig(WhisperConfig):
    """Whisper's own configuration and some choices of ours.

    ``layers``: hidden states to return side by side (0: before the first layer, n: after layer n; "all"); the
    last layer's alone when absent. Middle layers carry more about sounds than the last one; the connector's
    first linear map gives each layer, and each of its channels, a learned weight.
    ``pool``: mean of so many frames. ``pad_to_window``: pad short clips to 30 s. ``qwen2_audio``: the encoder
    of that paper. Its spectrogram and convolutions are those of a clip followed by silence, its attention
    sees the clip's own frames, pooling comes before the last norm, a last group that is not full is dropped.
    With ``pad_to_window`` too it also sees the silence and gives all its tokens, as llama.cpp runs it.
    ``mel_floor``: what quieter bins of the spectrogram count as; llama.cpp has 2^-24, Whisper 1e-10.
    """

    model_type = "lalm_whisper"

    def __init__(
        self,
        layers: list[int] | str | None = None,
        pool: int = 1,
        pad_to_window: bool = False,
        qwen2_audio: bool = False,
        mel_floor: float = 1e-10,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.layers = chosen_layers(layers, self.encoder_layers) or [self.encoder_layers]
        if pool < 1:
            raise ValueError(f"pool must be at least 1, not {pool}")
        self.pool = pool
        self.pad_to_window = pad_to_window
        self.qwen2_audio = qwen2_audio
        self.mel_floor = mel_floor
        if qwen2_audio and self.layers != [self.encoder_layers]:
            raise ValueError("qwen2_audio goes with the last layer alone")

    @property
    def width(self) -> int:
        """Width of a frame."""
        return len(self.layers) * int(self.d_model)

    @property
    def frames_per_second(self) -> float:
        """50 / pool."""
        return SAMPLE_RATE / SAMPLES_PER_FRAME / self.pool

    @property
    def window_samples(self) -> int:
        """Samples of Whisper's window: 1,500 positions x 20 ms = 30 s."""
        return int(self.max_source_positions) * SAMPLES_PER_FRAME

    def num_frames(self, num_samples: int) -> int:
        """Frames of one clip: a last, partial one counts (not so with ``qwen2_audio``)."""
        if self.pad_to_window:
            num_samples = -(-num_samples // self.window_samples) * self.window_samples
        if self.qwen2_audio:
            return -(-num_samples // SAMPLES_PER_FRAME) // self.pool
        return -(-num_samples // (SAMPLES_PER_FRAME * self.pool))


class WhisperEncoder(Encoder):
    """transformers' Whisper encoder layers behind a waveform."""

    def __init__(self, config: WhisperEncoderConfig) -> None:
        super().__init__(config)
        self.whisper = WhisperLayers(config)

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """audio: (A, N) float32 16 kHz; audio_lengths: (A,) -> frames (A, T, width), frame_lengths (A,)."""
        size = self.config.window_samples
        audio_lengths = audio_lengths.to(audio.device)
        num_windows = max(1, -(-audio.shape[1] // size))
        padded = nn.functional.pad(audio, (0, num_windows * size - audio.shape[1] if num_windows > 1 else 0))
        windows = padded.reshape(len(audio) * num_windows, -1)  # (A * windows, <= 30 s)
        starts = torch.arange(num_windows, device=audio.device) * size
        lengths = (audio_lengths[:, None] - starts).clamp(0, size).flatten()  # (A * windows,)
        if self.config.pad_to_window:
            windows = nn.functional.pad(windows, (0, size - windows.shape[1]))
        frames: Tensor | None = None
        for chunk in _alike(lengths.tolist()):
            part = self._encode(windows[chunk, : int(lengths[chunk].max())], lengths[chunk])  # (W, T, width)
            if frames is None:
                total = -(-windows.shape[1] // SAMPLES_PER_FRAME)
                frames = part.new_zeros(len(windows), total, part.shape[2])
            frames[chunk, : part.shape[1]] = part
        if frames is None:
            raise ValueError("a batch of clips without a single sample")
        frames = frames.reshape(len(audio), -1, frames.shape[2])  # (A, T, width)
        return self._pool(frames, audio_lengths)

    def _encode(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """One window each, (W, N) -> (W, T, width); what follows a clip is masked everywhere."""
        layers = self.whisper
        dtype = layers.conv1.weight.dtype
        size = self.config.window_samples
        spectrogram = partial(log_mel, num_mels=self.config.num_mel_bins, floor=self.config.mel_floor)
        if self.config.pad_to_window:
            lengths = torch.full_like(lengths, size)
            mel = spectrogram(audio, pad_to=size)
        elif self.config.qwen2_audio:
            # Two frames more than the clip has: its end reaches into them, and the convolutions see them.
            mel = spectrogram(audio, lengths, pad_to=size, first=-(-audio.shape[1] // HOP) + 2)
        else:
            mel = spectrogram(audio, lengths)
        num_frames = -(-lengths // SAMPLES_PER_FRAME)
        positions = torch.arange(mel.shape[2], device=mel.device)
        hidden = nn.functional.gelu(layers.conv1(mel.to(dtype)))  # (W, D, 2T)
        if not self.config.qwen2_audio:
            # The convolution has a bias: without this mask the padding would leak into a clip's last frames.
            hidden = hidden * (positions < 2 * num_frames[:, None])[:, None]
        hidden = nn.functional.gelu(layers.conv2(hidden)).transpose(1, 2)  # (W, T, D)
        hidden = hidden[:, : int(num_frames.max())]
        hidden = hidden + layers.embed_positions.weight[: hidden.shape[1]]
        inside = positions[: hidden.shape[1]] < num_frames[:, None]  # (W, T)
        mask: Tensor | None = None
        if not bool(inside.all()):
            mask = torch.zeros(len(hidden), 1, 1, hidden.shape[1], dtype=dtype, device=hidden.device)
            mask = mask.masked_fill(~inside[:, None, None], torch.finfo(dtype).min)
            mask = mask.expand(-1, -1, hidden.shape[1], -1)
        wanted = {0: hidden} if 0 in self.config.layers else {}
        for number, layer in enumerate(layers.layers[: max(self.config.layers)], 1):
            output = layer(hidden, mask)
            hidden = output[0] if isinstance(output, tuple) else output
            if number in self.config.layers:
                normed = number == len(layers.layers) and not self.config.qwen2_audio
                wanted[number] = layers.layer_norm(hidden) if normed else hidden
        return torch.cat([wanted[number] for number in self.config.layers], dim=2)

    def _pool(self, frames: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of ``pool`` frames, the last group over the frames it has."""
        pool = self.config.pool
        if self.config.pad_to_window:
            size = self.config.window_samples
            audio_lengths = -(-audio_lengths // size) * size
        lengths = -(-audio_lengths // SAMPLES_PER_FRAME)
        if self.config.qwen2_audio:
            full = frames[:, : frames.shape[1] // pool * pool]
            means = full.reshape(len(frames), -1, pool, frames.shape[2]).mean(2)  # (A, T / pool, D)
            return self.whisper.layer_norm(means), lengths // pool
        if pool == 1:
            return frames, lengths
        frames = nn.functional.pad(frames, (0, 0, 0, -frames.shape[1] % pool))
        inside = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]  # (A, T)
        grouped = (frames * inside[..., None]).reshape(len(frames), -1, pool, frames.shape[2])
        counts = inside.reshape(len(frames), -1, pool).sum(2).clamp(min=1)  # (A, T / pool)
        return (grouped.float().sum(2) / counts[..., None]).to(frames.dtype), -(-lengths // pool)


def _alike(lengths: list[int]) -> list[list[int]]:
    """Numbers of the windows that hold samples, in groups of like length, longest first."""
    groups: list[list[int]] = []
    for i in sorted((i for i, n in enumerate(lengths) if n > 0), key=lambda i: -lengths[i]):
        room = groups and len(groups[-1]) < WINDOWS_AT_ONCE
        if room and lengths[i] >= LIKE_LENGTH * lengths[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups
