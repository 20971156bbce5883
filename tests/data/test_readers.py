"""Readers over folders as Kaldi, Lhotse, WebDataset and Hugging Face's datasets leave them, with audio."""

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_parts import noise

from lalm.audio.load import load_audio
from lalm.data.frame_cache import clip_key
from lalm.data.mixture import audio_seconds, open_manifest
from lalm.data.readers import ReaderError, open_samples
from lalm.data.sample import Sample, SampleError, write_manifest


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def heard(sample: Sample) -> np.ndarray:
    (part,) = sample.audios
    return load_audio(part["audio"], offset_s=part.get("offset_s", 0.0), duration_s=part.get("duration_s"))


def test_kaldi_folders_with_segments_and_languages(tmp_path: Path) -> None:
    clip = noise(tmp_path / "audio" / "rec.wav", 3.0)
    (tmp_path / "wav.scp").write_text(f"rec {clip}\nother audio/rec.wav\npiped sox x.wav -t wav - |\n")
    (tmp_path / "segments").write_text(
        "u1 rec 0.5 1.25\nu2 other 2.0 -1\nu3 piped 0 1\nu4 gone 0 1\nu5 rec 2 1\n"
    )
    (tmp_path / "text").write_text("u1 HELLO THERE\nu2 good morning\nu3 x\nu4 x\nu5 x\nu6 x\n")
    (tmp_path / "utt2lang").write_text("u1 en\n")
    samples = open_samples(tmp_path)
    assert [samples[i].target for i in range(2)] == ["HELLO THERE", "good morning"]
    assert samples[0].id == "u1" and samples[0].origin == {"language": "en"} and not samples[1].origin
    assert len(heard(samples[0])) == 12_000 and len(heard(samples[1])) == 16_000
    np.testing.assert_array_equal(heard(samples[0]), load_audio(clip)[8000:20_000])
    for number, words in (
        (2, "gives a command for piped"),
        (3, "has no recording gone"),
        (4, "ends at 1.0 s, before it starts"),
        (5, "segments has no 'RECORDING START END'"),
    ):
        with pytest.raises(ReaderError, match=rf"text \(u{number + 1}\): .*{words}"):
            samples[number]
    (tmp_path / "text").write_text("u1 a\nu1 b\n")
    with pytest.raises(ReaderError, match=r"text:2: u1 stands there twice"):
        open_samples(tmp_path)


def test_webdataset_tars_are_read_in_place(tmp_path: Path) -> None:
    clip = noise(tmp_path / "a.flac", 1.0)
    whole = {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "d/3.flac"}]}]}
    whole["messages"].append({"role": "assistant", "content": "From a whole row."})
    with tarfile.open(tmp_path / "s-0.tar", "w") as tar:
        add(tar, "./d/1.flac", clip.read_bytes())
        add(tar, "./d/1.txt", b"First.\n")
        add(tar, "d/2.flac", clip.read_bytes())
        add(tar, "d/2.json", json.dumps({"caption": "Second.", "language": "en"}).encode())
    with tarfile.open(tmp_path / "s-1.tar", "w") as tar:
        add(tar, "d/3.flac", clip.read_bytes())
        add(tar, "d/3.json", json.dumps(whole).encode())
        add(tar, "d/4.flac", clip.read_bytes())
        add(tar, "d/5.txt", b"no audio")
    samples = open_samples(tmp_path)
    assert [samples[i].target for i in range(3)] == ["First.", "Second.", "From a whole row."]
    assert samples[1].origin == {"language": "en"}
    for i in range(3):
        np.testing.assert_array_equal(heard(samples[i]), load_audio(clip))
        assert audio_seconds(samples[i].audios[0]) == 1.0
    assert clip_key(samples[0].audios[0]) == clip_key({"type": "audio", "audio": str(clip)})
    with pytest.raises(ReaderError, match=r"s-1.tar/d/4 has no text"):
        samples[3]
    with pytest.raises(ReaderError, match=r"s-1.tar/d/5 has no audio"):
        samples[4]
    assert write_manifest(tmp_path / "out" / "m.jsonl", [samples[0]]) == 1
    again = open_samples(tmp_path / "out" / "m.jsonl")[0]
    np.testing.assert_array_equal(heard(again), load_audio(clip))
    data = (tmp_path / "s-1.tar").read_bytes()
    (tmp_path / "short.tar").write_bytes(data[:2000])
    with pytest.raises(ValueError, match=r"short.tar"):
        heard(open_samples(tmp_path / "short.tar")[0])
    (tmp_path / "no.tar").write_bytes(b"no tar at all")
    with pytest.raises(ValueError, match=r"no.tar is not a whole tar file"):
        open_samples(tmp_path / "no.tar")
    with pytest.raises(ValueError, match="has no member d/9"):
        load_audio(f"{tmp_path}/s-0.tar/d/9.flac")


def test_lhotse_cuts_and_shar_folders_written_by_lhotse(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    clip = noise(tmp_path / "clip.wav", 4.0)
    recording = lhotse.Recording.from_file(clip, recording_id="r")
    supervision = lhotse.SupervisionSegment(
        "s", "r", 0.0, 1.5, text="hello you", language="en", speaker="ann"
    )
    whole = lhotse.MonoCut(
        "c1", start=0.5, duration=1.5, channel=0, recording=recording, supervisions=[supervision]
    )
    faster = lhotse.MonoCut("c2", start=0, duration=2, channel=0, recording=recording).perturb_speed(1.1)
    mixed = whole.pad(duration=3.0).with_id("c3")
    lhotse.CutSet.from_cuts([whole, faster, mixed]).to_jsonl(tmp_path / "cuts.jsonl.gz")
    samples = open_samples(tmp_path / "cuts.jsonl.gz")
    assert samples[0].target == "hello you" and samples[0].origin == {"language": "en", "speaker": "ann"}
    np.testing.assert_allclose(heard(samples[0]), whole.load_audio()[0], atol=1e-4)
    for i in (1, 2):
        with pytest.raises(SampleError, match=rf"cuts.jsonl.gz:{i + 1}: .*CutSet.save_audios"):
            samples[i]
    shar = tmp_path / "shar"
    shar.mkdir()
    lhotse.CutSet.from_cuts([whole, faster, whole.with_id("c3")]).to_shar(
        shar, fields={"recording": "flac"}, shard_size=2
    )
    samples = open_samples(shar)
    assert len(samples) == 3
    for sample, cut in zip(samples, (whole, faster, whole), strict=True):
        np.testing.assert_allclose(heard(sample), cut.load_audio()[0], atol=1e-3)
    (shar / "recording.000001.tar").unlink()
    with pytest.raises(ReaderError, match=r"cuts.000001.jsonl.gz:1: there is no recording.000001.tar"):
        samples[2]


def test_hugging_face_folders(tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    clip = noise(tmp_path / "clip.wav", 1.0)
    rows = {
        "audio": [{"bytes": clip.read_bytes(), "path": None}, {"bytes": None, "path": str(clip)}],
        "sentence": ["one", "two"],
        "locale": ["cy", "de"],
    }
    data = datasets.Dataset.from_dict(rows)
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "pq" / "0.parquet")
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "split")
    for folder in ("saved", "pq", "split/train"):
        samples = open_samples(tmp_path / folder)
        assert [s.target for s in samples] == ["one", "two"]
        assert samples[1].origin == {"language": "de"}
        for sample in samples:
            np.testing.assert_array_equal(heard(sample), load_audio(clip))
    with pytest.raises(ReaderError, match=r"holds the splits train: name one, such as .*split/train"):
        open_samples(tmp_path / "split")
    datasets.Dataset.from_dict({"x": [1]}).save_to_disk(tmp_path / "odd")
    with pytest.raises(ReaderError, match=r"odd: none of its columns \(x\) has a usual name"):
        open_samples(tmp_path / "odd")


class Hub:
    """Files below a folder as the Hub would serve them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def glob(self, pattern: str) -> list[str]:
        inside = pattern.removeprefix("hf://datasets/").removesuffix("/**.parquet")
        found = (self.folder / inside).rglob("*.parquet")
        return [f"datasets/{path.relative_to(self.folder)}" for path in found]

    def open(self, path: str) -> Any:
        return (self.folder / path.removeprefix("hf://datasets/")).open("rb")


def test_parquet_is_streamed_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    pyarrow: Any = pytest.importorskip("pyarrow")
    clip = noise(tmp_path / "clip.wav", 0.5).read_bytes()
    (tmp_path / "me" / "sounds" / "data").mkdir(parents=True)
    for number, texts in enumerate((["a", "b", "c"], ["d", "e", "f", "g"])):
        table = pyarrow.table({"audio": [{"bytes": clip, "path": "x.wav"}] * len(texts), "text": texts})
        parquet.write_table(table, tmp_path / f"me/sounds/data/{number}.parquet", row_group_size=2)
    monkeypatch.setattr("lalm.data.readers.row_groups._hub", lambda: Hub(tmp_path))
    reads = []
    read = parquet.ParquetFile.read_row_group
    monkeypatch.setattr(
        parquet.ParquetFile, "read_row_group", lambda self, group: reads.append(group) or read(self, group)
    )
    samples = open_samples("hf://datasets/me/sounds")
    assert len(samples) == 7 and samples.in_order and not reads
    assert [s.target for s in samples] == list("abcdefg") and len(reads) == 4
    np.testing.assert_array_equal(heard(samples[4]), load_audio(clip))
    assert pickle.loads(pickle.dumps(samples))[6].target == "g"
    with pytest.raises(ReaderError, match="'hf://datasets/me/none' has no parquet files"):
        open_samples("hf://datasets/me/none")
    (tmp_path / "me" / "sounds" / "data" / "2.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ReaderError, match=r"hf://datasets/me/sounds/data/2.parquet' cannot be read as parq"):
        open_samples("hf://datasets/me/sounds/data")


def test_slam_llm_rows_and_gzipped_lines(tmp_path: Path) -> None:
    noise(tmp_path / "a.wav", 0.5)
    rows = [
        {"key": "k1", "source": "a.wav", "target": "a hum"},
        {"key": "k2", "source": "a.wav", "target": "a hum", "prompt": "What?"},
        {"key": "k3", "source": "a.wav", "target": "x", "other": 1},
    ]
    with gzip.open(tmp_path / "slam.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps(row) for row in rows))
    samples = open_samples(tmp_path / "slam.jsonl.gz")
    assert [(s.id, s.target) for s in samples[:2]] == [("k1", "a hum"), ("k2", "a hum")]
    assert len(samples[1].messages[0]["content"]) == 2
    with pytest.raises(SampleError, match=r"slam.jsonl.gz:3: a SLAM-LLM row has the unknown key 'other'"):
        samples[2]
    (tmp_path / "cut.jsonl.gz").write_bytes((tmp_path / "slam.jsonl.gz").read_bytes()[:40])
    with pytest.raises(ReaderError, match="is not a whole gzip file"):
        open_samples(tmp_path / "cut.jsonl.gz")


def test_lines_by_number_with_blank_ones_and_without_a_last_break(tmp_path: Path) -> None:
    line = json.dumps(
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"}]}
    )
    (tmp_path / "m.jsonl").write_bytes(f"\ufeff{line}\n\n   \n{line}\r\n{{broken\n{line}".encode())
    samples = open_samples(tmp_path / "m.jsonl")
    assert len(samples) == 4 and samples[3] == samples[0]
    assert [samples.place(i) for i in range(4)] == ["m.jsonl:1", "m.jsonl:4", "m.jsonl:5", "m.jsonl:6"]
    with pytest.raises(ReaderError, match=r"m.jsonl:5: not JSON"):
        samples[2]
    with pytest.raises(ReaderError, match=r"m.jsonl:5: not JSON"):
        open_manifest(tmp_path / "m.jsonl")
    with pytest.raises(IndexError):
        samples[4]


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReaderError, match=r"empty' is a folder with none of wav.scp"):
        open_samples(tmp_path / "empty")
    with pytest.raises(ReaderError, match="there is no manifest"):
        open_samples(tmp_path / "none.jsonl")
    soundfile.write(tmp_path / "x.jsonl", np.zeros(100), 16_000, format="WAV")
    with pytest.raises(ReaderError, match=r"x.jsonl is no text but a recording"):
        open_samples(tmp_path / "x.jsonl")[0]
