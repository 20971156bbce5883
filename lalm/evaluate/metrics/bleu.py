"""Corpus BLEU with sacreBLEU's tokenizers and counts, as sums over items so that it can be resampled."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lalm.evaluate.lacking import Lacking
from lalm.evaluate.metrics.intervals import Array, Measured, additive
from lalm.evaluate.metrics.normalise import language_code

ORDER = 4
FLORES = "sacrebleu_tokenizer_spm.model"  # of FLORES-101 (arXiv 2106.03193), as sacreBLEU names it
TOKENISERS = {"zh": "zh", "yue": "zh", "ja": "ja-mecab"}


def tokeniser_for(language: str) -> str:
    """sacreBLEU's name: "zh", "ja-mecab" or "13a"."""
    return TOKENISERS.get(language_code(language), "13a")


def corpus_bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokeniser: str, *, smooth: bool = True
) -> Measured:
    """BLEU-4 from 0 to 100. ``smooth``: sacreBLEU's default for orders without any match, else 0."""
    scorer = _scorer(tokeniser)
    rows = []
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        counted = scorer.sentence_score(hypothesis, list(texts))
        rows.append([*counted.counts, *counted.totals, counted.sys_len, counted.ref_len])
    return additive(rows, lambda sums: _finish(sums, smooth))


def flores_bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], folder: Path | None
) -> Measured:
    """BLEU-4 from 0 to 100 over FLORES-101's pieces of words: sacreBLEU's ``--tokenize flores101``.

    The SentencePiece model is that of ``folder``, or the one which sacreBLEU has fetched before. Raises
    Lacking where it is in neither; nothing is fetched here.
    """
    own: Any = import_module("sacrebleu.tokenizers.tokenizer_spm")
    place = (folder or Path(own.SACREBLEU_DIR) / "models") / FLORES
    if not place.is_file():
        raise Lacking(
            f"it needs FLORES-101's {FLORES}: say --resource flores101=FOLDER, or let sacreBLEU fetch it once"
            " (sacrebleu --tokenize flores101)"
        )
    pieces = _pieces(str(place))
    texts = [[" ".join(pieces(text)) for text in right] for right in references]
    return corpus_bleu([" ".join(pieces(text)) for text in hypotheses], texts, "none")


@cache
def _pieces(model: str) -> Callable[[str], list[str]]:
    try:
        import sentencepiece
    except ImportError:
        raise Lacking("it needs sentencepiece, which is not installed: pip install sentencepiece") from None
    processor = sentencepiece.SentencePieceProcessor()
    processor.Load(model)
    encode: Callable[[str], list[str]] = processor.EncodeAsPieces
    return encode


def _finish(sums: Array, smooth: bool) -> Array:
    """sums: (..., 10) matches and totals of each order, lengths of hypotheses and references."""
    matches, totals = sums[..., :ORDER], sums[..., ORDER : 2 * ORDER]
    possible = (totals > 0).all(-1) & matches.any(-1)
    ours, theirs = sums[..., -2], sums[..., -1]
    if smooth:  # an order without a match counts as 1/2, the next such one as 1/4, of one match
        without = (matches == 0) & (totals > 0)
        matches = np.where(without, 0.5 ** np.cumsum(without, -1), matches)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(matches / totals).mean(-1)
        brevity = np.where(ours < theirs, 1 - theirs / ours, 0.0)
        score = 100 * np.exp(logs + brevity)
    return np.where(possible & np.isfinite(score), score, 0.0)


@cache
def _scorer(tokeniser: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokeniser, effective_order=True)  # of no effect on the counts
