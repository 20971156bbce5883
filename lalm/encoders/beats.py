"""BEATs, SALMONN's encoder of non-speech sounds (arXiv 2212.09058).

    waveform x 2^15 -> fbank (T, 128) -> (x - 15.42) / (2 * 6.56) -> 16 x 16 patches, time-major, 8 frequency
      bands inner -> LayerNorm -> Linear -> + convolution over positions -> LayerNorm
      -> 12 post-norm blocks with gated relative positions = 8 tokens x 768 every 160 ms

"50 tokens a second" are 6.25 moments x 8 bands. A last, partial patch is dropped, as in the original.
Clips longer than 30 s run as several windows joined in time order. ``lalm.encoders.beats_import`` reads the
released checkpoints.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lalm.audio.features import HOP, WINDOW, fbank, fbank_frames
from lalm.encoders.contract import TOKENS_AT_ONCE, Encoder, PatchConfig, chosen_layers, passes, side_by_side


class BEATsConfig(PatchConfig):
    """BEATs' shapes, normalisation, and the longest window; the defaults are the released BEATs_iter3+'s.

    ``window_frames``: 10 ms frames that are encoded together; 3,008 hold SALMONN's 30 s in one window.
    """

    model_type = "lalm_beats"

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        embed_size: int = 512,
        patch_size: int = 16,
        num_mel_bins: int = 128,
        conv_positions: int = 128,
        conv_position_groups: int = 16,
        num_buckets: int = 320,
        max_distance: int = 800,
        deep_norm: bool = True,
        conv_bias: bool = False,
        mean: float = 15.41663,
        deviation: float = 6.55582,
        layer_norm_eps: float = 1e-5,
        window_frames: int = 3008,
        layers: list[int] | str | None = None,
        **kwargs: Any,
    ) -> None:
        if hidden_size % num_attention_heads:
            raise ValueError(f"hidden_size {hidden_size} does not divide by {num_attention_heads} heads")
        if window_frames < patch_size or window_frames % patch_size:
            raise ValueError(f"window_frames must be a multiple of {patch_size}, not {window_frames}")
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.embed_size = embed_size
        self.patch_size = patch_size
        self.num_mel_bins = num_mel_bins
        self.conv_positions = conv_positions
        self.conv_position_groups = conv_position_groups
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.deep_norm = deep_norm
        self.conv_bias = conv_bias
        self.mean = mean
        self.deviation = deviation
        self.layer_norm_eps = layer_norm_eps
        self.window_frames = window_frames
        self.layers = chosen_layers(layers, num_hidden_layers)
        super().__init__(**kwargs)

    @property
    def residual_scale(self) -> float:
        """Deep-norm's alpha, (2 x 12)^(1/4) = 2.2134."""
        return float((2 * self.num_hidden_layers) ** 0.25) if self.deep_norm else 1.0

    def num_frames(self, num_samples: int) -> int:
        """Frames of one clip: 496 for 10 s, 1,496 for 30 s, none below 0.175 s."""
        return fbank_frames(num_samples) // self.patch_size * self.num_bands


class PositionConv(nn.Module):
    """Grouped convolution over the tokens, added to them; its weight is stored as it is used."""

    def __init__(self, config: BEATsConfig) -> None:
        super().__init__()
        size = config.conv_positions
        self.even = size % 2 == 0
        self.conv = nn.Conv1d(
            config.hidden_size,
            config.hidden_size,
            size,
            padding=size // 2,
            groups=config.conv_position_groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (A, T, D), zero after a clip -> (A, T, D)."""
        y = self.conv(x.transpose(1, 2))  # (A, D, T + 1) for an even size
        return functional.gelu(y[..., :-1] if self.even else y).transpose(1, 2)


class GatedAttention(nn.Module):
    """Self-attention whose relative-position bias each query scales by a gate of its own, per head."""

    def __init__(self, config: BEATsConfig) -> None:
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // self.num_heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.num_heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """x: (A, T, D); bias: (H, T, T); mask: (A, 1, 1, T), 0 or -inf added to scores -> (A, T, D)."""
        query, key, value = (
            linear(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (A, H, T, D / H)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        pair = torch.sigmoid(self.grep_linear(query).unflatten(3, (2, 4)).sum(4))  # (A, H, T, 2)
        first, second = pair.split(1, dim=3)
        gate = first * (second * self.grep_a - 1.0) + 2.0  # (A, H, T, 1)
        scores = (gate * bias).to(query.dtype)  # (A, H, T, T)
        if mask is not None:
            scores = scores + mask
        heard = functional.scaled_dot_product_attention(query, key, value, attn_mask=scores)
        y: Tensor = self.out_proj(heard.transpose(1, 2).flatten(2))
        return y


class BEATsBlock(nn.Module):
    """Post-norm block with scaled residuals: x = norm(alpha x + attention(x)); x = norm(alpha x + mlp(x))."""

    def __init__(self, config: BEATsConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.alpha = config.residual_scale
        self.self_attn = GatedAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self.final_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """x: (A, T, D) -> (A, T, D); bias and mask as in ``GatedAttention``."""
        x = self.self_attn_layer_norm(self.alpha * x + self.self_attn(x, bias, mask))
        y: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return self.final_layer_norm(self.alpha * x + y)


class BEATsEncoder(Encoder):
    """BEATs with random weights; ``lalm.encoders.load_encoder`` opens a folder that has them."""

    def __init__(self, config: BEATsConfig) -> None:
        super().__init__(config)
        size = config.patch_size
        self.patch_embedding = nn.Conv2d(1, config.embed_size, size, stride=size, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(config.embed_size, eps=config.layer_norm_eps)
        self.post_extract_proj = nn.Linear(config.embed_size, config.hidden_size)
        self.position = PositionConv(config)
        self.position_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.relative_bias = nn.Embedding(config.num_buckets, config.num_attention_heads)
        self.blocks = nn.ModuleList(BEATsBlock(config) for _ in range(config.num_hidden_layers))

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """audio: (A, N) float32 16 kHz; audio_lengths: (A,) -> frames (A, T, width), frame_lengths (A,)."""
        config = self.config
        lengths = [self.num_frames(n) for n in audio_lengths.tolist()]
        frames = torch.zeros(len(audio), max(lengths), config.width, device=audio.device)
        frames = frames.to(self.post_extract_proj.weight.dtype)
        per_step = config.num_bands
        window = config.window_frames // config.patch_size * per_step  # tokens
        rows = [
            (clip, start, min(length, start + window))
            for clip, length in enumerate(lengths)
            for start in range(0, length, window)
        ]
        for chunk in passes(rows, TOKENS_AT_ONCE):
            pieces = []
            for clip, start, stop in chunk:
                first, last = (HOP * config.patch_size * t // per_step for t in (start, stop))
                pieces.append(audio[clip, first : last - HOP + WINDOW])
            counts = torch.tensor([stop - start for _, start, stop in chunk], device=audio.device)
            hidden = self.encode(self.spectrogram(pieces), counts)  # (W, tokens, D)
            for row, (clip, start, stop) in enumerate(chunk):
                frames[clip, start:stop] = hidden[row, : stop - start]
        return frames, torch.tensor(lengths, device=audio.device)

    def spectrogram(self, audio: list[Tensor]) -> Tensor:
        """The normalised fbank of clips (N,), (A, T, M) float32, T a multiple of 16."""
        lengths = torch.tensor([len(samples) for samples in audio], device=audio[0].device)
        batch = nn.utils.rnn.pad_sequence(audio, batch_first=True).float() * 2**15
        mel, _ = fbank(batch, lengths, num_mels=self.config.num_mel_bins, window="povey")
        mel = mel[:, : mel.shape[1] // self.config.patch_size * self.config.patch_size]
        return (mel - self.config.mean) / (2 * self.config.deviation)

    def encode(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """mel: (A, T, M) normalised, T a multiple of 16; lengths: (A,) tokens -> (A, T / 2, D).

        Tokens beyond a clip's length are unspecified; they change no other token.
        """
        patches = self.patch_embedding(
            mel[:, None].to(self.patch_embedding.weight.dtype)
        )  # (A, E, T / 16, 8)
        x = self.post_extract_proj(self.layer_norm(patches.flatten(2).transpose(1, 2)))  # (A, T / 2, D)
        mask = None
        if int(lengths.min()) < x.shape[1]:
            inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            x = x * inside[..., None]
            mask = torch.zeros_like(inside, dtype=x.dtype).masked_fill(~inside, -torch.inf)[:, None, None]
        x = self.position_norm(x + self.position(x))
        bias = self.relative_bias(self._buckets(x.shape[1])).permute(2, 0, 1)  # (H, T, T)
        return side_by_side(self.blocks, x, self.config.given_layers, bias, mask)

    def _buckets(self, count: int) -> Tensor:
        """(count, count) int64: which bias a query (row) has for a key (column), by their distance.

        One half of the buckets is for later keys. Of each half, the first half counts distances one by one,
        the others grow with the logarithm up to ``max_distance``.
        """
        positions = torch.arange(count, device=self.relative_bias.weight.device)
        distance = positions[None] - positions[:, None]  # key minus query
        half = self.config.num_buckets // 2
        exact = half // 2
        far = torch.log(distance.abs().clamp(min=1).float() / exact) / math.log(
            self.config.max_distance / exact
        )
        grown = (exact + (far * (half - exact)).long()).clamp(max=half - 1)
        nearby = distance.abs() < exact
        return (distance > 0) * half + torch.where(nearby, distance.abs(), grown)
