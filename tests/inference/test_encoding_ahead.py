"""The next batch is encoded while the LLM answers: the same answers in any system, errors in their place."""

import threading
import time

import numpy as np
import pytest

from lalm.data.sample import ask
from lalm.inference import engine as engines
from lalm.inference.encoding_ahead import one_ahead
from lalm.inference.engine import Engine, Options
from lalm.inference.shared_frames import sharing


def sound(seed: int, samples: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


def questions(count: int) -> list:
    own = [ask([sound(n, 4_000 + 3_111 * n)], f"What is number {n}?") for n in range(count)]
    return [*own, ask([], "Nothing to hear?"), ask([sound(90, 9_000), sound(91, 20_000)], "Which?")]


@pytest.mark.parametrize("system", ["acdc", "salmonn", "apt"])
@pytest.mark.parametrize("shared", [False, True])
def test_answers_are_those_of_one_after_the_other(tiny, monkeypatch, system, shared):
    monkeypatch.setattr(engines, "BATCH_SIZE", 3)
    monkeypatch.setattr(engines, "POOL_SIZE", 5)
    model, processor = tiny(system)
    engine, options = Engine(model, processor, "tiny"), Options(max_new_tokens=6)
    threads, forward = set(), model.model.encode

    def encode(*given):
        threads.add(threading.get_ident())
        return forward(*given)

    monkeypatch.setattr(model.model, "encode", encode)
    engine.encodes_ahead = 0
    before = engine.reply(questions(7), options)
    assert threads == {threading.get_ident()}
    engine.encodes_ahead = 1
    threads.clear()
    if shared:
        with sharing(model.model.audio_tower):
            after = engine.reply(questions(7), options)
    else:
        after = engine.reply(questions(7), options)
    assert threading.get_ident() not in threads and threads
    assert [r.text for r in after] == [r.text for r in before] and len({r.text for r in after}) > 2
    assert [r.heard for r in after] == [r.heard for r in before]


def test_what_cannot_be_answered_stands_in_its_place(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "BATCH_SIZE", 2)
    model, processor = tiny("acdc")
    engine = Engine(model, processor, "tiny")
    engine.encodes_ahead = 1
    (tmp_path / "no.wav").write_bytes(b"RIFF")
    broken, endless = ask([str(tmp_path / "no.wav")], "?"), ask([sound(5, 9_000)], "Too long? " * 4_000)
    samples = [*questions(2), broken, endless]
    told = []
    replies = engine.reply(samples, errors="return", arrived=lambda number, _: told.append(number))
    assert sorted(told) == list(range(len(samples)))
    assert [isinstance(reply, ValueError) for reply in replies] == [False] * 4 + [True, True]
    with pytest.raises(ValueError, match=r"no\.wav"):
        engine.reply(samples)
    assert engine.reply([]) == []


def test_one_is_made_while_the_other_is_used_and_nothing_after_the_end():
    made, stopped, using = [], threading.Event(), threading.Event()

    def make(item):
        if item == 1:
            assert using.wait(10)  # is made only while 0 is used
        made.append(item)
        return -item

    for item, own in one_ahead(iter(range(100)), make, stopped):
        using.set()
        assert own == -item
        if item == 3:
            break
    del item
    deadline = time.monotonic() + 60
    while not stopped.is_set() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stopped.is_set() and made[:4] == [0, 1, 2, 3] and len(made) <= 5


def test_an_error_that_is_no_refusal_is_raised_where_the_answers_are_awaited():
    def make(item):
        raise KeyError(item)

    with pytest.raises(KeyError):
        next(one_ahead(iter([1]), make, threading.Event()))
