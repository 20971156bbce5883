"""AC/DC: LLM-based Audio Comprehension via Dialogue Continuation (arXiv 2506.10312).

    waveform --EAT--> 513 frames x 768 per 10.24 s --5x concat, 2 linear layers--> 102 tokens x D
                                                                                          |
    chat prefix P ------------------------------------------------> [P ; A ; S] --> frozen LLM --> reply
    chat suffix S ---------------------------------------------------------^      (LoRA optional)

    Section 2.1  encoder + adapter, prefix and suffix    ACDCModel, ACDCConnector
    Section 2.2  reply to the caption as target          continuation.py
    Section 2.3  instructions at inference               prompts.py
    Section 3.1  EAT-base, 5x, Llama-3-8B-Instruct       ACDCConfig defaults, train.yaml

Any encoder of ``lalm.encoders`` and any causal LM of transformers can take these parts' places.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from lalm.encoders import build_encoder, encoder_config
from lalm.models.config import AudioLMConfig
from lalm.models.modeling import AudioLMForConditionalGeneration, AudioLMModel


class ACDCConfig(AudioLMConfig):
    """AC/DC's own numbers; the defaults are the paper's (section 3.1.2 and the SLAM-AAC recipe it uses).

    ``group_size`` frames are joined into one token, or into ``tokens_per_group`` where one token has too
    little room (ours; the embedded model says thing and action in two). ``remainder`` says what happens to
    the last, shorter group: "drop" (the paper's) or "pad" with zeros, so that the shortest clip still gives a
    token. ``connector_dropout`` (ours) is that of the hidden layer.
    """

    model_type = "lalm_acdc"
    sub_configs = {"text_config": AutoConfig, "audio_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        audio_config: PreTrainedConfig | dict[str, Any] | None = None,
        group_size: int = 5,
        tokens_per_group: int = 1,
        connector_width: int = 2048,
        connector_dropout: float = 0.0,
        remainder: str = "drop",
        **kwargs: Any,
    ) -> None:
        self.audio_config = encoder_config(audio_config)
        self.group_size = group_size
        self.tokens_per_group = tokens_per_group
        self.connector_width = connector_width
        self.connector_dropout = connector_dropout
        if remainder not in ("drop", "pad"):
            raise ValueError(f"remainder must be 'drop' or 'pad', not '{remainder}'")
        self.remainder = remainder
        super().__init__(**kwargs)

    def num_frames(self, num_samples: int) -> int:
        """Encoder frames of one clip."""
        return int(self.audio_config.num_frames(num_samples))

    def num_tokens(self, num_frames: int) -> int:
        """513 frames // 5 = 102 tokens per 10.24 s with the defaults."""
        extra = self.group_size - 1 if self.remainder == "pad" else 0
        return (num_frames + extra) // self.group_size * self.tokens_per_group

    @property
    def token_groups(self) -> tuple[int, int, int]:
        """Groups side by side."""
        return self.group_size, self.group_size, self.tokens_per_group


class ACDCConnector(nn.Module):
    """Join ``group_size`` frames, then Linear -> ReLU -> Linear: 3840 -> 2048 -> D (section 3.1.2).

    ``frame_mean`` and ``frame_scale`` standardise each channel of the frames. They start as 0 and 1, which
    is the paper's connector: EAT's post-norm output needs nothing else. Whisper's middle layers have channels
    of huge constant value, so a warm start sets both from its data.
    """

    frame_mean: Tensor
    frame_scale: Tensor

    def __init__(self, config: ACDCConfig) -> None:
        super().__init__()
        self.group_size, self.tokens_per_group = config.group_size, config.tokens_per_group
        self.dropout = nn.Dropout(config.connector_dropout)
        self.pad = config.remainder == "pad"
        self.register_buffer("frame_mean", torch.zeros(config.audio_config.width))
        self.register_buffer("frame_scale", torch.ones(config.audio_config.width))
        self.linear_1 = nn.Linear(config.group_size * config.audio_config.width, config.connector_width)
        self.linear_2 = nn.Linear(config.connector_width, config.tokens_per_group * config.embedding_width)

    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Take frames as ``(frames - mean) * scale`` from now on; both (W,)."""
        self.frame_mean.copy_(mean)
        self.frame_scale.copy_(scale)

    def forward(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (A, T, W), frame_lengths: (A,) -> tokens (A, K, D) float32, lengths (A,)."""
        k = self.group_size
        inside = torch.arange(frames.shape[1], device=frames.device)[None] < frame_lengths[:, None]
        frames = (frames.to(self.linear_1.weight.dtype) - self.frame_mean) * self.frame_scale
        frames = frames * inside[..., None]
        lengths = (frame_lengths + (k - 1 if self.pad else 0)) // k
        groups = int(lengths.max())
        missing = groups * k - frames.shape[1]
        frames = nn.functional.pad(frames, (0, 0, 0, max(missing, 0)))[:, : groups * k]
        grouped = frames.reshape(len(frames), groups, -1)  # (A, groups, k*W)
        hidden = self.dropout(torch.relu(self.linear_1(grouped)))
        tokens = self.linear_2(hidden).reshape(len(frames), groups * self.tokens_per_group, -1)  # (A, K, D)
        return tokens, lengths * self.tokens_per_group


class ACDCModel(AudioLMModel):
    """Encoder, connector and LLM body of AC/DC."""

    config_class = ACDCConfig

    def __init__(self, config: ACDCConfig) -> None:
        super().__init__(config)
        self.audio_tower = build_encoder(config.audio_config)
        self.connector = self.build_connector()
        self.post_init()

    def build_connector(self) -> ACDCConnector:
        return ACDCConnector(self.config)


class ACDCForConditionalGeneration(AudioLMForConditionalGeneration):
    """AC/DC with the LLM's head."""

    config_class = ACDCConfig
    model_class = ACDCModel
