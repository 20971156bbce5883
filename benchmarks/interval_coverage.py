"""Do the 95 % intervals cover? Draws many test sets from worlds whose true score is known.

    python benchmarks/interval_coverage.py [--trials 1000] [--out results/interval_coverage.json]

Accuracy of clustered questions, word error rate with very unequal lengths, corpus BLEU's counts, skewed
judge scores, and paired differences of accuracies and of error
rates. The truth is the metric on 200,000 recordings of the same world.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lalm.evaluate.metrics.bleu import _finish
from lalm.evaluate.metrics.intervals import Array, Measured, additive, difference, interval, mean_of, rate

World = Callable[[np.random.Generator, int], tuple[Measured, list[str]]]
TRUTH = 200_000


def accuracy(rng: np.random.Generator, recordings: int) -> tuple[Measured, list[str]]:
    """Three questions a recording that share its difficulty; about 70 % right."""
    ease = rng.beta(2.8, 1.2, recordings)
    right = rng.random((recordings, 3)) < ease[:, None]
    return mean_of(right.ravel().astype(float)), [str(i) for i in range(recordings) for _ in range(3)]


def word_errors(rng: np.random.Generator, recordings: int) -> tuple[Measured, list[str]]:
    """Long-tailed lengths; error rates that differ between speakers."""
    length = 1 + rng.geometric(1 / 18, recordings)
    wrong = rng.binomial(length, rng.beta(1.0, 12.0, recordings))
    return rate(np.stack([wrong, length], 1)), [str(i) for i in range(recordings)]


def bleu(rng: np.random.Generator, recordings: int) -> tuple[Measured, list[str]]:
    """Counts as translations of unequal quality give them."""
    length = 8 + rng.geometric(1 / 10, recordings)
    quality = rng.beta(4, 3, recordings)
    totals = np.stack([length - n for n in range(4)], 1)
    matches = rng.binomial(totals, quality[:, None] ** np.arange(1, 5))
    reference = np.maximum(length + rng.integers(-2, 4, recordings), 1)
    rows = np.concatenate([matches, totals, length[:, None], reference[:, None]], 1)
    return additive(rows, lambda sums: _finish(sums, True)), [str(i) for i in range(recordings)]


def judge(rng: np.random.Generator, recordings: int) -> tuple[Measured, list[str]]:
    """Scores of 0 to 5, most of them 0."""
    scores = rng.choice(6, recordings, p=[0.6, 0.12, 0.1, 0.08, 0.06, 0.04]) * 20.0
    return mean_of(scores), [str(i) for i in range(recordings)]


WORLDS: dict[str, World] = {"accuracy": accuracy, "wer": word_errors, "bleu": bleu, "judge": judge}


def covers(world: World, recordings: int, trials: int, truth: float) -> float:
    """Share of test sets whose interval holds the truth."""
    hits = 0
    for seed in range(trials):
        measured, names = world(np.random.default_rng(seed), recordings)
        found = interval(measured, names, seed=seed)
        hits += found.low <= truth <= found.high
    return hits / trials


def covers_difference(recordings: int, trials: int) -> float:
    """Two systems on the same clustered questions, the second 5 points worse."""
    hits = 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        ease: Array = rng.beta(2.8, 1.2, recordings) * 0.95 + 0.05
        names = [str(i) for i in range(recordings) for _ in range(3)]
        mine = rng.random((recordings, 3)) < ease[:, None]
        other = rng.random((recordings, 3)) < ease[:, None] - 0.05
        found = difference(mean_of(mine.ravel() * 1.0), mean_of(other.ravel() * 1.0), names, seed=seed)
        hits += found.low <= 0.05 <= found.high
    return hits / trials


def covers_rate_difference(recordings: int, trials: int, truth: float) -> float:
    """Two transcribers of the same recordings, the second a fifth better; ``truth`` is the first's rate."""
    hits = 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        length = 1 + rng.geometric(1 / 18, recordings)
        hard = rng.beta(1.0, 12.0, recordings)
        mine, other = (rate(np.stack([rng.binomial(length, hard * more), length], 1)) for more in (1.0, 0.8))
        found = difference(mine, other, [str(i) for i in range(recordings)], seed=seed)
        hits += found.low <= 0.2 * truth <= found.high
    return hits / trials


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--recordings", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, world in WORLDS.items():
        truth = world(np.random.default_rng(2**32), TRUTH)[0].value
        for recordings in options.recordings:
            share = covers(world, recordings, options.trials, truth)
            rows.append({"metric": name, "recordings": recordings, "truth": truth, "covered": share})
            print(f"{name:>10} {recordings:>5} recordings: {share:.3f} of {options.trials} cover", flush=True)
    for recordings in options.recordings:
        share = covers_difference(recordings, options.trials)
        rows.append({"metric": "difference", "recordings": recordings, "truth": 0.05, "covered": share})
        print(f"difference {recordings:>5} recordings: {share:.3f} of {options.trials} cover", flush=True)
    truth = word_errors(np.random.default_rng(2**32), TRUTH)[0].value
    for recordings in options.recordings:
        found = covers_rate_difference(recordings, options.trials, truth)
        rows.append(
            {"metric": "wer difference", "recordings": recordings, "truth": 0.2 * truth, "covered": found}
        )
        print(f"wer difference {recordings:>5} recordings: {found:.3f} of {options.trials} cover", flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"trials": options.trials, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
