"""Text replay: conversations without a recording are learned among the others, their loss told apart."""

from dataclasses import replace

import pytest
import torch
from tiny_runs import lines, settings, training_world

from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, write_manifest
from lalm.training import run as train
from lalm.training.text_replay import losses_apart


def texts(count: int) -> list[Sample]:
    said = [
        ({"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"{i}" * (10 + 9 * i)})
        for i in range(count)
    ]
    return [Sample(turns, id=f"text{i}") for i, turns in enumerate(said)]  # type: ignore[arg-type]


def test_the_two_sums_are_those_of_the_rows(monkeypatch):
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(8, 30), torch.randn(12, 8)
    targets, alone = torch.randint(0, 30, (12,)), torch.arange(12) % 3 == 0
    wanted = [
        torch.nn.functional.cross_entropy(head(hidden[chosen]), targets[chosen], reduction="sum")
        for chosen in (~alone, alone)
    ]
    for at_once in (2**26, 90):  # whole, and three positions at a time
        monkeypatch.setattr("lalm.models.loss.LOGITS_AT_ONCE", at_once)
        found = losses_apart(head, hidden, targets, alone, 30)
        torch.testing.assert_close(found, torch.stack(wanted))


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_a_run_tells_both_losses(tmp_path, packing):
    world = training_world(tmp_path, dropout=0.0)
    write_manifest(world / "text.jsonl", texts(9))
    mixed = [{"path": str(world / "train.jsonl")}, {"path": str(world / "text.jsonl")}]
    made = settings(
        world,
        tmp_path / "out",
        lora={"rank": 2, "alpha": 4, "dropout": 0.0},
        data={"train": mixed, "valid": [str(world / "text.jsonl")]},
        optim={"batch_size": 6, "max_steps": 4, "packing": packing, "learning_rate": 1e-2},
        valid={"samples": 3, "generate": 0},
    )
    out = train.run(made)
    whole, audio, text = (lines(out, name) for name in ("loss", "loss_audio", "loss_text"))
    assert audio.keys() | text.keys() == {1, 2, 3, 4} and audio.keys() & text.keys()
    for step in text.keys() & audio.keys():
        low, high = sorted((audio[step], text[step]))
        assert low - 1e-4 <= whole[step] <= high + 1e-4 and low != high
    for step in audio.keys() - text.keys():
        assert audio[step] == pytest.approx(whole[step], abs=1e-4)
    assert lines(out, "valid_loss_text") == pytest.approx(lines(out, "valid_loss"), abs=1e-4)
    assert not lines(out, "valid_loss_audio")


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_a_run_with_a_teacher_tells_both_losses(tmp_path, packing):
    """That of the rows with audio is what it is in a batch without the others."""
    world = training_world(tmp_path, dropout=0.0)
    known = [replace(s, origin={"caption": f"Noise {s.id}"}) for s in read_manifest(world / "train.jsonl")]
    write_manifest(world / "known.jsonl", known[:4])
    write_manifest(world / "text.jsonl", texts(4))
    fields = {
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.0},
        "distil": {"weight": 0.5, "top_k": 8},
        "optim": {"batch_size": 8, "max_steps": 1, "packing": packing},
    }

    def first(name: str, *manifests: str) -> dict[str, float]:
        data = {"train": [{"path": str(world / one)} for one in manifests]}
        out = train.run(settings(world, tmp_path / name, data=data, **fields))
        return {key: lines(out, key)[1] for key in ("loss", "loss_audio", "loss_text") if lines(out, key)}

    both, audio = first("both", "known.jsonl", "text.jsonl"), first("audio", "known.jsonl")
    assert audio.keys() == {"loss"}
    assert both["loss_audio"] == pytest.approx(audio["loss"], abs=1e-4)
    low, high = sorted((both["loss_audio"], both["loss_text"]))
    assert low < both["loss"] < high


def test_runs_without_text_do_not_speak_of_it_and_a_frozen_llm_refuses_it(tmp_path):
    world = training_world(tmp_path)
    out = train.run(settings(world, tmp_path / "plain", optim={"max_steps": 1}))
    assert lines(out) and not lines(out, "loss_audio")
    write_manifest(world / "text.jsonl", texts(2))
    mixed = [{"path": str(world / "train.jsonl")}, {"path": str(world / "text.jsonl")}]
    known = [replace(s, origin={"caption": "a hiss"}) for s in read_manifest(world / "train.jsonl")]
    write_manifest(world / "train.jsonl", known)
    for changes in ({}, {"distil": {}}, {"dpo": {"beta": 0.1, "loss": "kto"}}):
        with pytest.raises(ValueError, match="nothing of it trains: take them out, or add 'lora'"):
            train.run(settings(world, tmp_path / "frozen", lora=None, data={"train": mixed}, **changes))
