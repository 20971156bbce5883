"""Threads are chosen by measuring, again when steps slow down, and left alone where somebody chose them."""

import logging

import pytest
import torch

from lalm.data.sample import ask
from lalm.inference import threads
from lalm.inference.engine import Engine, Options
from lalm.inference.threads import Threads, available, candidates, cgroup_quota, products_of, usable
from lalm.models.int8 import Int8Product, make_int8
from lalm.models.lora import add_lora
from lalm.models.packed_half import PackedLinear, pack_half


@pytest.fixture
def clock(monkeypatch):
    """A machine: seconds of the work by number of threads, and the time."""
    machine = {"seconds": {1: 0.002, 2: 0.001}, "now": 100.0, "threads": 2}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usual_numbers", lambda: {2})
    monkeypatch.setattr(threads, "available", lambda: 2)
    monkeypatch.setattr(threads.time, "monotonic", lambda: machine["now"])
    monkeypatch.setattr(threads.time, "perf_counter", lambda: machine["now"])
    monkeypatch.setattr(torch, "get_num_threads", lambda: machine["threads"])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: machine.update(threads=n))
    return machine


def work_of(machine):
    def work():
        machine["now"] += machine["seconds"][machine["threads"]]

    return work


def test_busy_neighbours_make_it_choose_fewer_threads_and_it_says_so_once(clock, caplog):
    caplog.set_level(logging.INFO, "lalm.threads")
    chosen = Threads(work_of(clock))
    with chosen.set():
        assert clock["threads"] == 2
        for _ in range(threads.WINDOW):
            chosen.step(0.1)
        clock["seconds"] = {1: 0.003, 2: 0.03}
        clock["now"] += 10
        for _ in range(threads.WINDOW):
            chosen.step(0.2)
        assert clock["threads"] == 1
        clock["now"] += 100
    assert clock["threads"] == 2  # put back
    with chosen.set():
        assert clock["threads"] == 1
    clock["seconds"] = {1: 0.002, 2: 0.001}
    with chosen.set():
        assert clock["threads"] == 1  # measured just now
    clock["now"] += threads.KEPT_FEWER_S
    with chosen.set():
        assert clock["threads"] == 2
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "1 of 2 threads" in said[1] and "2: 30.00 ms" in said[1]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_steps_of_more_rows_may_take_longer(clock):
    chosen = Threads(work_of(clock))
    with chosen.set():
        clock["now"] += 10
        began = clock["now"]
        for rows in (1, 2, 8, 32):
            for _ in range(2 * threads.WINDOW):
                chosen.step(0.1 * rows, rows)
        assert clock["now"] == began  # nothing was measured
        clock["seconds"] = {1: 0.003, 2: 0.03}
        for _ in range(threads.WINDOW):
            chosen.step(0.2 * 32, 32)
        assert clock["threads"] == 1


def test_more_threads_are_tried_again_while_answers_are_made_without_a_pause(clock):
    clock["seconds"] = {1: 0.002, 2: 0.02}
    chosen = Threads(work_of(clock))
    with chosen.set():
        assert clock["threads"] == 1
        clock["seconds"] = {1: 0.002, 2: 0.001}
        chosen.step(0.1)
        assert clock["threads"] == 1  # measured just now
        clock["now"] += threads.KEPT_FEWER_S
        chosen.step(0.1)
        assert clock["threads"] == 2


def test_what_somebody_chose_stays(clock, monkeypatch):
    clock["threads"] = 7  # torch.set_num_threads(7)
    with Threads(work_of(clock)).set():
        assert clock["threads"] == 7
    clock["threads"] = 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    clock["seconds"][1] = 1e-6
    with Threads(work_of(clock)).set():
        assert clock["threads"] == 2


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_quotas_of_containers_are_read(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert cgroup_quota(tmp_path) == quota
    assert available() >= 1 and candidates(16) == [1, 8, 16] and candidates(1) == [1]


def test_an_engine_is_measured_by_its_own_products(tiny, monkeypatch):
    model, processor = tiny("acdc")
    engine = Engine(model, processor, "tiny")
    calls = []
    engine.threads = Threads(lambda: calls.append(1) or products_of(model)(), limit=2)
    monkeypatch.setattr(engine.threads, "_free", True)
    before = torch.get_num_threads()
    engine.reply([ask([], "?")], Options(max_new_tokens=3))
    assert len(calls) > 2 * threads.ROUNDS and torch.get_num_threads() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "int8"])
def test_the_products_are_those_of_one_layer_after_the_other_without_lora(tiny, dtype):
    model, _ = tiny("acdc")
    body = model.model.language_model
    add_lora(model, {"rank": 2, "alpha": 4, "targets": ["q_proj"]})
    if dtype == "int8":
        make_int8(model)
    else:
        body.to(dtype)
        pack_half(model)
    seen = []
    for number, layer in enumerate(body.layers):
        for module in layer.modules():
            if isinstance(module, Int8Product | PackedLinear | torch.nn.Linear):
                note = lambda m, inputs, out, number=number: seen.append((number, m, inputs[0]))  # noqa: E731
                module.register_forward_hook(note)
    work, layers = products_of(model), len(body.layers)
    for number in (*range(layers), 0):
        seen.clear()
        work()
        assert {place for place, _, _ in seen} == {number}
        assert len(seen) == (4 if dtype == "int8" else 7)
        assert {len(row) for _, _, row in seen} == {8 if isinstance(seen[0][1], PackedLinear) else 1}


def test_other_libraries_get_no_more_threads_than_a_container_has(clock, monkeypatch):
    assert usable() == 2
    monkeypatch.setattr(threads, "available", lambda: 1)
    assert usable() == 1  # torch has 2: it knows nothing of the quota
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert usable() == 2  # somebody chose them
