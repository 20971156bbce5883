"""Lengths, verbs, orders, groups and music in lessons: true of the recording, and not to be guessed."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from test_lessons import labels, names, turns, worded

from lalm.corpus.catalogue import classes
from lalm.corpus.lesson_balance import is_far, is_near, offers
from lalm.corpus.lesson_kinds import KINDS, NUMBER_WORDS
from lalm.corpus.lesson_questions import Heard, Offers, wordings
from lalm.corpus.wording import HEARD, STARTS, does, exactly
from lalm.data.english import words
from lalm.data.sample import Sample
from lalm.inference.counting import read_number

OPENINGS = {" ".join(words(f"{start} a")[:2]) for start in (*HEARD, *STARTS)}


def in_order(sample: Sample) -> list[str]:
    return [classes()[event["label"]].name for event in sample.events]


def test_a_description_has_exactly_as_many_words_as_were_asked_for(lessons: list[Sample]) -> None:
    sizes = Counter()
    for sample, question, answer in turns(lessons, "exact"):
        *_, asked = (word for word in words(question) if is_size(word))
        size = int(asked) if asked.isdigit() else NUMBER_WORDS.index(asked)
        assert len(words(answer)) == size, (question, answer)
        assert answer.count("recording") <= 1 and "caption" not in answer
        sizes[size] += 1
        assert any(stem in answer.lower() for stem in telling(sample)), (answer, telling(sample))
    assert set(range(5, 13)) <= set(sizes) and sizes[10] == max(sizes.values())


def test_sounds_whose_names_are_longer_than_any_counted_sentence_are_described() -> None:
    events = tuple(
        {"label": label, "caption": caption, "onset_s": onset, "offset_s": offset}
        for label, caption, onset, offset in (
            ("ambience/park", "birds sing in a park while a plane passes", 0.0, 9.0),
            ("footsteps/hard", "footsteps fall on a hard floor", 1.0, 2.0),
            ("nature/earthquake", "the ground rumbles", 3.0, 5.0),
        )
    )
    row = Sample((), events=events, origin={"kind": "bed"})
    labels = [event["label"] for event in events]
    odds = Offers(offers(dict.fromkeys(labels, 1.0)), offers(dict.fromkeys(labels, 1.0)))
    heard = Heard(row, odds, np.random.default_rng(0))
    assert heard.can("exact")
    question, answer = KINDS["exact"][1](heard)
    assert question in wordings()["describe"] and "footsteps" in answer.lower()


def test_no_opening_wins_among_the_counted_sentences(lessons: list[Sample]) -> None:
    answers = [words(answer) for _, _, answer in turns(lessons, "exact")]
    rows = sum("exact" in sample.task.split("+") for sample in lessons)
    assert 0.03 < rows / len(lessons) < 0.09
    frames = Counter(" ".join(w[:2]) for w in answers if " ".join(w[:2]) in OPENINGS)
    assert len(frames) >= 8 and max(frames.values()) < 0.12 * len(answers), frames
    assert 1 - frames.total() / len(answers) > 0.4


def test_a_counted_sentence_does_not_say_a_thing_twice() -> None:
    for seed in range(40):
        made = exactly(
            ["a dog barks"], ["a dog barking"], "a dog barks", range(3, 15), np.random.default_rng(seed)
        )
        for text in made.values():
            assert sum(word in words(text) for word in ("recording", "clip", "seconds")) < 2, text
            assert sum(word in ("hear", "hears", "heard") for word in words(text)) < 2, text


def is_size(word: str) -> bool:
    return word.isdigit() or word in NUMBER_WORDS


def telling(sample: Sample) -> set[str]:
    return {e["caption"] for e in sample.events} | {name.lower() for name in names(sample)}


def test_all_lengths_can_be_had_of_a_plain_sound() -> None:
    made = exactly(["a dog barks"], ["a dog barking"], "a dog barks", range(3, 15), np.random.default_rng(0))
    assert sorted(made) == list(range(3, 15))
    assert all(len(words(text)) == size for size, text in made.items())


@pytest.mark.parametrize(
    ("caption", "question"),
    [
        ("a dog barks", "does the dog bark"),
        ("a car crashes", "does the car crash"),
        ("an owl hoots", "does the owl hoot"),
        ("a door closes", "does the door close"),
        ("a seagull cries", "does the seagull cry"),
        ("a bee buzzes", "does the bee buzz"),
        ("a glass clinks", "does the glass clink"),
        ("birds sing", ""),
        ("a dog growls and snarls", ""),
        ("a scythe cuts crops", ""),
        ("a pneumatic hiss", ""),
        ("a lion roars as it attacks", ""),
    ],
)
def test_a_caption_is_asked_about_by_its_verb(caption: str, question: str) -> None:
    assert does(caption) == question


def test_which_comes_before_is_that_of_the_events_and_balanced(lessons: list[Sample]) -> None:
    answers = Counter()
    for sample, question, answer in turns(lessons, "before"):
        order = in_order(sample)
        x, y = sorted((n for n in set(order) if n in question), key=question.index)
        true = order.index(x) < order.index(y)
        assert answer == ("Before." if true else "After.") or answer == ("Yes." if true else "No."), question
        assert (answer in ("Before.", "After.")) == worded(question, "before_or_after")
        answers[true] += 1
    assert 0.4 < answers[True] / answers.total() < 0.6
    for sample, _, answer in turns(lessons, "sequence"):
        at = [answer.lower().index(name.lower()) for name in in_order(sample)]
        assert at == sorted(at)


def test_how_many_different_sounds_there_are(lessons: list[Sample]) -> None:
    seen = {read_number(answer): None for _, _, answer in turns(lessons, "different")}
    assert len(seen) > 1
    for sample, _, answer in turns(lessons, "different"):
        assert read_number(answer) == str(len(names(sample)))


def test_kinds_of_sounds_are_those_of_the_labels(lessons: list[Sample]) -> None:
    answers, called = Counter(), wordings()["groups"]
    for sample, question, answer in turns(lessons, "group"):
        own = {label.split("/")[0] for label in labels(sample)}
        if not worded(question, "group"):
            continue
        asked = max((g for g in called if called[g] in question), key=lambda g: len(called[g]), default=None)
        if asked is not None:
            assert (answer == "Yes.") == (asked in own), (question, answer, own)
            answers[answer] += 1
    assert 0.35 < answers["Yes."] / answers.total() < 0.65
    for sample, question, answer in turns(lessons, "which_instrument"):
        if worded(question, "which_instrument"):
            own = {label.split("/")[0] for label in labels(sample)}
            assert ("instrument" in own) == (answer not in wordings()["no_instrument"])


def test_silence_has_no_right_choice_and_neither_of_two(lessons: list[Sample]) -> None:
    empty = [s for s in lessons if s.origin["kind"] in ("silence", "noise")]
    told = {*wordings()["nothing"], *wordings()["noise"]}
    for _, _, answer in turns(empty, "either"):
        assert answer.removeprefix("Neither. ") in told
    plain = [a for _, q, a in turns(empty, "choice") if "none of these" not in q]
    assert len(plain) > 10 and all(a.removeprefix("None of these. ") in told for a in plain)


def test_no_sound_is_right_more_often_than_another_where_it_is_offered() -> None:
    """Beside each right label a wrong one is drawn as the lessons draw it; speech is right most often."""
    labels = [label for label in classes() if label.startswith(("animal/", "speech/e", "vehicle/", "tool/"))]
    right = {label: 30.0 if label == "speech/english" else 1.0 + i % 3 for i, label in enumerate(labels)}
    odds = offers(right)
    plain, drawn = defaultdict(float), defaultdict(float)
    for a, share in right.items():
        near = [b for b in labels if is_near(a, b)]
        far = [b for b in labels if is_far(a, b)]
        parts = ((0.4, near), (0.6, far)) if near and far else ((1.0, near or far),)
        for part, group in parts:
            for b in group:
                drawn[b] += share * part * odds[b] / sum(odds[x] for x in group)
                plain[b] += share * part * right[b] / sum(right[x] for x in group)

    def spread(found: dict[str, float]) -> float:
        ratios = [found[label] / right[label] for label in labels]
        return max(ratios) / min(ratios)

    assert spread(drawn) < 1.2 < 1.4 < spread(plain)
