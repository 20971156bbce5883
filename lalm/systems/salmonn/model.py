"""SALMONN: Towards Generic Hearing Abilities for Large Language Models (arXiv 2310.13289).

    waveform --Whisper-large-v2--> 1,500 frames x 1,280 per 30 s --LayerNorm--+
        |                                                                     +--> 1,500 x 2,048
        +------BEATs-------------> 1,496 frames x   768 per 30 s --LayerNorm--+
    windows of 17 frames (0.33 s) --Q-Former, 1 query--> 88 x 768 --linear--> 88 tokens x D per 30 s
    "USER: <Speech>" [tokens] "</Speech> question\\nASSISTANT:" --> frozen Vicuna-13B + LoRA --> answer

    Section 3.1  two encoders, synchronised              lalm.encoders.pair, SALMONNConfig.audio_config
    Section 3.1  window-level Q-Former                   WindowQFormer
    Section 3.1  LoRA on queries and values              a recipe's "lora"
    Section 4.1  1 query, L = 17, rank 8, scale 4        SALMONNConfig defaults, the recipes
    Appendix D   prompt template                         models/templates/vicuna.jinja, QUESTION_PROMPT

The order of the steps (normalise, then pad with zeros, then join) and the numbers that the paper leaves out
(the Q-Former's shape) are those of the released code. Any encoder or pair of encoders of ``lalm.encoders``
and any causal LM of transformers can take these parts' places.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, Blip2QFormerConfig, Blip2QFormerModel, PreTrainedConfig

from lalm.audio.features import SAMPLE_RATE
from lalm.encoders import build_encoder, encoder_config
from lalm.encoders.pair import present, widths
from lalm.models.config import AudioLMConfig
from lalm.models.modeling import AudioLMForConditionalGeneration, AudioLMModel

WHISPER_LARGE_V2 = {
    "model_type": "lalm_whisper",
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "decoder_layers": 32,
    "decoder_attention_heads": 20,
    "decoder_ffn_dim": 5120,
}
LONGEST_SILENCE_S = 30
ENCODERS = {"model_type": "lalm_pair", "first": WHISPER_LARGE_V2, "second": {"model_type": "lalm_beats"}}


class SALMONNConfig(AudioLMConfig):
    """SALMONN's own numbers; the defaults are the paper's (section 4.1) and, for shapes, the released code's.

    ``window_s`` and ``stride_s`` are rounded to frames: 17 of 50 a second. ``remainder`` says what happens to
    frames after the last whole window: "drop" (the released code: 88 tokens for 30 s) or "pad" with zeros
    (section 3.1: 89). A clip shorter than one window is padded in both cases. For the original's fixed 88
    tokens for any clip, give Whisper the option ``pad_to_window``. A clip shorter than ``shortest_s`` is
    followed by silence up to there, as the released code does with 1.
    """

    model_type = "lalm_salmonn"
    transcribes = True
    sub_configs = {"text_config": AutoConfig, "audio_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        audio_config: PreTrainedConfig | dict[str, Any] | None = None,
        window_s: float = 0.333333,
        stride_s: float = 0.333333,
        num_queries: int = 1,
        qformer_width: int = 768,
        qformer_layers: int = 2,
        qformer_heads: int = 12,
        qformer_inner: int = 3072,
        qformer_dropout: float = 0.1,
        remainder: str = "drop",
        shortest_s: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.audio_config = encoder_config(audio_config or ENCODERS)
        for name, value in (("window_s", window_s), ("stride_s", stride_s), ("num_queries", num_queries)):
            if value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        if remainder not in ("drop", "pad"):
            raise ValueError(f"remainder must be 'drop' or 'pad', not '{remainder}'")
        self.window_s = window_s
        self.stride_s = stride_s
        self.num_queries = num_queries
        self.qformer_width = qformer_width
        self.qformer_layers = qformer_layers
        self.qformer_heads = qformer_heads
        self.qformer_inner = qformer_inner
        self.qformer_dropout = qformer_dropout
        self.remainder = remainder
        if not 0 <= shortest_s <= LONGEST_SILENCE_S:
            raise ValueError(f"shortest_s must be 0 to {LONGEST_SILENCE_S}, not {shortest_s}")
        self.shortest_s = shortest_s
        super().__init__(**kwargs)

    @property
    def window_frames(self) -> int:
        """Frames of a window: round(50 x 0.333333) = 17."""
        return max(1, round(self.window_s * self.audio_config.frames_per_second))

    @property
    def stride_frames(self) -> int:
        """Frames from one window to the next: 17."""
        return max(1, round(self.stride_s * self.audio_config.frames_per_second))

    def num_frames(self, num_samples: int) -> int:
        """Encoder frames of one clip, silence after a short one included."""
        return int(self.audio_config.num_frames(max(num_samples, self.fewest_samples)))

    @property
    def fewest_samples(self) -> int:
        """Samples that a clip is padded to."""
        return round(self.shortest_s * SAMPLE_RATE)

    def num_windows(self, num_frames: int) -> int:
        """(1,500 - 17) // 17 + 1 = 88 for 30 s."""
        if num_frames < 1:
            return 0
        beyond = max(0, num_frames - self.window_frames)
        extra = self.stride_frames - 1 if self.remainder == "pad" else 0
        return (beyond + extra) // self.stride_frames + 1

    def num_tokens(self, num_frames: int) -> int:
        """Every window gives ``num_queries`` tokens."""
        return self.num_windows(num_frames) * self.num_queries

    @property
    def token_groups(self) -> tuple[int, int, int]:
        """Windows: (17, 17, 1)."""
        return self.window_frames, self.stride_frames, self.num_queries


class WindowQFormer(nn.Module):
    """Queries that look at one window of frames at a time (section 3.1), for frames of any encoder or pair.

    With a single query the self-attention has nothing to choose from: its queries and keys, which the paper
    counts among its parameters, never get a gradient (and the trainer says so).

    ``frame_mean`` and ``frame_scale`` standardise each channel of the frames before the layer norms. They
    start as 0 and 1, which is the paper's connector; a warm start sets both from its data (Whisper's middle
    layers have channels of huge constant value).
    """

    frame_mean: Tensor
    frame_scale: Tensor

    def __init__(self, config: SALMONNConfig) -> None:
        super().__init__()
        self.config = config
        self.widths = widths(config.audio_config)
        self.register_buffer("frame_mean", torch.zeros(sum(self.widths)))
        self.register_buffer("frame_scale", torch.ones(sum(self.widths)))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.widths)
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=config.qformer_width,
                num_hidden_layers=config.qformer_layers,
                num_attention_heads=config.qformer_heads,
                intermediate_size=config.qformer_inner,
                hidden_dropout_prob=config.qformer_dropout,
                attention_probs_dropout_prob=config.qformer_dropout,
                cross_attention_frequency=1,
                encoder_hidden_size=sum(self.widths),
            )
        )
        self.queries = nn.Parameter(torch.empty(1, config.num_queries, config.qformer_width))
        nn.init.normal_(self.queries, std=self.qformer.config.initializer_range)
        self.projection = nn.Linear(config.qformer_width, config.embedding_width)

    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Take frames as ``(frames - mean) * scale`` from now on; both (W,)."""
        self.frame_mean.copy_(mean)
        self.frame_scale.copy_(scale)

    def forward(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (A, T, W), frame_lengths: (A,) -> tokens (A, K, D) float32, lengths (A,)."""
        counts = [self.config.num_windows(n) for n in frame_lengths.tolist()]
        windows = self.windows(self.normalised(frames, frame_lengths), max(counts))  # (A, L, size, W)
        rows = windows.reshape(-1, *windows.shape[2:])  # (A * L, size, W), a view when windows do not overlap
        queries = self.queries.expand(len(rows), -1, -1)
        heard = self.qformer(query_embeds=queries, encoder_hidden_states=rows).last_hidden_state
        tokens = self.projection(heard)  # (A * L, Q, D)
        lengths = torch.tensor(counts, device=frames.device) * self.config.num_queries
        return tokens.reshape(len(frames), -1, tokens.shape[2]), lengths

    def normalised(self, frames: Tensor, frame_lengths: Tensor) -> Tensor:
        """Each encoder's channels layer-normalised apart, zero where there is no frame: (A, T, W)."""
        inside = torch.arange(frames.shape[1], device=frames.device)[None] < frame_lengths[:, None]
        standard = (frames.to(self.projection.weight.dtype) - self.frame_mean) * self.frame_scale
        parts = [
            norm(part) * (inside & present(raw))[..., None]
            for norm, part, raw in zip(
                self.norms, standard.split(self.widths, dim=2), frames.split(self.widths, dim=2), strict=True
            )
        ]
        return torch.cat(parts, dim=2)

    def windows(self, frames: Tensor, count: int) -> Tensor:
        """frames: (A, T, W) -> views of it (A, count, window, W); missing frames count as zeros."""
        size, stride = self.config.window_frames, self.config.stride_frames
        needed = (count - 1) * stride + size
        missing = needed - frames.shape[1]
        frames = nn.functional.pad(frames, (0, 0, 0, missing)) if missing > 0 else frames[:, :needed]
        return frames.unfold(1, size, stride).transpose(2, 3)


class SALMONNModel(AudioLMModel):
    """Encoders, connector and LLM body of SALMONN."""

    config_class = SALMONNConfig

    def __init__(self, config: SALMONNConfig) -> None:
        super().__init__(config)
        self.audio_tower = build_encoder(config.audio_config)
        self.connector = self.build_connector()
        self.post_init()

    def build_connector(self) -> WindowQFormer:
        return WindowQFormer(self.config)

    def encode(self, input_values: Tensor, audio_lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """input_values: (A, N) float32 16 kHz; audio_lengths: (A,) -> frames (A, T, W), lengths (A,)."""
        fewest = self.config.fewest_samples
        if fewest and audio_lengths is not None:
            inside = torch.arange(input_values.shape[1], device=input_values.device) < audio_lengths[:, None]
            missing = max(0, fewest - input_values.shape[1])
            input_values = nn.functional.pad(input_values * inside, (0, missing))  # (A, N or more)
            audio_lengths = audio_lengths.clamp(min=fewest)
        return super().encode(input_values, audio_lengths)


class SALMONNForConditionalGeneration(AudioLMForConditionalGeneration):
    """SALMONN with the LLM's head."""

    config_class = SALMONNConfig
    model_class = SALMONNModel
