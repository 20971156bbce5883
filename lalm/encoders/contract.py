"""What every encoder offers, and what those that read 16 x 16 patches of a spectrogram share.

An encoder takes waveforms and gives frames: ``encoder(audio, audio_lengths) -> frames, frame_lengths``. Its
config knows the ``width`` of a frame, ``frames_per_second`` and, exactly, ``num_frames(num_samples)``.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from lalm.audio.features import HOP, SAMPLE_RATE

TOKENS_AT_ONCE = 16_384  # of one pass, padding included: bounds the memory of long clips and big batches


class Encoder(nn.Module):
    """A module whose config tells the shape of its frames."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @property
    def width(self) -> int:
        """Width of a frame."""
        return int(self.config.width)

    @property
    def frames_per_second(self) -> float:
        """Frames of a second of audio."""
        return float(self.config.frames_per_second)

    def num_frames(self, num_samples: int) -> int:
        """Frames of one clip of ``num_samples`` at 16 kHz."""
        return int(self.config.num_frames(num_samples))


class PatchConfig(PreTrainedConfig):
    """The config of an encoder whose tokens are square patches of a mel spectrogram, time-major.

    A subclass has ``hidden_size``, ``num_hidden_layers``, ``patch_size``, ``num_mel_bins`` and ``layers``:
    those whose output stands side by side in a frame, None for the last alone.
    """

    if TYPE_CHECKING:  # transformers takes a class's annotations for fields that every config must be given
        hidden_size: int
        layers: list[int] | None
        num_hidden_layers: int
        patch_size: int
        num_mel_bins: int

    @property
    def width(self) -> int:
        """Width of a frame."""
        return len(self.given_layers) * self.hidden_size

    @property
    def given_layers(self) -> list[int]:
        """Numbers of the layers that stand in a frame."""
        return self.layers or [self.num_hidden_layers]

    @property
    def num_bands(self) -> int:
        """Patches of one time step: 128 mel bins / 16 = 8."""
        return self.num_mel_bins // self.patch_size

    @property
    def frames_per_second(self) -> float:
        """8 bands every 160 ms = 50; a CLS token does not count."""
        return self.num_bands * SAMPLE_RATE / (HOP * self.patch_size)


def chosen_layers(layers: list[int] | str | None, depth: int) -> list[int] | None:
    """The layers that a recipe asks for: numbers from 0 (before the first) to ``depth``, or "all"; or None.

    Raises ValueError for others.
    """
    every = list(range(depth + 1))
    if layers == "all":
        return every
    if layers is None:
        return None
    if isinstance(layers, str) or not layers or not set(layers) <= set(every):
        raise ValueError(f"layers: this encoder has layers 0 to {depth}, or 'all', not {layers}")
    return list(layers)


def side_by_side(blocks: nn.ModuleList, x: Tensor, layers: list[int], *given: Any) -> Tensor:
    """x: (A, T, D) through the blocks -> the hidden states of ``layers`` side by side, (A, T, layers * D)."""
    states = {0: x}
    for number, block in enumerate(blocks[: max(layers)], 1):
        x = block(x, *given)
        if number in layers:
            states[number] = x
    return torch.cat([states[number] for number in layers], dim=2)


def passes(rows: list[tuple[int, int, int]], longest_pass: int) -> list[list[tuple[int, int, int]]]:
    """(clip, start, stop) rows by falling length, in groups whose padded size is at most ``longest_pass``."""
    groups: list[list[tuple[int, int, int]]] = []
    longest = 0
    for row in sorted(rows, key=lambda r: r[1] - r[2]):
        if not groups or (len(groups[-1]) + 1) * longest > longest_pass:
            groups.append([])
            longest = row[2] - row[1]
        groups[-1].append(row)
    return groups
