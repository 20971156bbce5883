"""Intervals that cover over seeds and items, verdicts by the rule."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lalm.evaluate.metrics.intervals import SHARE
from lalm.reproduce.estimates import (
    CANNOT_TELL,
    CONFIRMED,
    NOT_CONFIRMED,
    NOT_RUN,
    Estimate,
    Scores,
    estimate,
    verdict,
    whole_verdict,
)


def test_intervals_cover_the_truth_over_seeds_and_recordings():
    """200 worlds: recordings differ, seeds differ, three questions a recording; the truth is 0.1. One seed's
    own interval, which is over items alone, misses it far too often."""
    draw, hits, alone = np.random.default_rng(0), 0, 0
    for _ in range(200):
        hard = draw.normal(0, 0.3, 40).repeat(3)
        names = [("task", str(i)) for i in range(120)]
        places = {name: str(i // 3) for i, name in enumerate(names)}
        worlds = [0.1 + draw.normal(0, 0.1) + hard + draw.normal(0, 0.3, 120) for _ in range(3)]
        runs = [Scores(dict(zip(names, values, strict=True)), places) for values in worlds]
        found, first = estimate(runs), estimate(runs[:1])
        assert found is not None and first is not None and found.num_recordings == 40
        hits += found.low <= 0.1 <= found.high
        alone += first.low <= 0.1 <= first.high
    assert 0.9 <= hits / 200 <= 0.99 and alone / 200 < 0.75


def test_intervals_of_shares_stay_in_their_bounds():
    names = [("task", str(i)) for i in range(4)]
    places = {name: str(i) for i, name in enumerate(names)}
    ones, none = (Scores(dict.fromkeys(names, value), places, SHARE) for value in (1.0, 0.0))
    ends = []
    for runs in ([ones] * 3, []), ([ones] * 3, [none] * 3), ([ones] * 3, [ones] * 3):
        found = estimate(*runs)
        assert found is not None
        ends.append((found.low, found.high))
    unlike = 0.602  # binomtest(0, 4): so many recordings may be exceptions, each as far away as can be
    assert ends[0] == pytest.approx((1 - unlike, 1), abs=1e-3)
    assert ends[1] == pytest.approx((1 - 2 * unlike, 1), abs=1e-3)  # four of four are not enough to tell
    assert ends[2] == pytest.approx((-unlike, unlike), abs=1e-3)  # ties: nothing is known to be equal
    counts = estimate([Scores(dict.fromkeys(names, 5.0), places)])
    assert counts is not None and (counts.low, counts.high) == (-math.inf, math.inf)
    few = estimate([Scores(dict(zip(names, (0, 0, 0.02, 0.06), strict=True)), places, SHARE)])
    assert few is not None and few.low == 0 and few.high == pytest.approx(0.02 + 3.182 * 0.01414, abs=1e-3)


def test_an_interval_of_one_seed_is_the_bootstraps():
    """Of 60 recordings with two questions each, of two tasks, against 4,000 draws of recordings."""
    draw = np.random.default_rng(0)
    names = [(task, str(i)) for i in range(60) for task in ("a", "b")]
    places = {name: name[1] for name in names}
    hard = draw.normal(0, 1, 60)
    values = np.array([float(hard[int(i)] + draw.normal() > (task == "a")) for task, i in names])
    found = estimate([Scores(dict(zip(names, values, strict=True)), places, SHARE)])
    table = values.reshape(60, 2)  # (recordings, tasks)
    means = table[draw.integers(0, 60, (4000, 60))].mean((1, 2))
    assert found is not None and found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)


def test_a_task_of_one_recording_leaves_the_interval_open():
    """Its own mean is no estimate of how much another recording would differ."""
    names = [("a", "0"), ("b", "1"), ("c", "2")]
    places = {name: name[1] for name in names}
    found = estimate([Scores(dict(zip(names, (1.0, 0.0, 1.0), strict=True)), places, SHARE)])
    assert found is not None and (found.low, found.high) == (0.0, 1.0)
    assert verdict(found, 0.05) == CANNOT_TELL


def test_the_verdict_is_the_rules():
    def found(low: float, high: float) -> Estimate:
        return Estimate((low + high) / 2, low, high, 100, 50, (0.0, 0.0, 0.0))

    assert verdict(found(0.02, 0.2), 0.05) == CONFIRMED
    assert verdict(found(-0.02, 0.2), 0.05) == CANNOT_TELL
    assert verdict(found(0.01, 0.04), 0.05) == NOT_CONFIRMED  # there, and too small to matter
    assert verdict(found(-0.2, -0.01), 0.0) == NOT_CONFIRMED
    assert verdict(None, 0.0) == NOT_RUN
    assert verdict(found(0.0, 0.3), 0.05) == CANNOT_TELL  # the edges are not above, and not below
    assert verdict(found(-0.1, 0.05), 0.05) == CANNOT_TELL
    assert verdict(found(-0.1, 0.0), 0.0) == CANNOT_TELL
    assert verdict(found(-0.1, 0.0499), 0.05) == NOT_CONFIRMED
    nan = float("nan")
    assert verdict(Estimate(nan, nan, nan, 100, 50, (nan, nan, nan)), 0.05) == CANNOT_TELL
    alone = replace(found(0.1, 0.2), seeds=(0.15,))
    assert verdict(alone, 0.05) == CONFIRMED and verdict(alone, 0.05, two_trainings=True) == CANNOT_TELL
    assert whole_verdict([CONFIRMED, CANNOT_TELL]) == CANNOT_TELL
    assert whole_verdict([CANNOT_TELL, NOT_CONFIRMED]) == NOT_CONFIRMED
    assert whole_verdict([CONFIRMED, NOT_RUN]) == NOT_RUN
