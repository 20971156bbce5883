"""Clips in several orders: what is said about places moves with them, and comes back."""

import pytest

from lalm.data.sample import Sample, ask
from lalm.inference.permutations import (
    majority_vote,
    permutations,
    permute_clips,
    permute_mentions,
    restore_mentions,
)


def test_orders_are_different_and_begin_with_the_given_one():
    assert permutations(2, 5) == [(0, 1), (1, 0)]
    assert len(set(permutations(3, 6, seed=1))) == 6
    many = permutations(25, 4, seed=2)
    assert many[0] == tuple(range(25)) and len(set(many)) == 4 and many == permutations(25, 4, seed=2)


def test_places_in_a_text_move_with_the_clips():
    assert (
        permute_mentions("Is the first louder than the Second?", (1, 0))
        == "Is the second louder than the First?"
    )
    order = (2, 0, 1)  # what was third is heard first
    assert (
        permute_mentions("the third, recording 1 and clip number 3", order)
        == "the first, recording 2 and clip number 1"
    )
    for text in ("The first.", "recording 2, not the third", "Both, at 3.5 s."):
        assert restore_mentions(permute_mentions(text, order), order) == text
    assert permute_mentions("the tenth of firstborn", (1, 0)) == "the tenth of firstborn"


def test_a_sample_in_another_order_asks_the_same():
    sample = ask(["a.wav", "b.wav"], "Does the first have more dogs?")
    swapped = permute_clips(sample, (1, 0))
    assert [part["audio"] for part in swapped.audios] == ["b.wav", "a.wav"]
    assert swapped.messages[0]["content"][-1]["text"] == "Does the second have more dogs?"
    assert permute_clips(swapped, (1, 0)) == sample
    with pytest.raises(ValueError, match="not a permutation of 2 clips"):
        permute_clips(sample, (0, 0))


def test_clips_with_text_between_them_stay():
    a, b = ({"type": "audio", "audio": name} for name in ("a.wav", "b.wav"))
    text = {"type": "text", "text": "is a dog, and this?"}
    for messages in (
        [{"role": "user", "content": [a, text, b]}],
        [{"role": "user", "content": [a, text]}, {"role": "user", "content": [b]}],
    ):
        with pytest.raises(ValueError, match="no text stands between"):
            permute_clips(Sample(tuple(messages)), (1, 0))


def test_most_orders_win():
    assert majority_vote(["The first.", "second", "the first"]) == ("The first.", 2 / 3)
    assert majority_vote(["Yes.", "No."]) == ("Yes.", 0.5)
