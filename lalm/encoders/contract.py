"""What every encoder offers, and what those that read 16 x 16 patches of a spectrogram share.

An encoder takes waveforms and gives frames: ``encoder(audio, audio_lengths) -> frames, frame_lengths``. Its
config knows the ``width`` of a frame, ``frames_per_second`` and, exactly, ``num_frames(num_samples)``.
"""

from typing import TYPE_CHECKING, Any

from torch import nn
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

    A subclass has ``hidden_size``, ``patch_size`` and ``num_mel_bins``.
    """

    if TYPE_CHECKING:  # transformers takes a class's annotations for fields that every config must be given
        hidden_size: int
        patch_size: int
        num_mel_bins: int

    @property
    def width(self) -> int:
        """Width of a frame."""
        return self.hidden_size

    @property
    def num_bands(self) -> int:
        """Patches of one time step: 128 mel bins / 16 = 8."""
        return self.num_mel_bins // self.patch_size

    @property
    def frames_per_second(self) -> float:
        """8 bands every 160 ms = 50; a CLS token does not count."""
        return self.num_bands * SAMPLE_RATE / (HOP * self.patch_size)


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
