"""One audio of a sample on its way to the model: decoded, or as an encoder's frames."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from lalm.audio.load import SAMPLE_RATE, Account, Recording


@dataclass(frozen=True)
class Clip:
    """One decoded audio part: what was given, and the account of how it was read, if it was a recording.

    ``whole_s`` is how long it was, where only its beginning is left. ``transcript`` is what is said in it: ""
    nothing; None: nobody has written it down.
    """

    name: str
    audio: np.ndarray  # (N,) float32 16 kHz
    account: Account | None = None
    whole_s: float | None = None
    transcript: str | None = None

    @classmethod
    def of(cls, recording: Recording, transcript: str | None = None) -> "Clip":
        """A recording as a clip of its name."""
        return cls(recording.account.name, recording.audio, recording.account, transcript=transcript)

    @property
    def seconds(self) -> float:
        return len(self.audio) / SAMPLE_RATE if self.whole_s is None else self.whole_s

    def beginning(self, longest_s: float) -> "Clip":
        """The clip without what lies beyond so many seconds."""
        kept = self.audio[: round(longest_s * SAMPLE_RATE)]
        return self if len(kept) == len(self.audio) else replace(self, audio=kept, whole_s=self.seconds)


@dataclass(frozen=True)
class CachedFrames:
    """Encoder frames of one clip (T, W), in place of its audio."""

    frames: Tensor
    transcript: str | None = None


Audios: TypeAlias = Sequence[Clip | CachedFrames]  # of one sample, in reading order


def padded_waves(audio: list[Tensor]) -> dict[str, Tensor]:
    """Clips (N,) with zeros behind them: input_values (A, N) and audio_lengths (A,)."""
    values = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True)
    return {"input_values": values, "audio_lengths": torch.tensor([len(clip) for clip in audio])}
