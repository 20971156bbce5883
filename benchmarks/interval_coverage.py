"""Do the 95 % intervals cover? Draws many test sets from worlds whose true score is known.

    python benchmarks/interval_coverage.py [--trials 600] [--out results/interval_coverage.json]

Accuracy of clustered questions and near 1, word error rates (also with rare hallucinations), corpus BLEU,
CIDEr-D, skewed judge scores, macro-F1 with a rare class, and paired differences: of accuracies, of accuracies
near 1 that rarely differ, of error rates, of BLEU and of judge scores. The truth is the metric on many more
recordings of the same world.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lalm.evaluate.metrics.bleu import _finish
from lalm.evaluate.metrics.captions import cider_d
from lalm.evaluate.metrics.classification import macro_f1
from lalm.evaluate.metrics.intervals import Array, Measured, additive, difference, interval, mean_of, rate

Random = np.random.Generator
World = Callable[[Random, int], tuple[Measured, list[str]]]
Pair = Callable[[Random, int], tuple[Measured, Measured, list[str]]]
TRUTH = 200_000
FEWER = {"macro_f1": 50_000}  # where 200,000 recordings would take too long
SETS = 300  # of one size, whose mean is CIDEr-D's truth: its word weights depend on how many items there are


def names_of(recordings: int, questions: int = 1) -> list[str]:
    """The recording of each item, ``questions`` of one recording in a row."""
    return [str(i) for i in range(recordings) for _ in range(questions)]


def right_of(rng: Random, recordings: int, a: float, b: float) -> Array:
    """Three questions a recording that share its difficulty, drawn from a beta distribution."""
    return (rng.random((recordings, 3)) < rng.beta(a, b, recordings)[:, None]).astype(float)


def accuracy(rng: Random, recordings: int) -> tuple[Measured, list[str]]:
    """About 70 % right, three questions a recording."""
    return mean_of(right_of(rng, recordings, 2.8, 1.2).ravel()), names_of(recordings, 3)


def accuracy_near_1(rng: Random, recordings: int) -> tuple[Measured, list[str]]:
    """97 % right, three questions a recording."""
    right = right_of(rng, recordings, 4.85, 0.15).ravel()
    return mean_of(right, proportion=True), names_of(recordings, 3)


def error_table(rng: Random, recordings: int, hallucinate: float = 0.0, better: float = 1.0) -> Array:
    """Errors and words: long-tailed lengths, speakers that differ, and rarely five times the words."""
    length = 1 + rng.geometric(1 / 18, recordings)
    wrong = rng.binomial(length, rng.beta(1.0, 12.0, recordings) * better)
    wild = rng.random(recordings) < hallucinate
    return np.stack([np.where(wild, 5 * length, wrong), length], 1)


def word_errors(rng: Random, recordings: int) -> tuple[Measured, list[str]]:
    """Error rates of unequal recordings."""
    return rate(error_table(rng, recordings)), names_of(recordings)


def hallucinations(rng: Random, recordings: int) -> tuple[Measured, list[str]]:
    """The same where one recording in fifty is answered with five times its words, all wrong."""
    return rate(error_table(rng, recordings, 0.02)), names_of(recordings)


def bleu_rows(rng: Random, quality: Array, length: Array) -> Array:
    """Counts as translations of unequal quality give them."""
    totals = np.stack([length - n for n in range(4)], 1)
    matches = rng.binomial(totals, quality[:, None] ** np.arange(1, 5))
    reference = np.maximum(length + rng.integers(-2, 4, len(length)), 1)
    return np.concatenate([matches, totals, length[:, None], reference[:, None]], 1)


def bleu(rng: Random, recordings: int) -> tuple[Measured, list[str]]:
    """Corpus BLEU."""
    length = 8 + rng.geometric(1 / 10, recordings)
    rows = bleu_rows(rng, rng.beta(4, 3, recordings), length)
    return additive(rows, lambda sums: _finish(sums, True)), names_of(recordings)


def cider(rng: Random, recordings: int) -> tuple[Measured, list[str]]:
    """Captions of words drawn by rank, five references each, answers that keep some of their words."""
    hypotheses, references = list[str](), list[list[str]]()
    for _ in range(recordings):
        words = [f"w{min(int(n), 400)}" for n in rng.zipf(1.5, 9)]
        keep = rng.beta(2, 2)

        def say(share: float, words: list[str] = words) -> str:
            new = [f"w{min(int(n), 400)}" for n in rng.zipf(1.5, len(words))]
            return " ".join(w if rng.random() < share else o for w, o in zip(words, new, strict=True))

        references.append([say(0.7) for _ in range(5)])
        hypotheses.append(say(float(keep)))
    return cider_d(hypotheses, references), names_of(recordings)


def judge(rng: Random, recordings: int) -> tuple[Measured, list[str]]:
    """Scores of 0 to 5, most of them 0."""
    return mean_of(judged(rng, recordings), proportion=False), names_of(recordings)


def judged(rng: Random, recordings: int) -> Array:
    """Scores of 0 to 100 in steps of 20."""
    return rng.choice(6, recordings, p=[0.6, 0.12, 0.1, 0.08, 0.06, 0.04]) * 20.0


def rare_class(rng: Random, recordings: int) -> tuple[Measured, list[str]]:
    """Macro-F1 of four classes, the last of 3 % of the items."""
    wanted = rng.choice(4, recordings, p=[0.4, 0.35, 0.22, 0.03])
    said = np.where(rng.random(recordings) < 0.75, wanted, rng.choice(4, recordings))
    return macro_f1([str(n) for n in said], [str(n) for n in wanted]), names_of(recordings)


def two_accuracies(rng: Random, recordings: int) -> tuple[Measured, Measured, list[str]]:
    """Two systems on the same clustered questions, the second 5 points worse."""
    ease: Array = rng.beta(2.8, 1.2, recordings) * 0.95 + 0.05
    mine = rng.random((recordings, 3)) < ease[:, None]
    other = rng.random((recordings, 3)) < ease[:, None] - 0.05
    return mean_of(mine.ravel() * 1.0), mean_of(other.ravel() * 1.0), names_of(recordings, 3)


def two_near_1(rng: Random, recordings: int) -> tuple[Measured, Measured, list[str]]:
    """Two systems of 98 and 96 % that differ on 3 % of the items."""
    kind = rng.random(recordings)
    mine, other = (kind >= 0.02) * 1.0, ((kind >= 0.015) & (kind < 0.02) | (kind >= 0.04)) * 1.0
    return mean_of(mine, proportion=True), mean_of(other, proportion=True), names_of(recordings)


def two_rates(rng: Random, recordings: int) -> tuple[Measured, Measured, list[str]]:
    """Two transcribers of the same recordings, the second a fifth better."""
    length = 1 + rng.geometric(1 / 18, recordings)
    hard = rng.beta(1.0, 12.0, recordings)
    mine, other = (rate(np.stack([rng.binomial(length, hard * more), length], 1)) for more in (1.0, 0.8))
    return mine, other, names_of(recordings)


def two_bleus(rng: Random, recordings: int) -> tuple[Measured, Measured, list[str]]:
    """Two translators of the same recordings, the second a tenth worse."""
    length, quality = 8 + rng.geometric(1 / 10, recordings), rng.beta(4, 3, recordings)
    mine, other = (
        additive(bleu_rows(rng, quality * less, length), lambda sums: _finish(sums, True))
        for less in (1.0, 0.9)
    )
    return mine, other, names_of(recordings)


def two_judged(rng: Random, recordings: int) -> tuple[Measured, Measured, list[str]]:
    """Two systems' scores, the second's one step lower in a fifth of the items."""
    mine = judged(rng, recordings)
    other = np.maximum(mine - 20.0 * (rng.random(recordings) < 0.2), 0.0)
    return mean_of(mine, proportion=False), mean_of(other, proportion=False), names_of(recordings)


WORLDS: dict[str, World] = {
    "accuracy": accuracy,
    "accuracy near 1": accuracy_near_1,
    "wer": word_errors,
    "wer, hallucinations": hallucinations,
    "bleu": bleu,
    "cider_d": cider,
    "judge": judge,
    "macro_f1": rare_class,
}
PAIRS: dict[str, Pair] = {
    "accuracy difference": two_accuracies,
    "accuracy difference near 1": two_near_1,
    "wer difference": two_rates,
    "bleu difference": two_bleus,
    "judge difference": two_judged,
}


def truth_of(name: str, size: int) -> float:
    """The metric, or the difference, on very many recordings; CIDEr-D's on very many sets of ``size``."""
    rng, recordings = np.random.default_rng(2**32), FEWER.get(name, TRUTH)
    if name == "cider_d":
        return float(np.mean([cider(rng, size)[0].value for _ in range(SETS)]))
    if name in WORLDS:
        return WORLDS[name](rng, recordings)[0].value
    mine, other, _ = PAIRS[name](rng, recordings)
    return mine.value - other.value


def covers(name: str, recordings: int, trials: int, truth: float) -> dict[str, Any]:
    """Share of test sets whose interval holds the truth, and of those that have limits at all."""
    hits = limited = 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        if name in WORLDS:
            measured, names = WORLDS[name](rng, recordings)
            found = interval(measured, names, seed=seed)
        else:
            mine, other, names = PAIRS[name](rng, recordings)
            found = difference(mine, other, names, seed=seed)
        hits += found.low <= truth <= found.high
        limited += bool(np.isfinite(found.low))
    return {"covered": round(hits / trials, 4), "with_limits": round(limited / trials, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=600)
    parser.add_argument("--recordings", type=int, nargs="+", default=[10, 20, 50, 200])
    parser.add_argument("--only", nargs="+", default=[*WORLDS, *PAIRS])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.only:
        truth = None
        for recordings in options.recordings:
            if truth is None or name == "cider_d":
                truth = truth_of(name, recordings)
            found = covers(name, recordings, options.trials, truth)
            rows.append({"metric": name, "recordings": recordings, "truth": truth, **found})
            print(f"{name:>27} {recordings:>4} recordings: {found['covered']:.3f} cover", flush=True)
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps({"trials": options.trials, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
