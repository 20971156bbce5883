"""An exponential moving average of what trains, which is validated and left as the model.

    average <- d * average + (1 - d) * weights,   d = min(decay, (1 + step) / (10 + step))

after each optimizer step; the smaller d of the first steps forgets the random start. The weights that train
are not changed by it. Checkpoints hold the average beside them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FILE = "average.safetensors"


class WeightAverage:
    """The average of a model's trained parameters, float32, on their device."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._decay = decay
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after optimizer step ``step`` (from 1) in."""
        if not self._average:
            self._average = {name: p.detach().clone() for name, p in self._trained.items()}
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._trained.items():
            self._average[name].lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The average in the place of the weights; they come back at the end."""
        if not self._average:
            yield
            return
        held = {name: p.detach().clone() for name, p in self._trained.items()}
        self._copy(self._average)
        try:
            yield
        finally:
            self._copy(held)

    @torch.no_grad()
    def _copy(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self._trained.items():
            parameter.copy_(tensors[name])

    def save(self, folder: Path) -> None:
        """Write the average into a checkpoint."""
        save_file({name: tensor.cpu().contiguous() for name, tensor in self._average.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote."""
        found = load_file(folder / FILE)
        self._average = {name: found[name].to(p.device) for name, p in self._trained.items()}
