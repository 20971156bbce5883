"""Intervals: they cover, they respect clusters, and paired differences see what unpaired ones hide."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta

from lalm.data.sample import Sample, ask
from lalm.evaluate.metrics import METRICS, Answer, Resources
from lalm.evaluate.metrics.intervals import (
    UNBOUNDED,
    Measured,
    additive,
    bootstrap,
    difference,
    interval,
    mean_of,
    rate,
    ratio,
)
from lalm.evaluate.page import _of_runaways
from lalm.evaluate.runaway import runaway
from lalm.evaluate.scores import gap, groups, numbers, score
from lalm.evaluate.task import Task


def names(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def test_an_interval_is_about_two_standard_errors_either_side():
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = bootstrap(values, names(400))
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)
    assert str(found).endswith("(n=400)")


def test_items_of_one_recording_are_drawn_together():
    values = np.repeat(np.random.default_rng(0).normal(0, 1, 50), 8)
    alone, together = bootstrap(values, names(400)), bootstrap(values, [str(i // 8) for i in range(400)])
    assert together.num_recordings == 50
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(8**0.5, rel=0.1)


def test_recordings_that_are_all_alike_do_not_make_certain():
    right = interval(mean_of([1.0] * 10), names(10))
    assert (right.low, right.high) == (pytest.approx(0.025**0.1), 1.0)  # Clopper and Pearson's
    assert np.isinf(interval(mean_of([0.0] * 10, proportion=False), names(10)).high)  # scores of any size
    assert np.isinf(interval(mean_of([0.4] * 10), names(10)).high)
    wrong = interval(mean_of([0.0] * 10), names(10))
    assert (wrong.low, wrong.high) == (0.0, pytest.approx(1 - 0.025**0.1))
    half = interval(mean_of([1.0, 0.0] * 2), ["a", "a", "b", "b"])
    assert half.low < 0.1 and half.high > 0.9


def test_one_recording_has_no_interval():
    found = bootstrap([1.0, 0.0], ["a", "a"])
    assert found.mean == 0.5 and np.isinf(found.low) and np.isinf(found.high)
    assert str(found) == "0.500 [?, ?] (n=2)"


def test_a_ratio_of_sums_is_not_a_mean_of_ratios():
    measured = additive([(1, 10), (1, 1)], ratio)
    assert measured.value == pytest.approx(2 / 11)
    assert measured.of_counts(np.array([[2, 0], [0, 0]])) == pytest.approx([0.1, 0.0])


def test_an_error_rate_of_unequal_items_reaches_further_up():
    rng = np.random.default_rng(3)
    length = 1 + rng.geometric(1 / 18, 50)
    wrong = rng.binomial(length, rng.beta(1.0, 12.0, 50))
    rows = np.stack([wrong, length], 1)
    plain, found = interval(additive(rows, ratio), names(50)), interval(rate(rows), names(50))
    assert found.mean == plain.mean == pytest.approx(wrong.sum() / length.sum())
    assert found.high > plain.high and found.low > plain.low - 0.01 and found.low >= 0
    fewer = rate(np.stack([wrong // 2, length], 1))
    gap = difference(rate(rows), fewer, names(50))
    assert 0 < gap.low < gap.mean < gap.high
    twice = interval(rate(np.repeat(rows, 2, 0)), [str(i // 2) for i in range(100)])
    assert (twice.low, twice.high) == pytest.approx((found.low, found.high))  # recordings count, not items
    assert interval(rate([(0, 5)] * 9), names(9)).high < 0.4  # nothing wrong anywhere


def test_a_paired_difference_is_sharper():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, 200)
    mine, other = mean_of(hard + 0.2 + rng.normal(0, 0.1, 200)), mean_of(hard)
    found = difference(mine, other, names(200))
    assert found.low > 0.15 and found.high < 0.25 and found.p_value < 0.01
    same = difference(mean_of(hard + rng.normal(0, 0.1, 200)), other, names(200))
    assert same.low < 0 < same.high and same.p_value > 0.05
    with pytest.raises(ValueError, match="the same items: 200 and 3"):
        difference(mine, mean_of([1, 2, 3]), names(200))


def test_counts_and_names_must_agree():
    with pytest.raises(ValueError, match="2 values for 1 recordings"):
        bootstrap([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="at least one"):
        interval(Measured(0, lambda counts: counts.sum(1)), [])


def test_few_recordings_have_no_p_value():
    assert difference(mean_of([1.0]), mean_of([0.0]), names(1)).p_value is None
    for count in (2, 3, 5):
        found = difference(mean_of([1.0] * count), mean_of([0.0] * count), names(count))
        assert found.p_value is None and found.low < 0.6
    five = difference(mean_of([3.0, 4.0, 5.0, 6.0, 7.5]), mean_of([1.0, 1.5, 2.0, 4.0, 5.0]), names(5))
    assert five.p_value is None and five.low < five.mean < five.high


def test_runs_that_differ_alike_everywhere_get_exact_limits():
    won = difference(mean_of([1.0] * 6), mean_of([0.0] * 6), names(6))
    assert won.p_value == pytest.approx(2 * 0.5**6)  # the sign test's
    assert (won.low, won.high) == (pytest.approx(2 * 0.025 ** (1 / 6) - 1), 1.0)
    same = difference(mean_of([1.0] * 20), mean_of([1.0] * 20), names(20))
    unlike = 1 - 0.025 ** (1 / 20)
    assert same.p_value == 1.0 and (same.low, same.high) == (pytest.approx(-unlike), pytest.approx(unlike))
    scores = mean_of([0.3, 0.5] * 10)  # of no known range: equal runs say nothing of how they may differ
    equal = difference(scores, scores, names(20))
    assert equal.mean == 0 and np.isinf(equal.high) and equal.p_value is None


@pytest.mark.parametrize("seed", range(12))
def test_p_value_and_interval_agree(seed):
    rng = np.random.default_rng(seed)
    right = rng.random((2, 30)) < [[0.8], [0.55]]
    words = rng.integers(5, 30, 30)
    errors = rng.binomial(words, [[0.2], [0.12]])
    for mine, other in (
        (mean_of(right[0] * 1.0), mean_of(right[1] * 1.0)),
        (rate(np.stack([errors[0], words], 1)), rate(np.stack([errors[1], words], 1))),
        (mean_of(rng.gamma(1, 1, 30)), mean_of(rng.gamma(1.6, 1, 30))),
    ):
        found = difference(mine, other, names(30))
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


def covered(draw, truth: float, trials: int = 300) -> float:
    """Share of trials whose interval holds the truth; ``draw``: generator -> interval."""
    found = [draw(np.random.default_rng(seed)) for seed in range(trials)]
    return sum(own.low <= truth <= own.high for own in found) / trials


@pytest.mark.parametrize("recordings", [10, 20])
def test_shares_near_one_and_rare_differences_are_covered(recordings):
    """Clustered accuracy of 95 %, and two runs of 99 % that differ in 2 % of the items."""

    def near_one(rng):
        right = rng.binomial(3, rng.beta(9.5, 0.5, recordings))
        rows = [float(i < own) for own in right for i in range(3)]
        return interval(mean_of(rows), [str(i) for i in range(recordings) for _ in range(3)])

    def rarely(rng):
        mine = rng.random(recordings) < 0.99
        other = np.where(rng.random(recordings) < 0.02, ~mine, mine)
        return difference(mean_of(mine * 1.0), mean_of(other * 1.0), names(recordings))

    assert covered(near_one, 0.95) >= 0.93
    assert covered(rarely, 0.02 * 0.98) >= 0.93


def test_error_rates_with_rare_hallucinations_are_covered_at_twelve_speakers(monkeypatch):
    monkeypatch.setattr("lalm.evaluate.metrics.resampling.NUM_DRAWS", 400)

    def speakers(rng):
        words = rng.integers(200, 500, 12)
        wrong = rng.binomial(words, rng.beta(2, 30, 12)) + 60 * rng.binomial(20, 0.01, 12)
        return interval(rate(np.stack([wrong, words], 1)), names(12))

    assert covered(speakers, 2 / 32 + 12 / 349.5, 200) >= 0.9


def test_transcripts_that_run_away_are_told_apart():
    """Three of forty recordings: their share, the others' error rate, and the sentence on the terminal."""
    said = {
        **{f"{n}": "a dog barks loudly" for n in range(37)},
        **{f"{n}": "no " * 30 for n in range(37, 40)},
    }
    said["0"] = "a dog barks softly"
    rows = [Sample(ask([], "?").messages, id=n, references=("a dog barks loudly",)) for n in said]
    scored = score(
        Task(name="t", about="x", metrics=("wer",)),
        [Answer(row, said[row.id], said[row.id]) for row in rows],
        Resources(),
        judged=False,
    )
    found = runaway(scored)
    low, high = beta.ppf([0.025, 0.975], 3.5, 37.5)  # Jeffreys
    assert found["answers"] == 3 and found["share"]["mean"] == 3 / 40
    assert (found["share"]["low"], found["share"]["high"]) == pytest.approx((low, high), abs=0.01)
    assert found["others"]["mean"] == 1 / (37 * 4) and scored.measured["wer"].value > 0.5
    told = _of_runaways(found)
    assert told.startswith("3 of 40 answers have more wrong words") and "without them wer is 0.7 [" in told


CAPTIONS = (  # most are nearly their references: bootstrap-t alone reaches beyond what there can be
    ("a dog barks twice in a large hall", "a dog barks twice in a large hall", 1.0),
    ("rain falls on a tin roof at night", "rain falls on a tin roof by night", 0.97),
    ("a woman laughs and a door is shut", "a woman laughs and a door is closed", 0.96),
    ("birds sing while a river is flowing", "birds sing while a river flows", 0.94),
    ("a train passes and blows its whistle", "a train passes and blows a whistle", 0.98),
    ("something is heard", "a man hammers a nail into wood", 0.1),
)


@pytest.mark.parametrize("name", ["rouge_l", "cider_d", "meteor", "content_f1", "cider_content", "judge"])
def test_no_limit_lies_beyond_what_a_metric_can_be(name):
    rows = enumerate(CAPTIONS)
    samples = [Sample(ask([], "?").messages, id=str(i), references=(right,)) for i, (_, right, _) in rows]
    both = list(zip(samples, CAPTIONS, strict=True))
    good = [Answer(sample, said, said, judged=points) for sample, (said, _, points) in both]
    bad = [Answer(sample, right[:9], None, judged=1 - points) for sample, (_, right, points) in both]
    task = Task(name="t", about="x", metrics=(name,))
    well, badly = (score(task, own, Resources(), judged=True) for own in (good, bad))
    least, most = METRICS[name].bounds
    for own in (well, badly):
        found = numbers(own)["metrics"][name]
        assert least <= found["low"] <= found["mean"] <= found["high"] <= most
        (_, part), *_ = groups(own, ["all"] * 6)
        assert least <= part.low <= part.high <= most
    apart = gap(well, badly, name)
    assert least - most <= apart.low <= apart.mean <= apart.high <= most - least
    loose = interval(replace(well.measured[name], bounds=UNBOUNDED), names(6))
    assert loose.low < least or name not in ("rouge_l", "judge")  # these are why the bounds are there


def test_every_metric_of_ours_knows_its_bounds():
    free = {name for name, metric in METRICS.items() if metric.bounds == UNBOUNDED}
    assert free == {
        *("wer", "wer_qwen2_audio", "per", "open_asr_wer", "audiobench_wer"),  # never below 0, with no end
        *("count_error", "diversity"),
    }
