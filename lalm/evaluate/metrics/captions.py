"""Caption metrics: the reference tools' tokens, ROUGE-L, CIDEr-D, and a substitute for SPICE.

Scores are those of the COCO caption tools (checked against them in tests/evaluate/test_captions.py): one
score an item, the metric is their mean. CIDEr-D's word weights come from the references of all items.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeAlias

import numpy as np

from lalm.data.english import stems
from lalm.evaluate.metrics.bleu import corpus_bleu
from lalm.evaluate.metrics.intervals import Measured, mean_of
from lalm.evaluate.metrics.treebank_tokens import treebank_tokens

ROUGE_BETA = 1.2
CIDER_ORDER = 4
CIDER_SIGMA = 6.0  # of the length penalty, in words

Grams: TypeAlias = Counter[tuple[str, ...]]


@cache
def caption_tokens(text: str) -> list[str]:
    """A caption's words as the COCO tools see them: Penn Treebank tokens, lower case, no punctuation."""
    return treebank_tokens(text)


def caption_bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Measured:
    """BLEU-4 from 0 to 100 over caption tokens, not smoothed, nearest reference length."""
    return corpus_bleu(
        [" ".join(caption_tokens(text)) for text in hypotheses],
        [[" ".join(caption_tokens(text)) for text in texts] for texts in references],
        "none",
        smooth=False,
    )


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Measured:
    """Longest common subsequence: best precision and best recall over the references, F with beta 1.2."""
    scores = [_rouge_l(h, texts) for h, texts in zip(hypotheses, references, strict=True)]
    return mean_of(scores, proportion=False)


def _rouge_l(hypothesis: str, references: Sequence[str]) -> float:
    said = caption_tokens(hypothesis)
    precision = recall = 0.0
    for reference in references:
        words = caption_tokens(reference)
        if said and words:
            common = _common(said, words)
            precision, recall = max(precision, common / len(said)), max(recall, common / len(words))
    if not precision or not recall:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        above = 0
        for j, other in enumerate(b, 1):
            above, row[j] = row[j], above + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def cider_d(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Measured:
    """CIDEr-D, 0 to 10. Word weights stay those of the whole set when items are resampled."""
    refs = [[_grams(text) for text in texts] for texts in references]
    found: Grams = Counter(gram for own in refs for gram in set().union(*own))
    log_items = math.log(len(refs))
    weights = {gram: log_items - math.log(count) for gram, count in found.items()}
    scores = []
    for hypothesis, own in zip(hypotheses, refs, strict=True):
        said = _vector(_grams(hypothesis), weights, log_items)
        scores.append(sum(_similarity(said, _vector(ref, weights, log_items)) for ref in own) / len(own))
    return mean_of(scores, proportion=False)


def _grams(text: str) -> Grams:
    words = caption_tokens(text)
    return Counter(
        tuple(words[i : i + n]) for n in range(1, CIDER_ORDER + 1) for i in range(len(words) - n + 1)
    )


class _Vector:
    """Weighted n-grams by order, their norms, and the length that CIDEr compares (in word pairs)."""

    def __init__(self, parts: list[dict[tuple[str, ...], float]], length: int) -> None:
        self.parts = parts
        self.norms = [math.sqrt(sum(v * v for v in part.values())) for part in parts]
        self.length = length


def _vector(grams: Grams, weights: Mapping[tuple[str, ...], float], unseen: float) -> _Vector:
    parts: list[dict[tuple[str, ...], float]] = [{} for _ in range(CIDER_ORDER)]
    length = 0
    for gram, count in grams.items():
        parts[len(gram) - 1][gram] = count * weights.get(gram, unseen)
        length += count if len(gram) == 2 else 0
    return _Vector(parts, length)


def _similarity(said: _Vector, reference: _Vector) -> float:
    penalty = math.exp(-((said.length - reference.length) ** 2) / (2 * CIDER_SIGMA**2))
    total = 0.0
    for mine, theirs, a, b in zip(said.parts, reference.parts, said.norms, reference.norms, strict=True):
        if a and b:
            shared = sum(min(v, theirs[gram]) * theirs[gram] for gram, v in mine.items() if gram in theirs)
            total += shared / (a * b)
    return 10 * penalty * total / CIDER_ORDER


def content_f1(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Measured:
    """A stand-in for SPICE that needs no parser: F1 of the caption's content words (stems) against those of
    all references together. It is not SPICE and its numbers are not comparable with SPICE's."""
    scores = []
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        said, wanted = stems(hypothesis), set().union(*(stems(text) for text in texts))
        shared = len(said & wanted)
        scores.append(2 * shared / (len(said) + len(wanted)) if shared else 0.0)
    return mean_of(np.asarray(scores), proportion=False)
