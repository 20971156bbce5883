"""Qwen2-Audio Technical Report (arXiv 2407.10759).

    waveform --128 mel, 25/10 ms--> Whisper-large-v3 --pool 2--> norm --> linear --> 25 tokens/s x 4096
                                                                                        |
    Audio 1: <|audio_bos|> ... slots ... <|audio_eos|> question ------------------> Qwen-7B --> answer

    Section 2, Model Architecture     Qwen2AudioLMModel; encoder: lalm/encoders/whisper.py with qwen2_audio
    Section 2, Pre-training           1_pretrain.yaml; prompts.py
    Section 2, Supervised Fine-tuning 2_sft.yaml; template.jinja
    Section 2, equation (2), DPO      3_dpo.yaml; lalm/training/objectives/dpo.py
    Released weights, both ways       released.py

Any Whisper can be the encoder and any causal LM of transformers the LLM. A clip of n samples has
ceil(n / 160) feature frames (10 ms), half as many encoder frames, and half of those, rounded down, as
tokens: 750 for 30 s, none below 321 samples. Beyond 30 s, windows are joined in time order; the released
model stops hearing there.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from lalm.encoders import build_encoder, encoder_config
from lalm.models.config import AudioLMConfig
from lalm.models.modeling import AudioLMForConditionalGeneration, AudioLMModel

WHISPER_LARGE_V3 = {  # section 2: "based on the Whisper-large-v3 model"
    "model_type": "lalm_whisper",
    "num_mel_bins": 128,
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "max_source_positions": 1500,
}


class Qwen2AudioLMConfig(AudioLMConfig):
    """The paper's encoder by default; it has no other numbers of its own.

    ``role_markers: false`` is the base model of stage 1, asked in plain text; a chat model has them.
    """

    model_type = "lalm_qwen2_audio"
    transcribes = True
    sub_configs = {"text_config": AutoConfig, "audio_config": AutoConfig}  # noqa: RUF012
    encoder_options: ClassVar[Mapping[str, Any]] = {
        "qwen2_audio": True,
        "pool": 2,
    }  # section 2: "stride of two"

    def __init__(
        self,
        audio_config: PreTrainedConfig | dict[str, Any] | None = None,
        role_markers: bool = True,
        **kwargs: Any,
    ) -> None:
        self.audio_config = encoder_config(audio_config or WHISPER_LARGE_V3 | dict(self.encoder_options))
        self.role_markers = role_markers
        super().__init__(**kwargs)

    def num_frames(self, num_samples: int) -> int:
        """Pooled encoder frames of one clip, 40 ms each."""
        return int(self.audio_config.num_frames(num_samples))

    def num_tokens(self, num_frames: int) -> int:
        """One token a pooled frame."""
        return num_frames

    @property
    def token_groups(self) -> tuple[int, int, int]:
        """Each frame is a group of its own and becomes one token."""
        return 1, 1, 1


class Qwen2AudioConnector(nn.Module):
    """One linear layer: 1280 -> 4096 with bias (as released; section 2 does not name it)."""

    def __init__(self, config: Qwen2AudioLMConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.audio_config.width, config.embedding_width)

    def forward(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (A, T, W), frame_lengths: (A,) -> tokens (A, T, D), lengths (A,)."""
        return self.linear(frames.to(self.linear.weight.dtype)), frame_lengths

    @torch.no_grad()
    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Give for frames what it gave for ``(frames - mean) * scale``; both (W,). Layout unchanged."""
        self.linear.weight.mul_(scale)
        self.linear.bias.sub_(self.linear.weight @ mean)


class Qwen2AudioLMModel(AudioLMModel):
    """Encoder, connector and LLM body of Qwen2-Audio."""

    config_class = Qwen2AudioLMConfig

    def __init__(self, config: Qwen2AudioLMConfig) -> None:
        super().__init__(config)
        self.audio_tower = build_encoder(config.audio_config)
        self.connector = self.build_connector()
        self.post_init()

    def build_connector(self) -> Qwen2AudioConnector:
        return Qwen2AudioConnector(self.config)


class Qwen2AudioLM(AudioLMForConditionalGeneration):
    """Qwen2-Audio with the LLM's head."""

    config_class = Qwen2AudioLMConfig
    model_class = Qwen2AudioLMModel
