"""Connectors that make one token of each group of neighbouring frames, without looking further."""

from typing import Any

import torch
from torch import Tensor, nn

from lalm.models.connectors.contract import Connector, Shape, grouped, positive


class Stacking(Connector):
    """Groups of ``size`` frames, the last one filled up with zeros: ceil(frames / size) tokens."""

    size_name = "stack"  # which option says how many frames a group has; absent: 1

    @classmethod
    def num_tokens(cls, num_frames: int, frames_per_second: float, **options: Any) -> int:
        """One token a group."""
        return -(-num_frames // cls._size(options))

    @classmethod
    def groups(cls, frames_per_second: float, **options: Any) -> tuple[int, int, int]:
        """Side by side."""
        return cls._size(options), cls._size(options), 1

    @classmethod
    def _size(cls, options: dict[str, Any]) -> int:
        return int((cls.options() | options).get(cls.size_name, 1))


class LinearConnector(Stacking):
    """One linear map of each frame (LLaVA, arXiv 2304.08485, section 4.1)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.linear = nn.Linear(shape.frame_width, shape.token_width)

    def forward(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (A, T, W) -> tokens (A, T, D)."""
        return self.linear(frames), frame_lengths


class MLPConnector(Stacking):
    """``stack`` frames joined, linear, ReLU, linear (AC/DC, arXiv 2506.10312, section 3.1.2)."""

    def __init__(self, shape: Shape, stack: int = 5, hidden: int = 2048, dropout: float = 0.0) -> None:
        super().__init__(shape)
        positive(stack=stack, hidden=hidden)
        self.stack = stack
        self.linear_1 = nn.Linear(stack * shape.frame_width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.linear_2 = nn.Linear(hidden, shape.token_width)

    def forward(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (A, T, W) -> tokens (A, ceil(T / stack), D)."""
        groups, lengths = grouped(frames, frame_lengths, self.stack)  # (A, K, stack, W)
        return self.linear_2(self.dropout(torch.relu(self.linear_1(groups.flatten(2))))), lengths


class PoolingConnector(Stacking):
    """Mean of ``stack`` frames and one linear map (Qwen2-Audio, arXiv 2407.10759, section 2)."""

    def __init__(self, shape: Shape, stack: int = 2) -> None:
        super().__init__(shape)
        positive(stack=stack)
        self.stack = stack
        self.linear = nn.Linear(shape.frame_width, shape.token_width)

    def forward(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (A, T, W) -> tokens (A, ceil(T / stack), D); a last group is the mean of what it has."""
        groups, lengths = grouped(frames, frame_lengths, self.stack)  # (A, K, stack, W)
        starts = torch.arange(groups.shape[1], device=frames.device) * self.stack
        held = (frame_lengths[:, None] - starts).clamp(1, self.stack)  # (A, K)
        return self.linear(groups.sum(2) / held[..., None]), lengths


class SwiGLUConnector(Stacking):
    """``stack`` frames joined, RMSNorm, SwiGLU, RMSNorm, linear: the form of Ultravox v0.5's projector."""

    def __init__(self, shape: Shape, stack: int = 8, hidden: int = 2048) -> None:
        super().__init__(shape)
        positive(stack=stack, hidden=hidden)
        self.stack = stack
        self.norm_in = nn.RMSNorm(stack * shape.frame_width, eps=1e-6)
        self.gate_and_value = nn.Linear(stack * shape.frame_width, 2 * hidden, bias=False)
        self.norm_middle = nn.RMSNorm(hidden, eps=1e-6)
        self.linear = nn.Linear(hidden, shape.token_width, bias=False)

    def forward(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (A, T, W) -> tokens (A, ceil(T / stack), D)."""
        groups, lengths = grouped(frames, frame_lengths, self.stack)
        value, gate = self.gate_and_value(self.norm_in(groups.flatten(2))).chunk(2, dim=-1)
        return self.linear(self.norm_middle(nn.functional.silu(gate) * value)), lengths
