"""``lalm data join``: several manifests as one, a draw of one, and recordings that stay where they are."""

from dataclasses import replace
from pathlib import Path

import pytest

from lalm.cli.app import run
from lalm.data.readers import read_manifest
from lalm.data.sample import ask, write_manifest


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    for name, count in (("a", 3), ("b", 40)):
        asked = [ask([tmp_path / name / f"{i}.wav"], "What?").with_target(f"{name}{i}") for i in range(count)]
        clips = [replace(sample, id=f"clip{i}", task="caption") for i, sample in enumerate(asked)]
        write_manifest(tmp_path / name / "rows.jsonl", clips)
    return tmp_path / "a" / "rows.jsonl", tmp_path / "b" / "rows.jsonl"


def test_manifests_of_two_folders_become_one(two, tmp_path, capsys):
    out = tmp_path / "joined" / "all.jsonl"
    assert run(["data", "join", *map(str, two), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 43 samples\n"
    samples = list(read_manifest(out))
    assert [s.target for s in samples] == [f"a{i}" for i in range(3)] + [f"b{i}" for i in range(40)]
    ids = [s.id for s in samples]
    assert (
        len(set(ids)) == 43 and ids[:3] == ["clip0", "clip1", "clip2"] and ids[3:5] == ["clip0-2", "clip1-2"]
    )
    assert {Path(str(s.audios[0]["audio"])).resolve() for s in samples[:3]} == {
        tmp_path / "a" / f"{i}.wav" for i in range(3)
    }


def test_some_samples_are_drawn_by_the_seed(two, tmp_path):
    drawn = []
    for seed in ("0", "0", "1"):
        words = [
            "data",
            "join",
            str(two[1]),
            "--most",
            "10",
            "--seed",
            seed,
            "--out",
            str(tmp_path / "o.jsonl"),
        ]
        assert run(words) == 0
        drawn.append([s.target for s in read_manifest(tmp_path / "o.jsonl")])
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 10


def test_a_manifest_is_not_written_over_by_itself(two, capsys):
    assert run(["data", "join", *map(str, two), "--out", str(two[0])]) == 2
    assert "--out is one of the manifests" in capsys.readouterr().err
    assert run(["data", "join", "gone.jsonl", "--out", "x.jsonl"]) == 2


def test_only_samples_of_a_task_or_an_origin_are_kept(two, tmp_path, capsys):
    rows = [replace(ask([], "?").with_target("x"), task=t) for t in ("what", "speech", "order")]
    rows = [replace(row, origin={"kind": kind}) for row in rows for kind in ("bed", "single")]
    write_manifest(tmp_path / "rows.jsonl", rows)
    words = ["data", "join", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "o.jsonl")]
    assert run([*words, "--only", "task=what,order", "--only", "origin.kind=bed"]) == 0
    assert [(s.task, s.origin["kind"]) for s in read_manifest(tmp_path / "o.jsonl")] == [
        ("what", "bed"),
        ("order", "bed"),
    ]
    assert run([*words, "--only", "task=nothing"]) == 2
    assert "no sample has task=nothing" in capsys.readouterr().err


def test_what_is_asked_can_be_replaced(two, tmp_path):
    words = ["data", "join", str(two[0]), "--out", str(tmp_path / "o.jsonl"), "--ask", "<|{task}|> please"]
    assert run(words) == 0
    for before, after in zip(read_manifest(two[0]), read_manifest(tmp_path / "o.jsonl"), strict=True):
        kinds = [part["type"] for part in after.messages[0]["content"]]
        assert kinds == ["audio", "text"] and after.target == before.target
        assert after.messages[0]["content"][1]["text"] == "<|caption|> please"
