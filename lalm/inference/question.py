"""What the engine answers: a sample with its recordings decoded, in batches of like length, by the clock."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from lalm.data.audio_inputs import Clip
from lalm.data.sample import Sample


@dataclass(frozen=True)
class Question:
    """A sample, its recordings as they are heard, and the seconds that reading them took."""

    sample: Sample
    clips: list[Clip]
    decoding_s: float

    @property
    def seconds(self) -> float:
        """Of audio."""
        return sum(clip.seconds for clip in self.clips)


class Clock(StoppingCriteria):
    """Notes when the first token came; ends generation when ``stopped`` is set."""

    def __init__(self, paced: Callable[[float], None] | None = None) -> None:
        """``paced`` is told how many seconds each step took after the first."""
        self._paced, self._last_s = paced, 0.0
        self.began = time.perf_counter()
        self.first_s = 0.0
        self.stopped = False

    def now(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self.began

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        now = self.now()
        if self._paced and self.first_s:
            self._paced(now - self._last_s)
        self.first_s, self._last_s = self.first_s or now, now
        return torch.full((len(input_ids),), self.stopped, device=input_ids.device)


def batches(
    pool: Sequence[tuple[int, Question]], most: int, most_s: float
) -> Iterator[list[tuple[int, Question]]]:
    """Neighbours of a list sorted longest first, bounded in rows and in padded seconds."""
    batch: list[tuple[int, Question]] = []
    for item in pool:
        full = len(batch) == most
        if batch and (full or (len(batch) + 1) * batch[0][1].seconds > most_s):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
