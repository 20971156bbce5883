"""Connectors with queries: a fixed number of tokens for every stretch of sound, by cross-attention."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from lalm.models.connectors.contract import Connector, Shape, grouped, positive


class Queries(Connector):
    """``num_queries`` tokens for every ``segment_s`` seconds, the last stretch as long as it is."""

    def __init__(self, shape: Shape, segment_s: float, num_queries: int, width: int) -> None:
        super().__init__(shape)
        positive(segment_s=segment_s, num_queries=num_queries, width=width)
        self.segment = self._segment(shape.frames_per_second, segment_s)
        self.queries = nn.Parameter(torch.randn(1, num_queries, width) * 0.02)
        self.projection = nn.Linear(width, shape.token_width)

    @property
    def num_queries(self) -> int:
        """Of one stretch."""
        return self.queries.shape[1]

    @staticmethod
    def _segment(frames_per_second: float, segment_s: float) -> int:
        return max(1, round(segment_s * frames_per_second))

    @classmethod
    def num_tokens(cls, num_frames: int, frames_per_second: float, **options: Any) -> int:
        """``num_queries`` a stretch."""
        chosen = cls.options() | options
        return -(-num_frames // cls._segment(frames_per_second, chosen["segment_s"])) * chosen["num_queries"]

    @classmethod
    def groups(cls, frames_per_second: float, **options: Any) -> tuple[int, int, int]:
        """Stretches side by side."""
        chosen = cls.options() | options
        size = cls._segment(frames_per_second, chosen["segment_s"])
        return size, size, chosen["num_queries"]

    def segments(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Stretches that hold frames, (R, size, W), where they hold some, (R, size), and which, (A, S)."""
        pieces, counts = grouped(frames, frame_lengths, self.segment)  # (A, S, size, W)
        places = torch.arange(pieces.shape[1] * self.segment, device=frames.device)
        held = (places < frame_lengths[:, None]).unflatten(1, (-1, self.segment))  # (A, S, size)
        there = torch.arange(pieces.shape[1], device=frames.device) < counts[:, None]
        return pieces[there], held[there], there

    def tokens(self, heard: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """heard: (R, Q, width) -> tokens (A, S * Q, D), lengths (A,)."""
        projected = self.projection(heard)
        tokens = projected.new_zeros(*there.shape, *projected.shape[1:])
        tokens[there] = projected
        return tokens.flatten(1, 2), there.sum(1) * self.num_queries


class QFormerConnector(Queries):
    """A Q-Former over short windows (SALMONN, arXiv 2310.13289, section 3.1)."""

    def __init__(
        self,
        shape: Shape,
        segment_s: float = 0.333333,
        num_queries: int = 1,
        width: int = 768,
        layers: int = 2,
        heads: int = 12,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(shape, segment_s, num_queries, width)
        self.norm = nn.LayerNorm(shape.frame_width)
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=4 * width,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                cross_attention_frequency=1,
                encoder_hidden_size=shape.frame_width,
            )
        )

    def forward(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (A, T, W) -> tokens (A, windows * queries, D)."""
        rows, held, there = self.segments(self.norm(frames), frame_lengths)
        heard = self.qformer(
            query_embeds=self.queries.expand(len(rows), -1, -1),
            encoder_hidden_states=rows,
            encoder_attention_mask=held.long(),
        ).last_hidden_state
        return self.tokens(heard, there)


class PerceiverConnector(Queries):
    """A resampler: queries read frames and themselves (Flamingo, arXiv 2204.14198, section 3.1)."""

    def __init__(
        self,
        shape: Shape,
        segment_s: float = 10.0,
        num_queries: int = 64,
        width: int = 768,
        layers: int = 2,
        heads: int = 8,
    ) -> None:
        super().__init__(shape, segment_s, num_queries, width)
        positive(layers=layers, heads=heads)
        self.norm = nn.LayerNorm(shape.frame_width)
        self.read = nn.Linear(shape.frame_width, width)
        self.places = nn.Parameter(torch.randn(1, self.segment, width) * 0.02)
        self.blocks = nn.ModuleList(_Resampling(width, heads) for _ in range(layers))

    def forward(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (A, T, W) -> tokens (A, stretches * queries, D)."""
        rows, held, there = self.segments(self.norm(frames), frame_lengths)
        heard = self.read(rows) + self.places
        queries = self.queries.expand(len(rows), -1, -1)
        for block in self.blocks:
            queries = block(queries, heard, held)
        return self.tokens(queries, there)


class _Resampling(nn.Module):
    """Cross-attention to the frames and the queries, and a feed-forward layer, both added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_queries, self.norm_frames = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.inner = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, queries: Tensor, frames: Tensor, held: Tensor) -> Tensor:
        """queries: (R, Q, H), frames: (R, T, H), held: (R, T) -> (R, Q, H)."""
        asking = self.norm_queries(queries)
        heard = torch.cat([self.norm_frames(frames), asking], 1)
        unseen = torch.cat([~held, held.new_zeros(asking.shape[:2])], 1)
        queries = (
            queries + self.attention(asking, heard, heard, key_padding_mask=unseen, need_weights=False)[0]
        )
        return queries + self.inner(queries)
