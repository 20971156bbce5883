"""aiSFX: a convolutional encoder trained on sound-effect libraries, 5.4 frames a second.

    waveform -> 96 HTK mel bands of the spectrum at 44.1 kHz, log10(1 + 10,000 x) / 9.4578, 43 a second
      -> 4 blocks of two 3 x 3 convolutions, batch norm and ReLU, halving time and bands after the first
         three -> mean over the bands = 512 channels every 8 x 1,024 / 44,100 = 0.186 s

The front end follows the package ``aisfx`` 0.1.2 (its Essentia variant). Audio here has 16 kHz, so the
bands above 8 kHz stay empty. Frame j of a clip covers the seconds from 0.186 j to 0.186 (j + 1).
"""

from fractions import Fraction
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from lalm.audio.features import SAMPLE_RATE
from lalm.encoders.contract import Encoder

Array: TypeAlias = np.ndarray[Any, Any]

POOLED = 8  # spectra a frame: three poolings by 2
WINDOW_SPECTRA = POOLED * 320  # 59.4 s: longer clips run as several windows, which bounds their memory
WINDOWS_AT_ONCE = 8


class AISFXConfig(PreTrainedConfig):
    """The numbers of aiSFX's front end, and the channels of its four blocks."""

    model_type = "lalm_aisfx"

    def __init__(
        self,
        sample_rate_hz: int = 44_100,
        num_mel_bins: int = 96,
        fft_size: int = 2048,
        hop_size: int = 1024,
        gain: float = 10_000.0,
        scale: float = 9.4578,
        channels: tuple[int, ...] = (64, 128, 256, 512),
        **kwargs: Any,
    ) -> None:
        if len(channels) != 4:
            raise ValueError(f"channels: aiSFX has 4 blocks, not {len(channels)}")
        self.sample_rate_hz = sample_rate_hz
        self.num_mel_bins = num_mel_bins
        self.fft_size = fft_size
        self.hop_size = hop_size
        self.gain = gain
        self.scale = scale
        self.channels = list(channels)
        super().__init__(**kwargs)

    @property
    def width(self) -> int:
        """Width of a frame."""
        return self.channels[-1]

    @property
    def hop(self) -> Fraction:
        """Samples at 16 kHz between two spectra: 1,024 x 160 / 441 = 371.5."""
        return Fraction(self.hop_size * SAMPLE_RATE, self.sample_rate_hz)

    @property
    def frames_per_second(self) -> float:
        """44,100 / 1,024 / 8 = 5.38."""
        return float(SAMPLE_RATE / self.hop / POOLED)

    def num_frames(self, num_samples: int) -> int:
        """Frames of one clip: a last, partial one counts."""
        hop = self.hop * POOLED
        return -(-num_samples * hop.denominator // hop.numerator)


class ConvBlock(nn.Module):
    """Twice a 3 x 3 convolution, batch norm and ReLU."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        """x: (A, C, T, M); inside: (A, 1, T, 1), False after a clip, which stays zero -> (A, C', T, M)."""
        x = torch.relu(self.bn1(self.conv1(x))) * inside
        return torch.relu(self.bn2(self.conv2(x))) * inside


class AISFXEncoder(Encoder):
    """aiSFX without its classifiers; ``load_encoder`` opens the pinned part "aisfx"."""

    def __init__(self, config: AISFXConfig) -> None:
        super().__init__(config)
        first, second, third, fourth = config.channels
        self.conv_block1 = ConvBlock(1, first)
        self.conv_block2 = ConvBlock(first, second)
        self.conv_block3 = ConvBlock(second, third)
        self.conv_block4 = ConvBlock(third, fourth)

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """audio: (A, N) float32 16 kHz; audio_lengths: (A,) -> frames (A, T, width), frame_lengths (A,)."""
        lengths = torch.tensor([self.num_frames(n) for n in audio_lengths.tolist()], device=audio.device)
        spectra = self.spectra(audio, audio_lengths, POOLED * int(lengths.max()))  # (A, 8 T, M)
        size = min(WINDOW_SPECTRA, spectra.shape[1])
        num_windows = -(-spectra.shape[1] // size)
        padded = nn.functional.pad(spectra, (0, 0, 0, num_windows * size - spectra.shape[1]))
        windows = padded.reshape(len(audio) * num_windows, size, -1)  # (A * windows, <= 2560, M)
        starts = torch.arange(num_windows, device=audio.device) * (size // POOLED)
        within = (lengths[:, None] - starts).clamp(0, size // POOLED).flatten()  # frames of each window
        frames = spectra.new_zeros(len(windows), size // POOLED, self.width, dtype=self._dtype)
        for chunk in (within > 0).nonzero()[:, 0].split(WINDOWS_AT_ONCE):
            frames[chunk] = self._encode(windows[chunk].to(self._dtype), within[chunk])
        return frames.reshape(len(audio), -1, self.width)[:, : int(lengths.max())], lengths

    @property
    def _dtype(self) -> torch.dtype:
        return self.conv_block1.conv1.weight.dtype

    def _encode(self, spectra: Tensor, lengths: Tensor) -> Tensor:
        """spectra: (W, 8 T, M), lengths: (W,) frames -> frames (W, T, width), zero after a clip."""
        x = spectra[:, None]  # (W, 1, 8 T, M)
        blocks = (self.conv_block1, self.conv_block2, self.conv_block3, self.conv_block4)
        for number, block in enumerate(blocks):
            positions = torch.arange(x.shape[2], device=x.device)
            inside = positions < (lengths * (POOLED >> number))[:, None]
            x = block(x, inside[:, None, :, None])
            if number < len(blocks) - 1:
                x = nn.functional.max_pool2d(x, 2)  # (W, C, T', M')
        return x.mean(3).transpose(1, 2)

    def spectra(self, audio: Tensor, audio_lengths: Tensor, count: int) -> Tensor:
        """The network's input, (A, count, M) float32: spectrum m is centred on sample 371.5 m of the clip.

        Its Hann window of 2,048 samples at 44.1 kHz is sampled at 16 kHz, where the signal is complete.
        """
        config = self.config
        inside = torch.arange(audio.shape[1], device=audio.device) < audio_lengths.to(audio.device)[:, None]
        audio = audio.float() * inside
        centres = [config.hop * number for number in range(count)]
        half = config.fft_size * SAMPLE_RATE / config.sample_rate_hz / 2  # 371.5 samples
        reach = int(half) + 1
        first = torch.tensor([int(centre) for centre in centres], device=audio.device)
        fraction = torch.tensor([float(centre % 1) for centre in centres], device=audio.device)
        offsets = torch.arange(-reach, reach + 1, device=audio.device)
        away = offsets - fraction[:, None]  # (count, 2 reach + 1) samples from the centre
        window = (0.5 + 0.5 * torch.cos(torch.pi * away / half)) * (away.abs() < half)
        padded = nn.functional.pad(audio, (reach, max(0, int(first[-1]) + reach + 1 - audio.shape[1])))
        waves, filters = front_end(config.sample_rate_hz, config.fft_size, config.num_mel_bins, 2 * reach + 1)
        with torch.autocast(audio.device.type, enabled=False):
            pieces = padded[:, first[:, None] + offsets + reach] * window  # (A, count, 2 reach + 1)
            parts = pieces @ torch.from_numpy(waves).to(audio.device)  # (A, count, 2 F)
            power = parts.unflatten(2, (2, -1)).square().sum(2)  # (A, count, F)
            mel = power @ torch.from_numpy(filters).to(audio.device)  # (A, count, M)
        return torch.log10(1 + config.gain * mel) / config.scale


@cache
def front_end(sample_rate_hz: int, fft_size: int, num_mels: int, width: int) -> tuple[Array, Array]:
    """Waves (width, 2 F) of the spectrum's bins below 8 kHz, and mel filters (F, M), both float32.

    The waves are scaled as a sum over samples at ``sample_rate_hz`` would be. The filters are triangles on
    the mel scale 2595 log10(1 + f / 700) from 0 to 22,050 Hz, each with weights that sum to 1.
    """
    bins = np.arange(fft_size // 2 + 1) * sample_rate_hz / fft_size  # Hz
    heard = bins <= SAMPLE_RATE / 2
    phases = 2 * np.pi * np.arange(width)[:, None] * bins[heard] / SAMPLE_RATE  # (width, F)
    waves = np.concatenate([np.cos(phases), np.sin(phases)], axis=1) * (sample_rate_hz / SAMPLE_RATE)
    mel = 2595 * np.log10(1 + bins / 700)[:, None]
    corners = np.linspace(0, mel.max(), num_mels + 2)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    filters = np.minimum(rising, falling).clip(min=0)  # (bins, M)
    filters /= filters.sum(0)
    return waves.astype(np.float32), filters[heard].astype(np.float32)
