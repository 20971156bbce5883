"""EAT, AC/DC's encoder (Efficient Audio Transformer, arXiv 2401.03497).

    waveform - mean -> fbank (T, 128) -> zeros up to 1,024 frames -> (x + 4.268) / (2 * 4.569)
      -> 16 x 16 patches, time-major, 8 frequency bands inner -> + fixed positions -> CLS in front
      -> LayerNorm -> 12 post-norm blocks (no norm after the last) = 513 x 768 per 10.24 s

Clips longer than 10.24 s are as long as they are; beyond the table of positions (122.9 s) they run as
several windows joined in time order. ``lalm.encoders.eat_import`` reads the released checkpoints.
"""

from functools import cache
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lalm.audio.features import HOP, WINDOW, fbank, fbank_frames
from lalm.encoders.contract import TOKENS_AT_ONCE, Encoder, PatchConfig, chosen_layers, passes, side_by_side

Array: TypeAlias = np.ndarray[Any, Any]


class EATConfig(PatchConfig):
    """EAT's shapes (base by default; ``large`` gives the other), its normalisation, and two choices.

    ``pad_to_frames``: shorter clips are filled up with zeros to so many 10 ms frames (the original's
    10.24 s); 0 fills only the last patch. ``keep_cls``: the CLS token comes first, as frame 0 of a clip.
    """

    model_type = "lalm_eat"

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        mlp_ratio: float = 4.0,
        patch_size: int = 16,
        num_mel_bins: int = 128,
        max_frames: int = 12_288,
        mean: float = -4.268,
        deviation: float = 4.569,
        layer_norm_eps: float = 1e-6,
        pad_to_frames: int = 1024,
        keep_cls: bool = True,
        layers: list[int] | str | None = None,
        **kwargs: Any,
    ) -> None:
        if hidden_size % 4 or hidden_size % num_attention_heads:
            raise ValueError(f"hidden_size {hidden_size} must divide by 4 and by {num_attention_heads} heads")
        for name, value in (("pad_to_frames", pad_to_frames), ("max_frames", max_frames)):
            if value < 0 or value % patch_size:
                raise ValueError(f"{name} must be a multiple of {patch_size}, not {value}")
        if not pad_to_frames <= max_frames:
            raise ValueError(f"pad_to_frames {pad_to_frames} exceeds max_frames {max_frames}")
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.mlp_ratio = mlp_ratio
        self.patch_size = patch_size
        self.num_mel_bins = num_mel_bins
        self.max_frames = max_frames
        self.mean = mean
        self.deviation = deviation
        self.layer_norm_eps = layer_norm_eps
        self.pad_to_frames = pad_to_frames
        self.keep_cls = keep_cls
        self.layers = chosen_layers(layers, num_hidden_layers)
        super().__init__(**kwargs)

    @classmethod
    def large(cls) -> "EATConfig":
        """EAT-large: 24 layers, 1,024 wide, 16 heads."""
        return cls(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)

    def padded_frames(self, num_fbank_frames: int) -> int:
        """fbank frames that EAT sees of a clip of so many: at least ``pad_to_frames``, whole patches."""
        wanted = max(num_fbank_frames, self.pad_to_frames, 1)
        return -(-wanted // self.patch_size) * self.patch_size

    def num_frames(self, num_samples: int) -> int:
        """Frames of one clip: 513 up to 10.24 s by default."""
        steps = self.padded_frames(fbank_frames(num_samples)) // self.patch_size
        return steps * self.num_bands + int(self.keep_cls)


class BlockSizes(Protocol):
    """What a transformer block of EAT's parts takes from an encoder's config."""

    hidden_size: int
    num_attention_heads: int
    mlp_ratio: float
    layer_norm_eps: float


class EATBlock(nn.Module):
    """Post-norm transformer block: x = norm1(x + attention(x)); x = norm2(x + mlp(x))."""

    def __init__(self, config: BlockSizes) -> None:
        super().__init__()
        width, inner = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (A, T, D); mask: (A, 1, 1, T), True where a key may be seen, or None -> (A, T, D)."""
        x = self.norm1(x + self.attend(x, mask))
        return self.norm2(x + self.feed(x))

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Self-attention alone; arguments as for ``forward``."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        heard = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (A, H, T, D/H)
        attended: Tensor = self.proj(heard.transpose(1, 2).flatten(2))
        return attended

    def feed(self, x: Tensor) -> Tensor:
        """The two layers of the MLP alone: (A, T, D) -> (A, T, D)."""
        mlp: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return mlp


class EATEncoder(Encoder):
    """EAT with random weights; ``lalm.encoders.load_encoder`` opens a folder that has them."""

    def __init__(self, config: EATConfig) -> None:
        super().__init__(config)
        self.patch = nn.Conv2d(1, config.hidden_size, config.patch_size, stride=config.patch_size)
        self.cls = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.blocks = nn.ModuleList(EATBlock(config) for _ in range(config.num_hidden_layers))

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """audio: (A, N) float32 16 kHz; audio_lengths: (A,) -> frames (A, T, width), frame_lengths (A,)."""
        config = self.config
        audio = centred(audio.float(), audio_lengths.to(audio.device))
        heard = [fbank_frames(length) for length in audio_lengths.tolist()]
        padded = [config.padded_frames(length) for length in heard]
        # A clip's windows, each of at most max_frames; those after the first have no CLS in the result.
        rows = [
            (clip, start, min(length, start + config.max_frames))
            for clip, length in enumerate(padded)
            for start in range(0, length, config.max_frames)
        ]
        cls, per_frame = int(config.keep_cls), config.num_bands / config.patch_size
        lengths = [int(length * per_frame) + cls for length in padded]
        frames: Tensor | None = None
        for chunk in passes(rows, int(TOKENS_AT_ONCE / per_frame)):
            pieces = [
                audio[clip, start * HOP : (min(stop, heard[clip]) - 1) * HOP + WINDOW]
                if start < heard[clip]
                else audio[clip, :0]
                for clip, start, stop in chunk
            ]
            sizes = torch.tensor([stop - start for _, start, stop in chunk], device=audio.device)
            mel = self.spectrogram(pieces, int(sizes.max()))  # (W, T_mel, M)
            hidden = self.encode(mel, sizes)  # (W, 1 + tokens, D)
            if frames is None:
                frames = hidden.new_zeros(len(audio), max(lengths), hidden.shape[2])
            for row, (clip, start, stop) in enumerate(chunk):
                first, count = cls + int(start * per_frame), int((stop - start) * per_frame)
                frames[clip, first : first + count] = hidden[row, 1 : 1 + count]
                if cls and start == 0:
                    frames[clip, 0] = hidden[row, 0]
        if frames is None:
            raise ValueError("EAT was given a batch without a clip")
        return frames, torch.tensor(lengths, device=audio.device)

    def spectrogram(self, audio: list[Tensor], num_frames: int) -> Tensor:
        """The normalised fbank EAT sees of clips (N,) without offset: (A, num_frames, M) float32.

        What a clip leaves empty is the value of an fbank of 0: (0 + 4.268) / (2 * 4.569) = 0.467.
        """
        return (padded_fbank(audio, num_frames, self.config.num_mel_bins) - self.config.mean) / (
            2 * self.config.deviation
        )

    def encode(self, mel: Tensor, mel_lengths: Tensor) -> Tensor:
        """mel: (A, T, M) normalised, T a multiple of 16; mel_lengths: (A,) -> (A, 1 + T / 2, D), CLS first.

        Tokens beyond a clip's length are unspecified; they change no other token.
        """
        config = self.config
        patches = self.patch(mel[:, None].to(self.patch.weight.dtype))  # (A, D, T / 16, 8)
        x = patches.flatten(2).transpose(1, 2)  # (A, T / 2, D), time-major
        table = torch.from_numpy(
            position_table(config.max_frames // config.patch_size, config.num_bands, config.hidden_size)
        )
        x = x + table[: x.shape[1]].to(x.device, x.dtype)
        x = self.norm(torch.cat([self.cls.expand(len(x), -1, -1).to(x.dtype), x], dim=1))
        counts = 1 + mel_lengths * config.num_bands // config.patch_size
        mask = None
        if int(counts.min()) < x.shape[1]:
            mask = (torch.arange(x.shape[1], device=x.device) < counts[:, None])[:, None, None]
        return side_by_side(self.blocks, x, config.given_layers, mask)


def centred(audio: Tensor, lengths: Tensor) -> Tensor:
    """audio: (A, N) minus each clip's mean; zeros after its end."""
    inside = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
    mean = (audio * inside).sum(1) / lengths.clamp(min=1)
    return (audio - mean[:, None]) * inside


def padded_fbank(audio: list[Tensor], num_frames: int, num_mels: int) -> Tensor:
    """The fbank of clips (N,), zeros where a clip has no frame: (A, num_frames, num_mels) float32."""
    lengths = torch.tensor([len(samples) for samples in audio], device=audio[0].device)
    batch = nn.utils.rnn.pad_sequence(audio, batch_first=True)
    mel, _ = fbank(batch, lengths, num_mels=num_mels, window="hanning")
    padded: Tensor = functional.pad(mel, (0, 0, 0, num_frames - mel.shape[1]))
    return padded


@cache
def position_table(num_steps: int, num_bands: int, width: int) -> Array:
    """EAT's fixed positions, (num_steps * num_bands, width) float32, time-major.

    The first half of a row encodes the band, the second the time step, each as sines then cosines of
    index * 10000 ** (-i / (width / 4)). Computed rather than stored, so that it fits any length.
    """
    quarter = width // 4
    rates = 10_000.0 ** (-np.arange(quarter, dtype=np.float64) / quarter)  # (width / 4,)
    steps = np.repeat(np.arange(num_steps), num_bands)[:, None] * rates
    bands = np.tile(np.arange(num_bands), num_steps)[:, None] * rates
    return np.concatenate([np.sin(bands), np.cos(bands), np.sin(steps), np.cos(steps)], axis=1).astype(
        np.float32
    )
