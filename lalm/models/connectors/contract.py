"""What every connector offers: frames of an encoder in, tokens as wide as the LLM's embeddings out."""

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """What a connector stands between: width and rate of the frames, width of the tokens."""

    frame_width: int
    token_width: int
    frames_per_second: float


class Connector(nn.Module):
    """A subclass takes a ``Shape`` and its options by name, and defines ``num_tokens`` and ``forward``.

    ``forward(frames (A, T, W), frame_lengths (A,)) -> tokens (A, K, D), lengths (A,)``; what follows a clip's
    frames must not change its tokens. ``num_queries`` is how many queries a layer mix may weigh apart.
    """

    hears_instructions: ClassVar[bool] = False  # forward takes instruction_ids and instruction_mask too

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    @classmethod
    def num_tokens(cls, num_frames: int, frames_per_second: float, **options: Any) -> int:
        """Tokens of a clip of so many frames, with the options that ``__init__`` gets."""
        raise TypeError(f"{cls.__name__} is no connector: it does not define num_tokens")

    @classmethod
    def groups(cls, frames_per_second: float, **options: Any) -> tuple[int, int, int] | None:
        """Frames of a group, frames from one to the next, tokens of each; None if tokens see all frames."""
        return None

    @property
    def num_queries(self) -> int:
        """1 for connectors without queries."""
        return 1

    @classmethod
    def options(cls) -> dict[str, Any]:
        """The connector's options and their defaults. An own connector need not say anything for this."""
        parameters = list(inspect.signature(cls.__init__).parameters.values())[2:]
        return {one.name: one.default for one in parameters}


def inside(frames: Tensor, lengths: Tensor) -> Tensor:
    """True where a clip has a frame: (A, T)."""
    return torch.arange(frames.shape[1], device=frames.device)[None] < lengths[:, None]


def grouped(frames: Tensor, lengths: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """frames: (A, T, W) -> groups (A, ceil(T / size), size, W), zero behind a clip, and how many it has."""
    frames = frames * inside(frames, lengths)[..., None]
    frames = nn.functional.pad(frames, (0, 0, 0, -frames.shape[1] % size))
    return frames.unflatten(1, (-1, size)), -(-lengths // size)


def positive(**numbers: float) -> None:
    """Raise ValueError for an option that is not above 0."""
    for name, number in numbers.items():
        if number <= 0:
            raise ValueError(f"connector_options: {name} must be above 0, not {number}")
