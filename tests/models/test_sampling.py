"""Choosing a token: each rule is the one that transformers has, and no row knows of another."""

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lalm.models.sampling import RowRules, TokenRules, draw

PROMPT, SAID = [5, 6, 6, 9, 30], [2, 7, 2, 8, 2, 7, 2]  # 30 lies outside the vocabulary, as a slot may
SIZE = 12


def rules(**given) -> SimpleNamespace:
    return SimpleNamespace(
        **({"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_tokens": 0} | given)
    )


def drawing(**given) -> SimpleNamespace:
    return SimpleNamespace(**({"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0} | given))


@pytest.mark.parametrize(
    ("given", "theirs"),
    [
        ({}, None),
        ({"repetition_penalty": 1.3}, RepetitionPenaltyLogitsProcessor(1.3)),
        ({"repetition_penalty": 0.7}, RepetitionPenaltyLogitsProcessor(0.7)),
        ({"no_repeat_ngram_size": 1}, NoRepeatNGramLogitsProcessor(1)),
        ({"no_repeat_ngram_size": 2}, NoRepeatNGramLogitsProcessor(2)),
        ({"no_repeat_ngram_size": 3}, NoRepeatNGramLogitsProcessor(3)),
        ({"no_repeat_ngram_size": 8}, NoRepeatNGramLogitsProcessor(8)),
        ({"min_tokens": 8}, MinNewTokensLengthLogitsProcessor(0, 8, [3, 4], device="cpu")),
        ({"min_tokens": 7}, MinNewTokensLengthLogitsProcessor(0, 7, [3, 4], device="cpu")),
    ],
)
def test_the_rules_are_those_of_transformers(given, theirs):
    scores = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    before = [token for token in PROMPT if token < SIZE] if "repetition_penalty" in given else []
    wanted = theirs(torch.tensor([before + SAID]), scores[None].clone())[0] if theirs else scores
    mine = TokenRules(torch.tensor(PROMPT), SIZE, [3, 4, 99], rules(**given))
    kept = scores.clone()
    torch.testing.assert_close(mine.apply(scores, SAID), wanted)
    torch.testing.assert_close(scores, kept)
    beside = TokenRules(torch.tensor([1]), SIZE, [3], rules(**given))
    batch = RowRules([beside, mine])(torch.tensor([SAID[::-1], SAID]), scores.repeat(2, 1))
    torch.testing.assert_close(batch[1], wanted)
    beams = RowRules([mine])(torch.tensor([SAID, SAID[::-1]]), scores.repeat(2, 1))
    torch.testing.assert_close(beams[0], wanted)


@pytest.mark.parametrize(
    ("given", "theirs"),
    [
        ({"top_k": 3}, [TopKLogitsWarper(3)]),
        ({"top_k": -1}, []),
        ({"top_k": 99}, []),
        ({"min_p": 0.3}, [MinPLogitsWarper(0.3)]),
        ({"top_p": 0.6}, [TopPLogitsWarper(0.6)]),
        (
            {"top_k": 4, "top_p": 0.5, "min_p": 0.05},
            [MinPLogitsWarper(0.05), TopKLogitsWarper(4), TopPLogitsWarper(0.5)],
        ),
    ],
)
def test_draws_come_from_the_tokens_that_transformers_leaves(given, theirs):
    """All of these and no others, in 600 draws of 12 tokens."""
    logits = torch.randn(1, SIZE, generator=torch.Generator().manual_seed(1))
    left = logits
    for warper in theirs:
        left = warper(torch.empty(1, 0, dtype=torch.long), left)
    generators = [torch.Generator().manual_seed(seed) for seed in range(600)]
    drawn = draw(logits.repeat(600, 1), generators, drawing(**given))
    assert set(drawn.tolist()) == {i for i, score in enumerate(left[0].tolist()) if score > -torch.inf}


def test_a_temperature_too_small_to_divide_by_is_none():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert draw(logits, [torch.Generator()], drawing(temperature=1e-40)).tolist() == [1]
