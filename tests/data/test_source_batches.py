"""Batches of one manifest each: nothing is mixed, nothing is lost, and any batch is found again."""

from collections import Counter
from functools import partial

import pytest

from lalm.data.sample import Sample
from lalm.data.source_batches import PerSourceMixture
from lalm.training.recipe import Recipe, RecipeError


def samples(name, count):
    return [Sample(({"role": "user", "content": name},), id=f"{name}{i}") for i in range(count)]


def length(sample):
    return float(int(sample.id[1:]) % 7)


def mixture(batch_size=4, parts=1, weights=(1.0, 0.5, 1.0), sizes=(240, 400, 83)):
    own = [(samples(n, size), w) for n, size, w in zip("abc", sizes, weights, strict=True)]
    return PerSourceMixture(own, length, 4, batch_size=batch_size, parts=parts, seed=3)


def test_a_batch_is_of_one_source_and_the_sources_come_by_their_shares():
    mixed = mixture()
    batches = [mixed.keys(i) for i in range(mixed.steps_in(1))]
    assert all(len(keys) == 4 and len({source for source, _ in keys}) == 1 for keys in batches)
    turns = [keys[0][0] for keys in batches]
    assert Counter(turns) == {0: 60, 1: 50, 2: 21}
    assert len(set(turns[:20])) == 3 and turns != sorted(turns)  # they take turns
    again = [keys[0][0] for keys in (mixed.keys(i + len(batches)) for i in range(len(batches)))]
    assert again != turns and Counter(again) == Counter(turns)


def test_an_epoch_sees_every_sample_as_often_as_its_weight_says():
    mixed = mixture()
    steps = mixed.steps_in(1)
    seen = Counter(key for i in range(2 * steps) for key in mixed.keys(i))
    assert all(seen[0, row] == 2 for row in range(240))
    assert all(seen[1, row] == 1 for row in range(400))  # 0.5: another half in the second epoch
    assert sum(seen[2, row] for row in range(83)) == 2 * 84 and min(seen[2, r] for r in range(83)) >= 2
    apart = [max(ls) - min(ls) for i in range(steps) if (ls := [r % 7 for _, r in mixed.keys(i)])]
    assert sum(apart) / len(apart) < 1.5  # like lengths together; 4.6 if drawn


def test_any_batch_is_found_at_once_however_a_step_is_split():
    whole = mixture(batch_size=4, parts=2)
    order = [whole.keys(i) for i in range(300)]
    assert [mixture(4, 2).keys(i) for i in (299, 7, 150)] == [order[299], order[7], order[150]]
    split = mixture(batch_size=2, parts=4)
    assert [split.keys(2 * i) + split.keys(2 * i + 1) for i in range(300)] == order


def test_batches_by_tokens_are_refused_by_name():
    fields = {
        "system": "apt",
        "init": {"from": "runs/0"},
        "trainable": ["connector"],
        "data": {"train": [{"path": "a.jsonl"}], "separate": True},
        "optim": {"learning_rate": 1e-4, "batch_size": 4, "max_steps": 3},
        "out": "runs/1",
    }
    make = partial(Recipe.model_validate, strict=False)
    assert make(fields).data.separate
    with pytest.raises((ValueError, RecipeError), match="separate"):
        make(fields | {"optim": fields["optim"] | {"batch_tokens": 100}})
