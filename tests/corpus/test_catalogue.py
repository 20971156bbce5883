"""The tables of the corpus: well-formed, named, licensed, and split so that no sound straddles."""

import re
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from lalm.corpus import catalogue, split_of
from lalm.corpus.catalogue import SPLITS, Row, classes, packages
from lalm.data.english import words

ROWS = catalogue("large")


def test_tiers_hold_one_another() -> None:
    small, medium, large = (catalogue(tier) for tier in ("small", "medium", "large"))
    assert 0 < len(small) < len(medium) < len(large)
    assert set(small) < set(medium) < set(large)
    with pytest.raises(ValueError, match="there is no tier 'huge'; the tiers are small, medium, large"):
        catalogue("huge")


def test_every_row_is_whole() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS) == len({(row.package, row.path) for row in ROWS})
    for row in ROWS:
        assert row.package in packages() and row.label in classes(), row
        assert row.kind in ("sfx", "ambience", "music", "speech"), row
        assert (row.kind == "speech") == bool(row.transcript) == bool(row.language), row
        assert row.label.startswith("speech/") == (row.kind == "speech"), row


def test_captions_read_as_clauses() -> None:
    for row in ROWS:
        assert re.fullmatch(r"[A-Za-z][A-Za-z' ,-]*[a-z]", row.caption), row.caption
        assert "  " not in row.caption and 2 <= len(row.caption.split()) <= 14, row.caption
        first = row.caption.split()[0]
        assert first.islower() or first in ("Japanese", "Middle"), row.caption
        assert not re.search(r"\btitled\b|\bcall of\b|[_#]", row.caption), row.caption


def test_licences_allow_use() -> None:
    for row in ROWS:
        assert row.licence and not re.search(r"\bNC\b|\bND\b|not stated|freeware", row.licence), row


def test_every_class_has_a_name_and_the_words_that_name_it() -> None:
    used = {row.label for row in ROWS}
    assert used == set(classes())
    for sound in classes().values():
        assert re.fullmatch(r"[a-zA-Z' -]+", sound.name) and sound.name == sound.name.strip()
        assert sound.words and all(word == word.lower() for word in sound.words), sound
        assert set(words(sound.name)) & {w for word in sound.words for w in words(word)}, sound


def test_weak_classes_are_out() -> None:
    groups = {sound.group for sound in classes().values()}
    assert not groups & {"ui", "creature", "scifi", "cartoon", "magic"}


def test_variants_of_a_sound_never_straddle_a_split() -> None:
    row = Row("lincity-ng-data", "sounds/Dog1.wav", "animal/dog", "a dog barks", "sfx", "", "GPL-2+", "")
    for other in ("sounds/Dog2.wav", "x/dog_14.ogg", "dog-b.wav", "data.pk3!snd/DOG3a.ogg"):
        assert replace(row, path=other).family == row.family
    assert replace(row, path="sounds/cat1.wav").family != row.family
    splits = defaultdict(set)
    for r in ROWS:
        if split_of(r) != "test_unseen":
            splits[r.family].add(split_of(r))
    assert all(len(found) == 1 for found in splits.values())


def test_unseen_packages_are_whole() -> None:
    for row in ROWS:
        unseen = packages()[row.package].unseen
        assert (split_of(row) == "test_unseen") == (
            unseen == "all" or row.label.split("/")[1] in unseen.split()
        )
    seen = {row.package for row in ROWS if split_of(row) == "train"}
    assert not seen & {name for name, package in packages().items() if package.unseen == "all"}


def test_splits_have_about_the_shares_asked_for() -> None:
    count = Counter(split_of(row) for row in ROWS)
    known = sum(count[split] for split in SPLITS if split != "test_unseen")
    assert 0.07 < count["test_known"] / known < 0.14
    assert 0.01 < count["valid"] / known < 0.06
    assert count["test_unseen"] > 150
