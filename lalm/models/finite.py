"""NaN and infinite logits end an answer with an error that names the tensor they come from."""

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from lalm.errors import LalmError


class NonFiniteError(LalmError, ArithmeticError):
    """A model computes NaN or infinity; the text names the first tensor that holds some."""


def check_finite(logits: Tensor, model: nn.Module) -> None:
    """logits: (..., V). Raises NonFiniteError unless all are finite."""
    if logits.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(logits))).all()):  # NaN is both
        raise non_finite(model)


def non_finite(model: nn.Module) -> NonFiniteError:
    """What to say of a model whose logits are not finite."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        count = int((~torch.isfinite(tensor)).sum())
        if count:
            return NonFiniteError(
                f"the model computes NaN: {count} of the {tensor.numel()} values of its tensor '{name}' are "
                "NaN or infinite. The file is damaged or training diverged: take another copy or checkpoint"
            )
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return NonFiniteError(
        "the model computes NaN though all of its weights are finite: its numbers leave the range of "
        f"{dtype}, or the audio holds NaN"
    )


class FiniteScores(LogitsProcessor):
    """For transformers' ``generate``, first in its list: the check of every step."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: (B, V) -> the same."""
        check_finite(scores, self._model)
        return scores
