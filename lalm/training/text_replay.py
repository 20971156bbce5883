"""Text replay: conversations without a recording among the others, so that the LLM does not forget.

Such rows are trained on as any row; what is done here is to tell their loss apart from that of rows with
audio: ``loss_text`` and ``loss_audio``, each a mean over the tokens of a batch.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lalm.data.mixture import subset
from lalm.data.readers import Samples
from lalm.data.sample import Sample
from lalm.models.loss import in_parts

LOOKED_AT = 200  # rows of a source, evenly spread
ROWS = "text_rows"  # (B,) bool of a batch: which rows have no recording


def has_text(source: Sequence[Sample]) -> bool:
    """Whether some samples have no recording, as far as ``LOOKED_AT`` of them show; of a source whose rows
    hold audio the first is looked at alone."""
    heavy = isinstance(source, Samples) and source.heavy
    return any(not sample.audios for sample in subset(source, LOOKED_AT if not heavy else 1))


def losses_apart(
    logits: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, text: Tensor, vocabulary: int
) -> Tensor:
    """Summed cross-entropy of the tokens in rows with audio, and of those in rows of text alone: (2,).

    hidden: (P, D), targets: (P,) int64, text: (P,) bool; ``logits``: (P, D) -> (P, V).
    """

    def part(states: Tensor, wanted: Tensor, alone: Tensor) -> Tensor:
        each = torch.nn.functional.cross_entropy(logits(states), wanted, reduction="none")
        return torch.stack([(each * ~alone).sum(), (each * alone).sum()])

    return torch.stack(in_parts(part, vocabulary, hidden, targets, text)).sum(0)
