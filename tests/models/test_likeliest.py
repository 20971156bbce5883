"""The greatest logits, found block by block, are those that torch finds."""

import pytest
import torch

from lalm.models.likeliest import likeliest, nearly_tied


@pytest.mark.parametrize("size", [5, 256, 1000, 151_936])
def test_the_first_of_the_greatest_is_found(size):
    torch.manual_seed(size)
    scores = torch.randn(6, size)
    scores[1] = -torch.inf
    scores[2] = 0.0
    scores[3, -1] = 100.0
    scores[4, size // 2 :] = scores[4].max() + 1  # many, across blocks
    assert torch.equal(likeliest(scores), scores.argmax(1))


@pytest.mark.parametrize("size", [5, 256, 1000, 151_936])
@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.5])
def test_near_ties_are_those_that_are_counted(size, tolerance):
    torch.manual_seed(size)
    scores = torch.randn(40, size)
    scores[0, [0, 3]] = 9.0  # within a block
    scores[1, [1, size - 1]] = torch.tensor([9.0, 8.9])  # across blocks
    scores[2, size - 1] = 9.0
    scores[3] = -torch.inf
    scores[3, 2] = 0.0
    best = scores.amax(1, keepdim=True)
    wanted = ((scores > best - tolerance).sum(1) > 1).tolist()
    assert nearly_tied(scores, tolerance) == wanted
    assert not wanted[2] and not wanted[3] and (tolerance == 0.0 or wanted[0])
