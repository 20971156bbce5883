"""Tables as spreadsheets, scripts and hands leave them: each is read rightly, or refused in one sentence."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalm.data.readers import ReaderError, Reading, open_samples
from lalm.data.sample import SampleError


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with ``a.wav`` and ``b.wav``."""
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.full(1600, 0.1), 16_000)
    return tmp_path


def targets(path: Path, reading: Reading | None = None) -> list[str | None]:
    samples = open_samples(path, reading)
    for sample in samples:
        assert Path(str(sample.audios[0]["audio"])).is_file()
    return [sample.target or None for sample in samples]


TWO = "audio,caption\na.wav,one\nb.wav,two\n"
READ = {  # as bytes -> the answers
    "utf-16 without a mark.csv": (TWO.encode("utf-16-le"), ["one", "two"]),
    "utf-16-be without a mark.csv": (TWO.encode("utf-16-be"), ["one", "two"]),
    "old Mac.csv": (TWO.replace("\n", "\r").encode(), ["one", "two"]),
    "empty rows and columns.csv": (
        b"audio,caption\r\n,\r\n,,,\r\na.wav,one,,\r\nb.wav,two\r\n,\r\n",
        ["one", "two"],
    ),
    "quotes inside.csv": (
        b'audio,caption\na.wav,a 5" nail\nb.wav,"a 6"" nail,\nand more"\n',
        ['a 5" nail', 'a 6" nail,\nand more'],
    ),
    "long.csv": (b"audio,caption\na.wav," + b"x" * 200_000 + b"\nb.wav,two\n", ["x" * 200_000, "two"]),
    "lists.csv": (b"""audio,caption\na.wav,"['one', 'uno']"\nb.wav,[two]\n""", ["one", "[two]"]),
    "list of audio.csv": (b"""audio,caption\n"['a.wav']",one\n""", ["one"]),
    "commas.jsonl": (
        b'{"audio":"a.wav","caption":"one"},\n{"audio":"b.wav","caption":"two"}\n',
        ["one", "two"],
    ),
    "spread.json": (json.dumps({"audio": "a.wav", "caption": "one"}, indent=1).encode(), ["one"]),
    "by name.json": (b'{"a.wav": "one", "b.wav": "two"}', ["one", "two"]),
    "names.json": (b'["a.wav", "b.wav"]', [None, None]),
    "beside messages.jsonl": (
        b'{"messages":[{"role":"user","content":"<audio>What?"},{"role":"assistant","content":"one"}],'
        b'"audio":"a.wav"}\n',
        ["one"],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_it_is_read(clips: Path, name: str) -> None:
    data, answers = READ[name]
    (clips / name).write_bytes(data)
    assert targets(clips / name) == answers


REFUSED = {
    "open.csv": (b'audio,caption\na.wav,"one\nb.wav,two\n', "open.csv:2: a double quote opens a field there"),
    "few.csv": (b"audio,caption,x\na.wav\n", r"few.csv:2: the row has 1 field, not 3$"),
    "book.csv": (b"PK\x03\x04\x14\0\6\0" * 9, "no text but a zip file or an Excel workbook: save it as CSV"),
    "bytes.csv": (bytes(range(256)), "bytes.csv is no text$"),
    "sound.jsonl": (b"fLaC" + bytes(99), "no text but a recording"),
    "spread.jsonl": (b'{\n "audio": "a.wav",\n "caption": "one"\n}\n{\n}\n', "a row is one line: jq -c"),
    "quotes.jsonl": (b"{'audio': 'a.wav'}\n", "^quotes.jsonl:1: not JSON: [^;]*$"),
    "splits.json": (
        b'{"train": [{"audio": "a.wav"}], "test": [{"audio": "b.wav"}]}',
        "several lists of rows, train, test",
    ),
    "numbers.jsonl": (b'{"audio": {"array": [0.1]}, "caption": "one"}\n', "holds samples as numbers: write"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_sentence(clips: Path, name: str) -> None:
    data, words = REFUSED[name]
    (clips / name).write_bytes(data)
    with pytest.raises(SampleError, match=words) as refused:
        open_samples(clips / name)[0]
    assert "\n" not in str(refused.value)


def test_a_line_that_is_not_json_leaves_the_others_a_table(clips: Path) -> None:
    (clips / "x.jsonl").write_text('// mine\n{"audio": "a.wav", "caption": "one"}\n')
    samples = open_samples(clips / "x.jsonl")
    with pytest.raises(ReaderError, match=r"x.jsonl:1: not JSON"):
        samples[0]
    assert samples[1].target == "one"


def test_choices_in_columns_and_in_lists(clips: Path) -> None:
    (clips / "x.csv").write_text(
        'audio,question,choices,answer\na.wav,What?,"[""a dog"", ""a cat""]",a dog\n'
    )
    (clips / "y.csv").write_text("audio,question,option_a,option_b,answer\na.wav,What?,a dog,a cat,a dog\n")
    for name in ("x.csv", "y.csv"):
        assert open_samples(clips / name)[0].choices == ("a dog", "a cat")


def test_parquet_with_bytes_beside_the_name_that_they_had(clips: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    held = (clips / "a.wav").read_bytes()
    inside = {"bytes": held, "path": "it/is/elsewhere.wav"}
    for column, cell in (("audio", inside), ("mine", held)):
        (clips / column).mkdir()
        table = pyarrow.table({column: [cell, cell], "sentence": ["one", "two"]})
        parquet.write_table(table, clips / column / "x.parquet")
        samples = open_samples(clips / column / "x.parquet")
        assert [s.target for s in samples] == ["one", "two"] and samples[1].audios[0]["audio"] == held


def test_kaldi_files_with_tabs(clips: Path) -> None:
    (clips / "wav.scp").write_text("r1\tmy clip.wav\n")
    (clips / "text").write_text("u1\tgood morning to you\n")
    (clips / "segments").write_text("u1\tr1\t0\t0.05\n")
    (clips / "a.wav").rename(clips / "my clip.wav")
    assert targets(clips) == ["good morning to you"]


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def test_shards_of_other_keys_classes_and_macs(clips: Path) -> None:
    held = (clips / "a.wav").read_bytes()
    asked = json.dumps({"question": "What?", "answer": "one"}).encode()
    for text in (("json", asked), ("cls", b"one"), ("caption", b"one")):
        with tarfile.open(clips / "s.tar", "w") as tar:
            for name, data in ((f"./1.{text[0]}", text[1]), ("./1.wav", held), ("./._1.wav", b"x")):
                add(tar, name, data)
        samples = open_samples(clips / "s.tar")
        assert [sample.target for sample in samples] == ["one"], text
    with tarfile.open(clips / "whole.tar", "w") as tar:
        add(tar, "cv/train.tsv", b"path\tsentence\n")
        add(tar, "cv/clips/1.wav", held)
    with pytest.raises(ReaderError, match=r"holds the table cv/train.tsv and clips, and no shards: unpack"):
        open_samples(clips / "whole.tar")


@pytest.mark.parametrize(
    ("suffix", "text"), [("wrd", "ONE TWO\nTHREE\n"), ("ltr", "O N E | T W O |\nT H R E E |\n")]
)
def test_manifests_of_fairseq(clips: Path, suffix: str, text: str) -> None:
    (clips / "train.tsv").write_text(f"{clips}\na.wav\t1600\nb.wav\t1600\n")
    assert targets(clips / "train.tsv") == [None, None]
    (clips / f"train.{suffix}").write_text(text)
    assert targets(clips / "train.tsv") == ["ONE TWO", "THREE"]
    (clips / f"train.{suffix}").write_text("ONE\n")
    with pytest.raises(ReaderError, match=r"has 1 lines and train.tsv 2 clips"):
        open_samples(clips / "train.tsv")


def test_a_folder_above_tables_is_not_taken_for_bare_clips(clips: Path) -> None:
    (clips / "cv" / "cy" / "clips").mkdir(parents=True)
    (clips / "a.wav").rename(clips / "cv" / "cy" / "clips" / "a.wav")
    (clips / "cv" / "cy" / "train.tsv").write_text("path\tsentence\na.wav\tone\n")
    with pytest.raises(ReaderError, match=r"holds tables further down: name one, such as .*cy/train.tsv"):
        open_samples(clips / "cv")
    assert targets(clips / "cv" / "cy" / "train.tsv") == ["one"]


def test_a_gzipped_table_with_a_quoted_break(clips: Path) -> None:
    (clips / "x.csv.gz").write_bytes(gzip.compress(b'audio,caption\na.wav,"one\nmore"\nb.wav,two\n'))
    assert targets(clips / "x.csv.gz") == ["one\nmore", "two"]
