"""A connector that shortens the sequence by strided convolutions before a linear map."""

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from lalm.models.connectors.contract import Connector, Shape, inside, positive


class ConvolutionalConnector(Connector):
    """``convolutions`` of width 3 and stride 2 with GELU, then linear (SLM, arXiv 2310.00230, section 3).

    Each halves the frames and counts a last odd one: two make ceil(ceil(frames / 2) / 2) tokens.
    """

    def __init__(self, shape: Shape, convolutions: int = 2, hidden: int = 1024) -> None:
        super().__init__(shape)
        positive(convolutions=convolutions, hidden=hidden)
        widths = [shape.frame_width, *[hidden] * convolutions]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, kernel_size=3, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.linear = nn.Linear(hidden, shape.token_width)

    @classmethod
    def num_tokens(cls, num_frames: int, frames_per_second: float, **options: Any) -> int:
        """Halved once a convolution."""
        for _ in range((cls.options() | options)["convolutions"]):
            num_frames = -(-num_frames // 2)
        return num_frames

    def forward(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (A, T, W) -> tokens (A, K, D)."""
        for convolution in self.convolutions:
            frames = frames * inside(frames, frame_lengths)[..., None]  # a bias may have filled the padding
            frames = nn.functional.gelu(convolution(frames.transpose(1, 2))).transpose(1, 2)
            frame_lengths = -(-frame_lengths // 2)
        return self.linear(frames), frame_lengths
