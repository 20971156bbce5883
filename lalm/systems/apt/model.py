"""Acoustic Prompt Tuning: Empowering Large Language Models with Audition Capabilities (arXiv 2312.00249).

    waveform --Audio-MAE--> 512 frames x 768 per 10.24 s --LayerNorm--> frames
                                                                           | cross-attention
    32 queries + BERT tokens of the instruction --aligner (Q-Former)--> 32 x 256 --linear--> 32 tokens x D
    text, [AUDIO] [32 tokens], text, [AUDIO] [32 tokens], ... --> frozen Vicuna-7B --> answer

    Section 3.2  audio encoder                        lalm/encoders/audio_mae.py
    Section 3.2  instruction-aware audio aligner      APTConnector
    Section 3.2  interleaving with text, AUDIO token  lalm/models/processing.py; APTConnector.audio_token
    Section 3.3  alignment pretraining (stage 0)      alignment.py, 0_align.yaml
    Section 3.3  multi-task training (stages 1, 2)    1_single.yaml, 2_multi.yaml
    Section 4.4  APT-BLIP-2                           vision.py

Where the paper and the code of its lineage differ, the code counts (the papers' table says where): the
aligner is BERT-mini with cross-attention in blocks 0 and 2 ("two-layer" in section 4.1), and the frames are
those of the last block, not normalised ("penultimate" in section 3.2). A clip of n samples makes
1 + 32 ceil(frames / 512) tokens: 33 up to 10.24 s, and 32 for every further 10.24 s, in time order.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    PreTrainedConfig,
)

from lalm.encoders import build_encoder, encoder_config
from lalm.encoders.eat import EATConfig
from lalm.models.config import AudioLMConfig
from lalm.models.connectors.instructed import start_from_bert
from lalm.models.modeling import AudioLMForConditionalGeneration, AudioLMModel

BERT_MINI = {
    "vocab_size": 30_523,  # BERT's 30,522 and the [DEC] that opens a generated text
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 512,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "cross_attention_frequency": 2,
}

ALIGNMENT_WIDTH = 256  # of the space in which clips and captions are compared; code
TEMPERATURE = 0.07  # at the start; code


class APTConfig(AudioLMConfig):
    """APT's own numbers; the defaults are the paper's and, for shapes, those of its lineage's code.

    ``aligner`` are fields of the Q-Former that differ from BERT-mini's. ``segment_s`` is what one pass of the
    aligner hears. ``instruction`` says what it reads beside a clip: the clip's "own" text, up to the next
    clip, or the "whole" text of its message; at most ``instruction_tokens`` of it. With ``alignment`` the
    connector carries the heads of stage 0. Without ``role_markers`` the LLM's own turns do not stand around
    text and answer: so has it the paper (its recipes say so), and a small LLM goes on with a series better.
    """

    model_type = "lalm_apt"
    compares = True
    sub_configs = {"text_config": AutoConfig, "audio_config": AutoConfig}  # noqa: RUF012
    hears_instructions: ClassVar[bool] = True

    def __init__(
        self,
        audio_config: PreTrainedConfig | dict[str, Any] | None = None,
        num_queries: int = 32,
        segment_s: float = 10.24,
        aligner: dict[str, Any] | None = None,
        instruction: str = "own",
        instruction_tokens: int = 128,
        alignment: bool = False,
        role_markers: bool = True,
        **kwargs: Any,
    ) -> None:
        self.audio_config = encoder_config(audio_config or {"model_type": "lalm_audio_mae"})
        for name, value in (
            ("num_queries", num_queries),
            ("segment_s", segment_s),
            ("instruction_tokens", instruction_tokens),
        ):
            if value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        if instruction not in ("own", "whole"):
            raise ValueError(f"instruction must be 'own' or 'whole', not '{instruction}'")
        if odd := sorted(set(aligner or {}) - set(BERT_MINI)):
            raise ValueError(f"aligner has no field '{odd[0]}'; it has: {', '.join(BERT_MINI)}")
        if isinstance(self.audio_config, EATConfig) and self.audio_config.keep_cls:
            raise ValueError("EAT's CLS frame has no time: for APT give EAT the option keep_cls: false")
        self.num_queries = num_queries
        self.segment_s = segment_s
        self.aligner = BERT_MINI | (aligner or {})
        self.instruction = instruction
        self.instruction_tokens = instruction_tokens
        self.alignment = alignment
        self.role_markers = role_markers
        super().__init__(**kwargs)

    @property
    def segment_frames(self) -> int:
        """Frames that one pass of the aligner hears: 10.24 s x 50 = 512."""
        return max(1, round(self.segment_s * self.audio_config.frames_per_second))

    def num_frames(self, num_samples: int) -> int:
        """Encoder frames of one clip."""
        return int(self.audio_config.num_frames(num_samples))

    def num_segments(self, num_frames: int) -> int:
        """Passes of the aligner over one clip."""
        return -(-num_frames // self.segment_frames)

    def num_tokens(self, num_frames: int) -> int:
        """The AUDIO token and 32 tokens a segment: 33 up to 10.24 s."""
        return 1 + self.num_segments(num_frames) * self.num_queries if num_frames > 0 else 0


class AlignmentHeads(nn.Module):
    """What stage 0 compares, matches and writes with (``alignment``); it adds no input to the LLM."""

    def __init__(self, config: APTConfig) -> None:
        super().__init__()
        width, vocabulary = config.aligner["hidden_size"], config.aligner["vocab_size"]
        self.audio = nn.Linear(width, ALIGNMENT_WIDTH)
        self.text = nn.Linear(width, ALIGNMENT_WIDTH)
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        self.match = nn.Linear(width, 2)
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12))
        self.bias = nn.Parameter(torch.zeros(vocabulary))  # of words, whose matrix is the embedding


class APTConnector(nn.Module):
    """The aligner between its layer norm and its projection, and the AUDIO token that opens a clip.

    ``frame_mean`` and ``frame_scale`` standardise each channel of the frames before the layer norm. They
    start as 0 and 1, which is the paper's connector; a warm start sets both from its data (Whisper's middle
    layers have channels of huge constant value, beside which the layer norm lets little be seen).
    """

    frame_mean: Tensor
    frame_scale: Tensor

    def __init__(self, config: APTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embedding_width
        self.register_buffer("frame_mean", torch.zeros(config.audio_config.width))
        self.register_buffer("frame_scale", torch.ones(config.audio_config.width))
        self.norm = nn.LayerNorm(config.audio_config.width)
        self.aligner = InstructBlipQFormerModel(
            InstructBlipQFormerConfig(**config.aligner, encoder_hidden_size=config.audio_config.width)
        )
        shape = self.aligner.config
        self.queries = nn.Parameter(torch.empty(1, config.num_queries, shape.hidden_size))
        self.projection = nn.Linear(shape.hidden_size, width)
        self.audio_token = nn.Parameter(torch.empty(1, 1, width))
        for parameter in (self.queries, self.audio_token):
            nn.init.normal_(parameter, std=shape.initializer_range)
        self.heads = AlignmentHeads(config) if config.alignment else None

    def add_heads(self) -> None:
        """Give the connector fresh heads for stage 0, unless it has some."""
        if self.heads is None:
            self.heads = AlignmentHeads(self.config).to(self.queries.device)
            self.config.alignment = True

    def forward(
        self,
        frames: Tensor,
        frame_lengths: Tensor,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """frames: (A, T, W), frame_lengths: (A,) -> tokens (A, K, D) float32, lengths (A,).

        instruction_ids, instruction_mask: (A, I) int64, or None for the audio alone.
        """
        if instruction_ids is not None and len(instruction_ids) != len(frames):
            raise ValueError(f"there are {len(instruction_ids)} instructions for {len(frames)} clips")
        counts = torch.tensor([self.config.num_segments(n) for n in frame_lengths.tolist()])
        counts = counts.to(frames.device)
        segments, inside = self.segments(frames, frame_lengths)  # (A, S, size, W), (A, S, size)
        there = torch.arange(segments.shape[1], device=frames.device) < counts[:, None]  # (A, S)
        clips = there.nonzero()[:, 0]  # the clip of each of the R segments
        text: tuple[Tensor | None, Tensor | None] = (None, None)
        if instruction_ids is not None and instruction_mask is not None:
            text = (instruction_ids[clips], instruction_mask[clips])
        heard = self.projection(self.align(segments[there], inside[there], *text))  # (R, Q, D)
        tokens = heard.new_zeros(*there.shape, *heard.shape[1:])  # (A, S, Q, D)
        tokens[there] = heard
        first = self.audio_token.expand(len(frames), -1, -1)
        return torch.cat([first, tokens.flatten(1, 2)], dim=1), counts * self.config.num_queries + 1

    def segments(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Layer-normalised frames in segments (A, S, size, W), and True where a frame is, (A, S, size)."""
        size = self.config.segment_frames
        frames = (frames.to(self.norm.weight.dtype) - self.frame_mean) * self.frame_scale
        frames = self.norm(frames)
        frames = nn.functional.pad(frames, (0, 0, 0, -frames.shape[1] % size))
        inside = torch.arange(frames.shape[1], device=frames.device) < frame_lengths[:, None]
        return frames.unflatten(1, (-1, size)), inside.unflatten(1, (-1, size))

    def align(
        self, heard: Tensor, inside: Tensor, text_ids: Tensor | None, text_mask: Tensor | None
    ) -> Tensor:
        """heard: (R, T, W) normalised, inside: (R, T), text_ids and text_mask: (R, I) -> (R, Q, H).

        Queries and text see each other, only queries see the audio, and only theirs are the outputs.
        """
        queries = self.queries.expand(len(heard), -1, -1)
        mask, positions = None, None
        if text_ids is not None and text_mask is not None:
            mask = torch.cat([text_mask.new_ones(queries.shape[:2]), text_mask], dim=1)  # (R, Q + I)
            positions = torch.arange(text_ids.shape[1], device=heard.device)[None].expand(len(heard), -1)
        output: Tensor = self.aligner(
            input_ids=text_ids,
            attention_mask=mask,
            position_ids=positions,
            query_embeds=queries,
            encoder_hidden_states=heard,
            encoder_attention_mask=inside.long(),
        ).last_hidden_state
        return output[:, : queries.shape[1]]

    def read_text(self, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Texts alone, as stage 0 has them for ATC: (B, L) int64 each, [CLS] first -> (B, L, H).

        The queries are there, and neither see the texts nor are seen by them.
        """
        count, length = self.queries.shape[1], text_ids.shape[1]
        sees = torch.zeros(len(text_ids), count + length, count + length, dtype=torch.bool)
        sees = sees.to(text_ids.device)
        sees[:, :count, :count] = True
        sees[:, count:, count:] = text_mask.bool()[:, None]
        mask = torch.zeros(sees.shape, device=sees.device)
        mask = mask.masked_fill(~sees, torch.finfo(torch.float32).min)[:, None]  # a boolean one is misread
        silence = self.queries.new_zeros(len(text_ids), 1, self.config.audio_config.width)
        output: Tensor = self.aligner(
            input_ids=text_ids,
            attention_mask=mask,
            position_ids=torch.arange(length, device=text_ids.device)[None].expand(len(text_ids), -1),
            query_embeds=self.queries.expand(len(text_ids), -1, -1),
            encoder_hidden_states=silence,
        ).last_hidden_state
        return output[:, count:]

    @torch.no_grad()
    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """From now on frames count as ``(frames - mean) * scale``; both (W,)."""
        self.frame_mean.copy_(mean)
        self.frame_scale.copy_(scale)

    def start(self, folder: Path) -> None:
        """Take what a pretrained BERT of the same shape has: embeddings, self-attention, feed-forward layers.

        Queries start with the text's feed-forward layers; cross-attention, queries and projection stay new.
        Raises ValueError when the folder holds no BERT of that shape.
        """
        start_from_bert(self.aligner, folder)


class APTModel(AudioLMModel):
    """Encoder, aligner and LLM body of APT."""

    config_class = APTConfig

    def __init__(self, config: APTConfig) -> None:
        super().__init__(config)
        self.audio_tower = build_encoder(config.audio_config)
        self.connector = self.build_connector()
        self.post_init()

    def build_connector(self) -> APTConnector:
        return APTConnector(self.config)


class APTForConditionalGeneration(AudioLMForConditionalGeneration):
    """APT with the LLM's head."""

    config_class = APTConfig
    model_class = APTModel
