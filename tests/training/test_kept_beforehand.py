"""What a run works out before its first step goes on after a kill, and is its own alone."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_runs import lines, settings, training_world

from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, write_manifest
from lalm.models.assemble import build_model
from lalm.models.lora import add_lora
from lalm.training import run as train
from lalm.training.objectives import curriculum, dpo
from lalm.training.objectives.teacher_table import TeacherError, TeacherTable
from lalm.training.preparing import llm_digest
from lalm.training.resuming import run_digest

LORA = {"rank": 2, "alpha": 4, "dropout": 0.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Clips whose prompts have a word that is right, and a chosen and a rejected answer."""
    folder = training_world(tmp_path_factory.mktemp("kept"), dropout=0.0)
    (folder / "mine.py").write_text("def drawn(sample, answer):\n    return sum(map(ord, answer)) % 97\n")
    samples = [
        Sample(s.prompt().messages, id=s.id, references=("e",), chosen="yes", rejected=f"no, {s.id}")
        for s in read_manifest(folder / "train.jsonl")
    ]
    write_manifest(folder / "train.jsonl", samples)
    return folder


def ranked(world: Any, out: Any, **changes: Any) -> Any:
    """A run of one step from easy to hard; what a prompt is worth tells which answers were drawn."""
    section = {"rewards": [{"name": f"{world}/mine.py:drawn"}], "group": 2, "max_new_tokens": 12}
    section |= {"curriculum": 3, **changes}
    optim = {"max_steps": 1, "batch_size": 4, "learning_rate": 1e-3}
    return settings(world, out, lora=LORA, grpo=section, optim=optim, every={"log": 1, "valid": 0})


def preferring(world: Any, out: Any, **changes: Any) -> Any:
    optim = {"max_steps": 1, "batch_size": 4, "learning_rate": 1e-3}
    section = {"beta": 0.1, "reference": "precomputed"}
    fields = {"dpo": section, "optim": optim, "every": {"log": 1, "valid": 0}, "lora": LORA, **changes}
    return settings(world, out, **fields)


def stopped_at(monkeypatch: Any, module: Any, name: str, call: int, made: Any) -> None:
    """Run a recipe that is killed at some call of a function."""
    calls, function = [], getattr(module, name)

    def counted(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*given, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, name, counted)
        train.run(made)


def worths(out: Any) -> dict[str, float]:
    rows = [json.loads(line) for line in (out / curriculum.FILE).read_text().splitlines()]
    return {row["prompt"]: row["worth"] for row in rows}


def test_prompts_asked_after_a_kill_are_worth_what_they_would_have_been(world, tmp_path, monkeypatch):
    whole = worths(train.run(ranked(world, tmp_path / "whole")))
    assert len(set(whole.values())) > 1
    stopped_at(monkeypatch, curriculum, "draw", 3, ranked(world, tmp_path / "parted"))
    file = tmp_path / "parted" / curriculum.FILE
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:6]) + '{"prompt": "cut o')
    assert worths(train.run(ranked(world, tmp_path / "parted"))) == whole
    assert lines(tmp_path / "parted", "reward") == lines(tmp_path / "whole", "reward")


def test_another_run_in_the_folder_asks_its_own_model(world, tmp_path, monkeypatch):
    """Begun before the first one had a checkpoint, which would have told that it is another."""
    other = train.run(ranked(world, tmp_path / "other", temperature=0.3))
    stopped_at(monkeypatch, train, "parts_table", 1, ranked(world, tmp_path / "out"))
    train.run(ranked(world, tmp_path / "out", temperature=0.3))
    assert lines(tmp_path / "out", "reward") == lines(other, "reward")

    stopped_at(monkeypatch, train, "parts_table", 1, preferring(world, tmp_path / "ours", lora=None))
    seeded = {"optim": {"max_steps": 1, "batch_size": 4, "learning_rate": 1e-3, "seed": 7}}
    train.run(preferring(world, tmp_path / "ours", **seeded))
    assert lines(tmp_path / "ours", "margin")[1] == pytest.approx(0, abs=1e-4)  # the reference is its start


def test_a_run_may_go_on_with_another_server_and_more_room(world, tmp_path):
    def digest(**section: Any) -> str:
        return run_digest(ranked(world, tmp_path, curriculum=0, **section))

    here, there = ({"rollouts": {"url": f"http://localhost:{port}/v1"}} for port in (8000, 8001))
    assert digest(**here) == digest(**there) != digest(**here, temperature=0.5)
    wide, narrow = (settings(world, tmp_path, distil={"cache": "x", "cache_gb": room}) for room in (4, 1))
    assert run_digest(wide) == run_digest(narrow)


def test_a_reference_is_gone_on_with_and_has_the_same_numbers(world, tmp_path, monkeypatch):
    whole = train.run(preferring(world, tmp_path / "whole"))
    monkeypatch.setattr(dpo, "BATCHES_KEPT", 1)
    made = preferring(world, tmp_path / "parted")
    stopped_at(monkeypatch, dpo, "encoded_once", 3, made)
    begun = json.loads((tmp_path / "parted" / "reference.json").read_text())["pairs"]
    assert len(begun) == 8
    asked: list[int] = []
    once: Callable[..., Any] = dpo.encoded_once
    monkeypatch.setattr(dpo, "encoded_once", lambda *given: asked.append(1) or once(*given))
    train.run(made)
    pairs = [json.loads((out / "reference.json").read_text()) for out in (whole, tmp_path / "parted")]
    assert pairs[0]["pairs"] == pairs[1]["pairs"] and len(asked) == 2  # the batch that was left, and the step


def test_a_pair_that_the_reference_could_not_read_is_left_out_by_name(world, tmp_path, monkeypatch):
    monkeypatch.setattr(dpo.ReferenceTable, "fill", lambda self, *given: None)
    with pytest.raises(ValueError, match=r"clip\d+: the reference could not read this pair"):
        train.run(preferring(world, tmp_path / "out"))


def test_a_teacher_is_another_as_soon_as_one_of_its_layers_is(world):
    def digest(change: Callable[[Any], None]) -> str:
        options = {"group_size": 10, "connector_width": 32}
        model, _ = build_model(
            "acdc", encoder=str(world / "encoder"), llm=str(world / "llm"), options=options
        )
        change(model)
        return llm_digest(model)

    plain = digest(lambda model: None)
    assert digest(lambda model: add_lora(model, LORA)) == plain  # LoRA is off where it reads
    layer = "layers.1.mlp.up_proj.weight"
    with torch.no_grad():
        moved = digest(lambda model: model.model.language_model.get_parameter(layer).add_(1e-3))
    assert moved != plain


def test_the_teachers_of_a_cache_share_its_limit(tmp_path):
    numbers = {"ids": torch.zeros(2, 3, dtype=torch.int64), "log_probs": torch.zeros(2, 3)}
    row = ([5, 6, 7], [-100, 6, 7])
    first = TeacherTable(tmp_path, "one", pad=0, limit_bytes=10**6)
    first.fill([row], lambda rows: numbers, batch_size=4)
    room = sum(file.stat().st_size for file in first.folder.iterdir()) + 1
    with pytest.raises(
        TeacherError, match=f"delete what other teachers said \\({first.folder.name} in it\\)"
    ):
        TeacherTable(tmp_path, "two", pad=0, limit_bytes=room).fill([row], lambda rows: numbers, batch_size=4)
