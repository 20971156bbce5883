"""Sources in many files: NeMo's tarred manifests, ranges and patterns of names."""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import soundfile
from tiny_parts import noise

from lalm.audio.load import load_audio
from lalm.cli.app import run
from lalm.data.readers import ReaderError, Reading, is_source, open_samples
from lalm.data.sample import Sample, SampleError


def heard(sample: Sample) -> int:
    (part,) = sample.audios
    found = load_audio(part["audio"], offset_s=part.get("offset_s", 0.0), duration_s=part.get("duration_s"))
    return len(found)


def tar_of(path: Path, members: dict[str, Path]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, file in members.items():
            tar.add(file, arcname=name)


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tarred(tmp_path: Path) -> Path:
    """Two shards as NeMo's ``_create_shard`` writes them: one with stretches of a recording, one in FLAC."""
    folder = tmp_path / "tarred"
    folder.mkdir()
    first, second = noise(tmp_path / "a.wav", 2.0, seed=1), noise(tmp_path / "b.wav", 1.0, seed=2)
    samples, rate = soundfile.read(second)
    soundfile.write(tmp_path / "b.flac", samples, rate)
    tar_of(folder / "audio_0.tar", {"data_a.wav": first})
    tar_of(folder / "audio_1.tar", {"data_b.flac": tmp_path / "b.flac"})
    said = {"shard_id": 0, "lang": "en"}
    rows = [
        {"audio_filepath": "data_a.wav", "duration": 0.5, "offset": 0.0, "text": "one", **said},
        {"audio_filepath": "data_a-sub1.wav", "duration": 1.5, "offset": 0.5, "text": "two", **said},
        {"audio_filepath": "data_b.wav", "duration": 1.0, "text": "three", "lang": "en", "shard_id": 1},
    ]
    lines(folder / "tarred_audio_manifest.json", rows)
    lines(folder / "sharded_manifests" / "manifest_0.json", rows[:2])
    lines(folder / "sharded_manifests" / "manifest_1.json", rows[2:])
    (folder / "metadata.yaml").write_text("version: 0\n")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "",
        "tarred_audio_manifest.json",
        "sharded_manifests/manifest__OP_0..1_CL_.json",
        "sharded_manifests/manifest_{0..1}.json",
        "sharded_manifests/manifest_*.json",
    ],
)
def test_a_tarred_manifest_of_nemo_is_read_by_every_name_it_goes_by(tarred: Path, name: str) -> None:
    samples = open_samples(tarred / name)
    assert [s.target for s in samples] == ["one", "two", "three"] and is_source(tarred)
    assert [heard(s) for s in samples] == [8_000, 24_000, 16_000]
    assert samples[1].origin["language"] == "en"


def test_shards_that_are_not_there_are_named(tarred: Path) -> None:
    (tarred / "audio_1.tar").unlink()
    with pytest.raises(SampleError, match=r"manifest.json:3: there is no audio_1.tar for its shard_id"):
        list(open_samples(tarred / "tarred_audio_manifest.json"))
    with pytest.raises(ReaderError, match=r"names '.*manifest_2.json', and there is no such file"):
        open_samples(tarred / "sharded_manifests" / "manifest_{0..2}.json")
    (tarred / "audio_0.tar").unlink()
    with pytest.raises(ReaderError, match=r"a tarred manifest of NeMo's, and no audio_0.tar lies in"):
        open_samples(tarred / "tarred_audio_manifest.json")


def test_a_recording_that_its_tar_has_not_is_named(tarred: Path, tmp_path: Path) -> None:
    tar_of(tarred / "audio_1.tar", {"other.wav": tmp_path / "b.wav"})
    samples = open_samples(tarred)
    assert heard(samples[0]) == 8_000
    with pytest.raises(SampleError, match=r":3: audio_1.tar has no 'data_b.wav'"):
        samples[2]


def test_a_range_of_webdataset_tars_and_several_tables_are_one_source(tmp_path: Path) -> None:
    clip = noise(tmp_path / "clips" / "0.wav", 1.0)
    for number in range(3):
        (tmp_path / "t.txt").write_text(f"text {number}")
        tar_of(tmp_path / f"{number:06d}.tar", {f"{number}.wav": clip, f"{number}.txt": tmp_path / "t.txt"})
        rows = f"path,caption\nclips/0.wav,caption {number}\n"
        (tmp_path / f"part-{number}.csv").write_text(rows)
    found = open_samples(tmp_path / "{000000..000002}.tar")
    assert [s.target for s in found] == ["text 0", "text 1", "text 2"] and heard(found[2]) == 16_000
    reading = Reading({"audio": "path", "answer": "caption"}, prompts=("What?",))
    tables = open_samples(tmp_path / "part-*.csv", reading)
    assert [s.target for s in tables] == [f"caption {n}" for n in range(3)] and len(tables) == 3
    assert tables.place(2) == "part-2.csv:2" and heard(tables[1]) == 16_000
    assert [s.target for s in open_samples(tmp_path / "part-[1..2].csv")] == ["caption 1", "caption 2"]


def test_the_commands_take_patterns(tarred: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = tarred / "sharded_manifests" / "manifest_{0..1}.json"
    assert run(["data", "validate", str(pattern)]) == 0
    assert "3" in capsys.readouterr().out
    assert run(["data", "validate", str(tarred / "nothing_{0..1}.json")]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_buckets_are_read_in_their_order(tarred: Path, tmp_path: Path) -> None:
    for number in (10, 2):
        shutil.copytree(tarred, tmp_path / "all" / f"bucket{number}")
    samples = open_samples(tmp_path / "all")
    assert len(samples) == 6 and [heard(s) for s in samples][3:] == [8_000, 24_000, 16_000]
    assert "bucket2" in str(samples[0].audios[0]["audio"])
