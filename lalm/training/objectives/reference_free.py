"""Preference losses that need no reference model: SimPO (arXiv 2405.14734) and ORPO (arXiv 2403.07691).

Both compare the mean log-probability of an answer's tokens, so that length alone wins nothing:

    SimPO  -log sigmoid(beta * (p(y_w) - p(y_l)) - margin)             p: mean log-probability
    ORPO   -p(y_w) - beta * log sigmoid(o(y_w) - o(y_l))               o: log odds, p - log(1 - exp p)
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def simpo_loss(
    policy: Tensor, lengths: Tensor, beta: float, margin: float, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mean loss and the pairs' margins (n,). policy: (2n,) log-probabilities of answers, chosen first;
    lengths: (2n,) their tokens. ``label_smoothing``: the share of pairs taken to be the wrong way round."""
    chosen, rejected = (policy / lengths).chunk(2)
    margins = beta * (chosen - rejected) - margin
    losses = -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)
    return losses.mean(), margins


def orpo_loss(policy: Tensor, lengths: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Mean loss of the odds, without the chosen answers' own, and the margins (n,); as ``simpo_loss``."""
    mean = (policy / lengths).clamp(max=-1e-6)
    chosen, rejected = (mean - torch.log1p(-mean.exp())).chunk(2)
    margins = beta * logsigmoid(chosen - rejected)
    return -margins.mean(), chosen.detach() - rejected.detach()
