"""Distillation: the divergence against torch's, what the teacher reads, its table, whole runs that resume."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import lines, settings, training_world
from torch.nn.functional import kl_div

from lalm.data.readers import read_manifest
from lalm.data.sample import Event, Sample, ask, write_manifest
from lalm.training import recipe
from lalm.training import run as train
from lalm.training.objectives import distil
from lalm.training.objectives.teacher_table import TeacherError, TeacherTable
from lalm.training.recipe import RecipeError
from lalm.training.sections import Distil

BELL = Event(label="bell", caption="A bell rings", onset_s=0.0, offset_s=0.5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_over_the_whole_vocabulary_the_divergence_is_torchs(temperature):
    torch.manual_seed(0)
    teacher, student = torch.randn(5, 11), torch.randn(5, 11)
    ids, log_probs = distil.top_log_probs(teacher, 11, temperature)
    ours = distil.kl_over_top(ids, log_probs, student, temperature)
    goal = (teacher / temperature).log_softmax(1)
    theirs = kl_div((student / temperature).log_softmax(1), goal, log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(ours, theirs)
    few = [
        distil.kl_over_top(*distil.top_log_probs(teacher, k, temperature), student, temperature)
        for k in (1, 4)
    ]
    assert bool((few[0] <= few[1] + 1e-6).all()) and bool((few[1] <= theirs + 1e-6).all())
    assert bool((few[0] > 0).all())  # a bound that says something
    same = distil.kl_over_top(*distil.top_log_probs(teacher, 4, temperature), teacher, temperature)
    torch.testing.assert_close(same, torch.zeros(5), atol=1e-6, rtol=0)


def test_the_teacher_reads_what_is_known_in_the_recordings_place():
    asked = ask(["a.wav"], "What rings?", system="Be brief.").with_target("A bell.")
    for known in (
        replace(asked, origin={"caption": "A bell rings"}),
        replace(asked, events=(BELL,)),
        replace(asked, task="response", references=("A bell rings",)),
    ):
        told = distil.read_instead(known)
        assert told is not None and not told.audios
        assert [m["content"] for m in told.messages] == ["Be brief.", "A bell rings\nWhat rings?", "A bell."]
    spoken = distil.read_instead(replace(asked, origin={"transcript": "hello", "caption": "A man speaks"}))
    assert spoken is not None and spoken.messages[1]["content"] == '"hello"\nA man speaks\nWhat rings?'
    assert distil.read_instead(replace(asked, references=("A bell rings",), task="aqa")) is None
    two = ask(["a.wav", "b.wav"], "Which rings?").with_target("b")
    assert distil.read_instead(replace(two, events=(BELL,))) is None
    text = Sample(({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}))
    assert distil.read_instead(text) is text
    with pytest.raises(ValueError, match="no training sample says what is heard"):
        distil.check_known([asked, text])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = training_world(tmp_path_factory.mktemp("distil"), dropout=0.0)
    samples = [replace(s, origin={"caption": f"Noise {s.id}"}) for s in read_manifest(folder / "train.jsonl")]
    samples[3] = replace(samples[3], origin={})  # of one nothing is known
    write_manifest(folder / "train.jsonl", samples)
    write_manifest(folder / "valid.jsonl", samples[:3])
    return folder


def run(world: Any, out: Any, distil: dict[str, Any], **changes: Any) -> Any:
    changes = {"lora": None, "optim": {"max_steps": 6, "batch_size": 4}, **changes}
    data = {"valid": [str(world / "valid.jsonl")]}
    return train.run(settings(world, out, distil=distil, data=data, **changes))


def test_the_student_comes_nearer_to_the_teacher(world, tmp_path):
    out = run(world, tmp_path / "kl", {"top_k": 8}, optim={"max_steps": 20, "batch_size": 4})
    kl = lines(out, "kl")
    assert kl[20] < 0.9 * kl[1] and kl[20] > 0
    assert lines(out, "valid_kl")[20] > 0
    assert lines(out, "cross_entropy")  # of the sample of which nothing is known
    hidden = run(world, tmp_path / "hidden", {"on": "hidden"}, optim={"max_steps": 20, "batch_size": 4})
    assert lines(hidden, "distance")[20] < lines(hidden, "distance")[1]


def test_kept_numbers_are_those_read_in_every_step(world, tmp_path):
    live = run(world, tmp_path / "live", {"top_k": 8, "weight": 0.5})
    kept = {"top_k": 8, "weight": 0.5, "cache": str(tmp_path / "teacher")}
    table = run(world, tmp_path / "table", kept)
    assert list(lines(table).values()) == pytest.approx(list(lines(live).values()), abs=2e-3)  # float16 kept
    packed = run(world, tmp_path / "packed", kept, optim={"max_steps": 6, "batch_size": 4, "packing": True})
    assert list(lines(packed).values()) == pytest.approx(list(lines(table).values()), abs=1e-3)
    with pytest.raises(TeacherError, match=r"more than the 1e-06 GB .*raise distil\.cache_gb"):
        run(world, tmp_path / "full", kept | {"cache": str(tmp_path / "other"), "cache_gb": 1e-6})


def test_a_resumed_run_is_the_run_that_was_not_stopped(world, tmp_path):
    kept = {"top_k": 4, "cache": str(tmp_path / "teacher")}
    lora = {"rank": 2, "alpha": 4, "dropout": 0.2}
    shared = {"lora": lora, "every": {"log": 1, "save": 3, "valid": 0}}
    optim = {"max_steps": 6, "batch_size": 4, "schedule": "constant"}
    whole = run(world, tmp_path / "whole", kept, optim=optim, **shared)
    for steps in (3, 6):
        parted = run(world, tmp_path / "parted", kept, optim=optim | {"max_steps": steps}, **shared)
    assert lines(parted) == lines(whole)
    one, other = (load_file(folder / "model.safetensors") for folder in (parted, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_llm_that_trains_is_taught_by_its_start(world, tmp_path):
    out = run(world, tmp_path / "own", {"top_k": 8}, trainable=["connector", "language_model"])
    assert lines(out, "kl")[6] > 0


def test_a_table_refuses_rows_it_was_not_asked_about(tmp_path):
    table = TeacherTable(tmp_path, "teacher", pad=0, limit_bytes=10**6)
    numbers = {"ids": torch.zeros(2, 3, dtype=torch.int64), "log_probs": torch.zeros(2, 3)}
    assert table.fill([([5, 6, 7], [-100, 6, 7])], lambda rows: numbers, batch_size=4) == 1
    again = TeacherTable(tmp_path, "teacher", pad=0, limit_bytes=10**6)
    assert len(again) == 1 and again.fill([([5, 6, 7], [-100, 6, 7])], lambda rows: {}, batch_size=4) == 0
    row = {
        "input_ids": torch.tensor([[5, 6, 8]]),
        "attention_mask": torch.ones(1, 3, dtype=torch.int64),
        "labels": torch.tensor([[-100, 6, 8]]),
    }
    with pytest.raises(TeacherError, match="not asked about a row"):
        again.of(row)


def test_objectives_do_not_mix():
    fields: dict[str, Any] = {"init": {"from": "x"}, "data": {"train": [{"path": "x"}]}, "system": "acdc"}
    optim = {"learning_rate": 1, "batch_size": 1, "max_steps": 1}
    with pytest.raises(ValueError, match="a run has one objective: take out all but one of dpo, distil"):
        recipe.Recipe.model_validate(
            fields | {"optim": optim, "out": "x", "distil": {}, "dpo": {"beta": 0.1}}
        )
    assert Distil().top_k == 64 and issubclass(RecipeError, ValueError)
