"""Spectral features in torch: Whisper's log-mel and Kaldi's fbank, batched, float32, on any device.

Both take a padded batch with its lengths and give each clip what it would get alone: padding never
changes a clip's features, and frames beyond a clip's end are zero. Letters used in shapes: A audios,
N samples at 16 kHz, T feature frames (10 ms apart), M mel bins, F frequency bins.
"""

import math
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.audio_utils import mel_filter_bank

SAMPLE_RATE = 16_000
HOP = SAMPLE_RATE // 100  # 10 ms = 160 samples
WINDOW = SAMPLE_RATE // 40  # 25 ms = 400 samples
FBANK_FFT = 512  # the power of two above WINDOW
FBANK_LOW_HZ = 20.0
PREEMPHASIS = 0.97

Array: TypeAlias = np.ndarray[Any, Any]


def log_mel(
    audio: Tensor,
    audio_lengths: Tensor | None = None,
    *,
    num_mels: int = 80,
    pad_to: int | None = None,
    first: int | None = None,
    floor: float = 1e-10,
) -> Tensor:
    """Whisper's log-mel spectrogram, (A, M, T) float32, about [-1, 1.5].

    ``audio``: (A, N) float32 16 kHz; ``audio_lengths``: (A,) int64 samples, N each when absent. What
    follows a clip counts as zeros. A clip of n samples has ``log_mel_frames(n)`` frames; its loudest bin
    within them sets the floor of all of them, and frames beyond are 0. T is the longest clip's.
    ``pad_to`` (samples: 480 000 for 30 s) instead gives every clip ``pad_to / 160`` frames, over clip
    and zeros alike, as ``WhisperFeatureExtractor`` does; a clip longer than that raises ValueError.
    ``first`` then computes only so many of those frames: the same numbers if they hold the whole clip and
    two frames more, since all that follows is silence. ``floor``: what quieter bins count as; the default is
    Whisper's own.
    """
    audio, lengths = _zeroed_padding(audio, audio_lengths)
    longest = int(lengths.max())
    if pad_to is None:
        num_frames = 2 * lengths.add(2 * HOP - 1).div(2 * HOP, rounding_mode="floor")
        frames = log_mel_frames(longest)
    elif longest > pad_to:
        raise ValueError(f"a clip has {longest} samples, more than the window of {pad_to}")
    else:
        frames = pad_to // HOP if first is None else min(first, pad_to // HOP)
        num_frames = torch.full_like(lengths, frames)
    if frames == 0:
        return audio.new_zeros(len(audio), num_mels, 0)
    # Frame t is centred on sample 160 t, with half a window at either side: at the start that is the clip
    # mirrored, at the end zeros, or the mirrored end of a fixed window.
    audio = pad(audio[:, :longest], (0, max(0, frames * HOP - longest)))  # (A, 160 T)
    audio = pad(audio, (WINDOW // 2, 0), mode="reflect")
    mirrored = pad_to is not None and frames == pad_to // HOP
    audio = pad(audio, (0, WINDOW // 2), mode="reflect" if mirrored else "constant")
    with torch.autocast(audio.device.type, enabled=False):
        window = torch.hann_window(WINDOW, dtype=torch.float32, device=audio.device)
        spectrum = torch.stft(audio, WINDOW, HOP, window=window, center=False, return_complex=True)
        spectrum = spectrum[..., :frames]
        power = spectrum.real**2 + spectrum.imag**2  # (A, F, T); abs() takes roots, twice as slow
        mel = _tensor(whisper_filters(num_mels), audio).T @ power  # (A, M, T)
    outside = torch.arange(frames, device=audio.device) >= num_frames[:, None, None]  # (A, 1, T)
    log = mel.clamp(min=floor).log10()
    loudest = log.masked_fill(outside, -math.inf).amax(dim=(1, 2), keepdim=True)  # (A, 1, 1)
    return ((torch.maximum(log, loudest - 8.0) + 4.0) / 4.0).masked_fill(outside, 0.0)


def log_mel_frames(num_samples: int) -> int:
    """Frames ``log_mel`` gives a clip of ``num_samples``: even, since Whisper's encoder halves them."""
    return 2 * -(-num_samples // (2 * HOP))


def fbank(
    audio: Tensor,
    audio_lengths: Tensor | None = None,
    *,
    num_mels: int = 128,
    window: Literal["hanning", "povey"] = "hanning",
) -> tuple[Tensor, Tensor]:
    """Kaldi's log filter bank (no dither, no energy, whole windows only): (A, T, M) float32, (A,) int64.

    ``audio``: (A, N) float32 16 kHz; ``audio_lengths``: (A,) int64 samples, N each when absent. Per
    window of 25 ms: mean removed, pre-emphasis 0.97, window function, 512-point power spectrum,
    triangles on the mel scale from 20 Hz to 8 kHz, natural logarithm. A clip of n samples has
    ``fbank_frames(n)`` frames; frames beyond are 0. Values assume audio in [-1, 1], not int16 range.
    """
    audio, lengths = _zeroed_padding(audio, audio_lengths)
    num_frames = lengths.sub(WINDOW - HOP).clamp(min=0).div(HOP, rounding_mode="floor")
    frames = fbank_frames(int(lengths.max()))
    if frames == 0:
        return audio.new_zeros(len(audio), 0, num_mels), num_frames
    pieces = audio.unfold(1, WINDOW, HOP)[:, :frames]  # (A, T, 400)
    pieces = pieces - pieces.mean(dim=2, keepdim=True)
    previous = torch.cat([pieces[..., :1], pieces[..., :-1]], dim=2)
    pieces = (pieces - PREEMPHASIS * previous) * _tensor(kaldi_window(window), audio)
    with torch.autocast(audio.device.type, enabled=False):
        power = torch.fft.rfft(pieces, n=FBANK_FFT).abs() ** 2  # (A, T, F)
        mel = power @ _tensor(kaldi_filters(num_mels), audio)  # (A, T, M)
    log = mel.clamp(min=torch.finfo(torch.float32).eps).log()
    outside = torch.arange(frames, device=audio.device) >= num_frames[:, None]  # (A, T)
    return log.masked_fill(outside[..., None], 0.0), num_frames


def fbank_frames(num_samples: int) -> int:
    """Frames ``fbank`` gives a clip of ``num_samples``: none below one window."""
    return max(0, num_samples - WINDOW + HOP) // HOP


@cache
def whisper_filters(num_mels: int) -> Array:
    """(F, M) float32 Slaney-scale triangles of equal area over 0 to 8 kHz, as Whisper was trained on."""
    return mel_filter_bank(
        num_frequency_bins=1 + WINDOW // 2,
        num_mel_filters=num_mels,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    ).astype(np.float32)


@cache
def kaldi_filters(num_mels: int) -> Array:
    """(F, M) float32 triangles over 20 Hz to 8 kHz, linear on the mel scale 1127 ln(1 + f / 700).

    With 128 bins the lowest triangles are narrower than a frequency bin and some stay empty, as in Kaldi.
    """
    mel = 1127 * np.log1p(np.arange(FBANK_FFT // 2 + 1) * SAMPLE_RATE / FBANK_FFT / 700)[:, None]  # (F, 1)
    low, high = 1127 * math.log1p(FBANK_LOW_HZ / 700), 1127 * math.log1p(SAMPLE_RATE / 2 / 700)
    corners = np.linspace(low, high, num_mels + 2)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]  # (M,) each
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return np.minimum(rising, falling).clip(min=0).astype(np.float32)


@cache
def kaldi_window(name: Literal["hanning", "povey"]) -> Array:
    """(400,) float32 symmetric Hann window, or Kaldi's own: the same to the power 0.85."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))
    return (hann if name == "hanning" else hann**0.85).astype(np.float32)


def _zeroed_padding(audio: Tensor, audio_lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """float32 audio with zeros after each clip, and (A,) lengths on its device (N each when None)."""
    audio = audio.float()
    if audio_lengths is None:
        return audio, torch.full((len(audio),), audio.shape[1], device=audio.device)
    lengths = audio_lengths.to(audio.device)
    if lengths.shape != audio.shape[:1] or int(lengths.max()) > audio.shape[1]:
        raise ValueError(
            f"audio of shape {tuple(audio.shape)} cannot hold clips of {lengths.tolist()} samples"
        )
    inside = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
    return audio.masked_fill(~inside, 0.0), lengths


def _tensor(constant: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(constant).to(like.device)
