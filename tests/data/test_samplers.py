"""Batches as large as fits: their limits, their order, and that nothing is lost or seen twice."""

import pickle
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from lalm.data.mixture import Mixture
from lalm.data.sample import Sample
from lalm.data.samplers import WINDOW_SAMPLES, Limits, PackedMixture


def silence(i: int, seconds: float) -> Sample:
    audio: Any = {"type": "audio", "audio": f"{i}.wav", "duration_s": seconds}
    return Sample(({"role": "user", "content": [audio]}, {"role": "assistant", "content": "x"}), id=str(i))


def lengths(count: int) -> np.ndarray:
    return np.random.default_rng(5).lognormal(1.0, 0.8, count).clip(0.5, 30).round(2)


def tokens(sample: Sample) -> float:
    return sample.audios[0]["duration_s"] * 5


def mixture(count: int, parts: int = 1, **limits: float) -> PackedMixture:
    samples = [silence(i, float(s)) for i, s in enumerate(lengths(count))]
    return PackedMixture([(samples, 1.0)], tokens, Limits(**limits), batch_size=64, parts=parts, seed=2)


def seconds(mixed: Mixture, keys: Sequence[tuple[int, int]]) -> list[float]:
    return [float(mixed.sources[s][r].audios[0]["duration_s"]) for s, r in keys]


def test_batches_obey_both_limits_and_an_epoch_sees_everything_once() -> None:
    mixed = mixture(1000, tokens=400, seconds=60)
    batches = [mixed.keys(i) for i in range(mixed.steps_in(1))]
    for keys in batches:
        long = seconds(mixed, keys)
        assert len(keys) == 1 or (len(keys) * max(long) <= 60 and len(keys) * max(long) * 5 <= 400)
        assert len(keys) <= 64
    assert Counter(r for keys in batches for _, r in keys) == Counter(range(1000))
    assert mixed.steps_in(0.5) == -(-len(batches) // 2) and mixed.steps_in(2) > len(batches)
    padded = sum(len(k) * max(seconds(mixed, k)) for k in batches)
    fixed = Mixture([(mixed.sources[0], 1.0)], lambda s: 1.0, batch_size=8)
    random = sum(len(k) * max(seconds(fixed, k)) for k in (fixed.keys(i) for i in range(125)))
    assert padded < 1.15 * lengths(1000).sum() < 0.7 * random


def test_any_batch_is_found_in_a_new_process() -> None:
    count = WINDOW_SAMPLES + 500
    whole = mixture(count, parts=2, seconds=100)
    order = [whole.keys(i) for i in range(2 * whole.steps_in(1) + 6)]
    assert mixture(count, parts=2, seconds=100).keys(len(order) - 1) == order[-1]
    assert pickle.loads(pickle.dumps(whole)).keys(7) == order[7]
    assert set(order[: 2 * whole.steps_in(1)]) != set(order[-6:])


def test_the_parts_of_a_step_are_of_like_length() -> None:
    mixed = mixture(2000, parts=4, seconds=100)
    ratios = []
    for step in range(mixed.steps_in(1)):
        means = [np.mean(seconds(mixed, mixed.keys(4 * step + part))) for part in range(4)]
        ratios.append(max(means) / min(means))
    assert np.median(ratios) < 1.2


def test_too_few_samples_for_the_parts_are_repeated() -> None:
    mixed = mixture(3, parts=4, seconds=100)
    assert mixed.steps_in(1) == 1
    seen = Counter(row for part in range(4) for _, row in mixed.keys(part))
    assert sorted(seen) == [0, 1, 2] and seen.total() == 4
