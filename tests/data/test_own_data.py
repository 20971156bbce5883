"""Data as people have it: tables, NeMo, Lhotse, audiofolders, Common Voice, folders; guesses are told.

Files are written by pandas, lhotse and datasets, or stand as the toolkit's documentation prints them.
"""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from tiny_parts import noise

from lalm.audio.load import load_audio
from lalm.cli.app import run
from lalm.cli.ask_many import parts_of
from lalm.cli.opening import reading_of
from lalm.cli.perplexity import answered
from lalm.data.messages import message_text
from lalm.data.mixture import open_manifest
from lalm.data.readers import ReaderError, Reading, open_samples
from lalm.data.sample import Sample, SampleError
from lalm.evaluate.items import open_task
from lalm.synthesis.preferences import read_prompts


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with ``clips/0.wav`` and ``clips/1.wav``."""
    for i in range(2):
        noise(tmp_path / "clips" / f"{i}.wav", 1.0 + i, seed=i)
    return tmp_path


def files(samples: Any) -> list[str]:
    return [Path(str(sample.audios[0]["audio"])).name for sample in samples]


def heard(sample: Sample) -> np.ndarray:
    (part,) = sample.audios
    return load_audio(part["audio"], offset_s=part.get("offset_s", 0.0), duration_s=part.get("duration_s"))


TEXTS = ['A dog, "Rex", barks.', "Rain falls\nand stops; ÄÖ."]


@pytest.mark.parametrize(
    "kind", ["csv", "semicolon", "tsv", "jsonl", "json", "columns", "parquet", "csv.gz", "utf-16"]
)
def test_a_table_written_by_pandas_is_read_and_the_guess_is_told(clips: Path, kind: str) -> None:
    texts = [text.replace("\n", " ") for text in TEXTS] if kind == "tsv" else TEXTS
    table = pandas.DataFrame(
        {
            "Sound File": ["clips/0.wav", "clips/1.wav"],
            "caption": texts,
            "score": [0.5, 1.5],
            "lang": ["en", None],
        }
    ).rename(columns={"Sound File": "sound file"})
    suffix = {"semicolon": "csv", "utf-16": "csv", "columns": "json"}.get(kind, kind)
    file = clips / f"t.{suffix}"
    match kind:
        case "csv" | "csv.gz":
            table.to_csv(file, index=False)
        case "utf-16":
            table.to_csv(file, index=False, encoding="utf-16")
        case "semicolon":
            table.to_csv(file, index=False, sep=";")
        case "tsv":
            table.to_csv(file, index=False, sep="\t")
        case "jsonl":
            table.to_json(file, orient="records", lines=True)
        case "json":
            table.to_json(file, orient="records")
        case "columns":
            table.to_json(file)
        case "parquet":
            table.to_parquet(file)
    samples = open_manifest(file)
    assert [sample.target for sample in samples] == texts
    assert [len(heard(sample)) for sample in samples] == [16_000, 32_000]
    assert [sample.origin for sample in samples] == [{"language": "en"}, {}]
    assert f"{file.name}: audio=sound file, answer=caption" in samples.told


def test_columns_are_named_by_the_caller(clips: Path) -> None:
    (clips / "t.csv").write_text(
        "where,begin,stop,said,asked,caption_1,caption_2\n"
        "0,0.25,0.75,yes,Is it loud?,a hum,a drone\n1,,,no,,a hiss,\n"
    )
    named = Reading(
        {"audio": "where", "offset": "begin", "end": "stop", "answer": "said", "question": "asked"}
    )
    first, second = open_samples(clips / "t.csv", named)
    assert len(heard(first)) == 8000 and len(heard(second)) == 32_000
    assert (first.target, message_text(first.messages[0])) == ("yes", "Is it loud?")
    assert message_text(second.messages[0]) == ""
    several = open_samples(clips / "t.csv", Reading({"audio": "where", "answer": "caption_*"}))
    assert several[0].references == ("a hum", "a drone") and several[1].references == ()
    for columns, words in (
        ({"sound": "where"}, "there is no 'sound'; there are audio, answer"),
        ({"audio": "were"}, "t.csv has no column 'were' for 'audio'; it has where, begin, stop"),
    ):
        with pytest.raises(ReaderError, match=words):
            open_samples(clips / "t.csv", Reading(columns))
    (clips / "t.csv").write_text("where,begin\n0,soon\n1,1,2\n")
    samples = open_samples(clips / "t.csv", Reading({"audio": "where", "offset": "begin"}))
    with pytest.raises(SampleError, match=r"t.csv:2: offset is 'soon', which are no seconds"):
        samples[0]
    with pytest.raises(SampleError, match=r"t.csv:3: the row has 3 fields, not 2"):
        samples[1]


def test_numbers_of_labels_are_not_taken_for_answers(clips: Path) -> None:
    """ESC-50's own header; its ``target`` is a number, its ``category`` the word."""
    (clips / "esc50.csv").write_text(
        "filename,fold,target,category,esc10,src_file,take\n0.wav,1,0,dog,True,100032,A\n1.wav,1,14,rain,False,1,A\n"
    )
    samples = open_samples(clips / "esc50.csv")
    assert [sample.target for sample in samples] == ["dog", "rain"] and files(samples) == ["0.wav", "1.wav"]
    assert all(Path(str(sample.audios[0]["audio"])).is_file() for sample in samples)


def test_a_table_without_a_header_as_ljspeech_has_it(clips: Path) -> None:
    (clips / "clips").rename(clips / "wavs")
    (clips / "metadata.csv").write_text('0|Dr. "X" came|Doctor "X" came\n1|"No, 2|"No, two\n')
    samples = open_samples(clips)
    assert [sample.target for sample in samples] == ['Doctor "X" came', '"No, two']
    assert len(heard(samples[1])) == 32_000 and "no header: audio=1,answer=3" in samples.told


def test_nemo_manifests_as_its_documentation_prints_them(clips: Path) -> None:
    speech = {"audio_filepath": "clips/0.wav", "text": "he", "duration": 0.5, "offset": 0.25, "lang": "en"}
    asked = {
        "audio_filepath": "clips/1.wav",
        "duration": 2.0,
        "context": "What is said?",
        "answer": "nothing",
    }
    (clips / "asr.json").write_text(
        "".join(f"{json.dumps(row)}\n" for row in (speech, {**speech, "offset": None}))
    )
    (clips / "llm.json").write_text(json.dumps(asked) + "\n")
    first, second = open_manifest(clips / "asr.json")
    assert first.target == "he" and len(heard(first)) == 8000
    np.testing.assert_array_equal(heard(first), load_audio(clips / "clips" / "0.wav")[4000:12_000])
    np.testing.assert_array_equal(heard(second), load_audio(clips / "clips" / "0.wav")[:8000])
    (only,) = open_manifest(clips / "llm.json")
    assert (message_text(only.messages[0]), only.target) == ("What is said?", "nothing")
    talk = {
        "id": "c1",
        "conversations": [
            {"value": "Transcribe:", "from": "User", "type": "text"},
            {"value": "clips/0.wav", "from": "User", "duration": 1.0, "type": "audio"},
            {"value": "he", "from": "Assistant", "type": "text"},
        ],
    }
    (clips / "talk.jsonl").write_text(
        json.dumps(talk)
        + "\n"
        + json.dumps({**talk, "conversations": [{"from": "x", "type": "text", "value": ""}]})
    )
    samples = open_samples(clips / "talk.jsonl")
    assert samples[0].target == "he" and [part["type"] for part in samples[0].messages[0]["content"]] == [
        "text",
        "audio",
    ]
    with pytest.raises(SampleError, match=r"talk.jsonl:2: conversations turn 1 is from 'x'"):
        samples[1]


def test_recordings_and_supervisions_written_by_lhotse(clips: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    recording = lhotse.Recording.from_file(clips / "clips" / "1.wav", recording_id="r")
    said = [
        lhotse.SupervisionSegment("s1", "r", 0.5, 1.0, text="hello", language="en", speaker="ann"),
        lhotse.SupervisionSegment("s2", "r", 0.0, 0.5, text="you"),
    ]
    folder = clips / "manifests"
    folder.mkdir()
    lhotse.RecordingSet.from_recordings([recording]).to_file(folder / "x_recordings_dev.jsonl.gz")
    lhotse.SupervisionSet.from_segments(said).to_file(folder / "x_supervisions_dev.jsonl.gz")
    for path in (folder, folder / "x_supervisions_dev.jsonl.gz"):
        first, second = open_manifest(path)
        assert (first.target, second.target, first.id) == ("hello", "you", "s1")
        assert first.origin == {"language": "en", "speaker": "ann"}
        np.testing.assert_array_equal(heard(first), load_audio(clips / "clips" / "1.wav")[8000:24_000])
    with pytest.raises(ReaderError, match="holds Lhotse's recordings: name their supervisions"):
        open_samples(folder / "x_recordings_dev.jsonl.gz")
    (folder / "x_recordings_dev.jsonl.gz").unlink()
    with pytest.raises(ReaderError, match=r"put them there as x_recordings_dev.jsonl.gz"):
        open_samples(folder / "x_supervisions_dev.jsonl.gz")


def test_audiofolders_and_labels_of_datasets(clips: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    train = clips / "set" / "train"
    train.mkdir(parents=True)
    (clips / "clips").rename(train / "audio")
    rows = [{"file_name": f"audio/{i}.wav", "transcription": f"text {i}"} for i in range(2)]
    pandas.DataFrame(rows).to_csv(train / "metadata.csv", index=False)
    assert [sample.target for sample in open_manifest(clips / "set")] == ["text 0", "text 1"]
    (train / "metadata.csv").unlink()
    (train / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert len(heard(open_manifest(train)[1])) == 32_000
    label = datasets.ClassLabel(names=["dog", "rain"])
    held = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"audio": held, "label": label})
    wave = (train / "audio" / "0.wav").read_bytes()
    data = datasets.Dataset.from_dict(
        {"audio": [{"bytes": wave, "path": None}] * 2, "label": [1, 0]},
        features=features,
    )
    data.save_to_disk(clips / "saved")
    (clips / "repo" / "data").mkdir(parents=True)
    data.to_parquet(clips / "repo" / "data" / "train-00000-of-00001.parquet")
    for path in (clips / "saved", clips / "repo"):
        samples = open_samples(path)
        assert [sample.target for sample in samples] == ["rain", "dog"] and len(heard(samples[0])) == 16_000
    data.to_parquet(clips / "repo" / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(
        ReaderError, match=r"holds the splits test, train: name one, such as .*data/test-\*.parquet"
    ):
        open_samples(clips / "repo")
    assert len(open_samples(clips / "repo" / "data" / "train-*.parquet")) == 2


def test_shards_by_the_keys_of_their_json(clips: Path) -> None:
    with tarfile.open(clips / "s.tar", "w") as tar:
        for i in range(2):
            (clips / f"{i}.json").write_text(
                json.dumps({"kind": f"sound {i}", "ask": "Which?", "lang": "en"})
            )
            tar.add(clips / f"{i}.json", f"{i}.json")
            tar.add(clips / "clips" / f"{i}.wav", f"{i}.wav")
    with pytest.raises(SampleError, match=r"s.tar/0 has no text.*--columns answer=KEY names another key"):
        open_samples(clips / "s.tar")[0]
    samples = open_samples(clips / "s.tar", Reading({"answer": "kind", "question": "ask"}))
    assert [sample.target for sample in samples] == ["sound 0", "sound 1"] and len(
        heard(samples[1])
    ) == 32_000
    assert message_text(samples[0].messages[0]) == "Which?" and samples[0].origin == {"language": "en"}


def test_common_voice_as_it_unpacks(clips: Path) -> None:
    """The header of Common Voice 17.0; quotes in a sentence are part of it."""
    header = "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents"
    header += " variant locale segment"
    rows = [
        f"ab\t{i}.wav\tid{i}\t{text}\t\t2\t0\t\t\t\t\tcy\t"
        for i, text in enumerate(['"Dere" meddai', "Helo"])
    ]
    for name in ("train.tsv", "dev.tsv"):
        (clips / name).write_text("\n".join(["\t".join(header.split()), *rows]) + "\n")
    with pytest.raises(ReaderError, match=r"holds the tables dev.tsv, train.tsv: name one, such as"):
        open_samples(clips)
    samples = open_manifest(clips / "train.tsv")
    assert [sample.target for sample in samples] == ['"Dere" meddai', "Helo"]
    assert samples[0].origin == {"language": "cy", "speaker": "ab"} and len(heard(samples[1])) == 32_000


def test_clips_with_a_text_beside_each_and_without(clips: Path) -> None:
    folder = clips / "clips"
    samples = open_samples(folder)
    assert files(samples) == ["0.wav", "1.wav"] and not samples[0].target
    assert "have no texts; --columns answer=folder" in samples.told
    assert open_samples(clips, Reading({"answer": "folder"}))[0].target == "clips"
    (folder / "0.txt").write_text("A hum.\n", encoding="utf-8")
    with pytest.raises(SampleError, match=r"1.wav: there is no 1.txt beside it"):
        open_samples(folder)[1]
    (folder / "1.txt").write_text("Hiss.")
    assert [sample.target for sample in open_samples(folder)] == ["A hum.", "Hiss."]
    for i in range(2):
        (folder / f"{i}.txt").unlink()
        (folder / f"{i}.json").write_text(json.dumps({"caption": f"c{i}", "id": f"x{i}"}))
    assert [(sample.target, sample.id) for sample in open_samples(folder)] == [("c0", "x0"), ("c1", "x1")]


def test_prompts_are_drawn_where_nothing_is_asked(clips: Path) -> None:
    rows = ["audio,answer,question"] + [f"clips/0.wav,a,{'Why?' if i == 3 else ''}" for i in range(40)]
    (clips / "t.csv").write_text("\n".join(rows))
    asked = [
        message_text(s.messages[0])
        for s in open_samples(clips / "t.csv", Reading(prompts=("A?", "B?"), seed=5))
    ]
    assert asked[3] == "Why?" and {*asked} == {"A?", "B?", "Why?"}
    again = open_samples(clips / "t.csv", Reading(prompts=("A?", "B?"), seed=5))
    assert [message_text(again[i].messages[0]) for i in reversed(range(40))] == asked[::-1]
    other = open_samples(clips / "t.csv", Reading(prompts=("A?", "B?"), seed=6))
    assert [message_text(s.messages[0]) for s in other] != asked
    with pytest.raises(ReaderError, match="an empty text asks nothing"):
        Reading(prompts=(" ",))


UNREADABLE = {
    "x.jsonl": (
        b'{"foo": 1, "bar": 2}\n' * 40,
        "none of its columns .foo, bar. has a usual name for audio: say",
    ),
    "x.csv": (b"foo,bar\n" + b"1,2\n" * 40, "say --columns audio=COLUMN,answer=COLUMN"),
    "x.xlsx": (b"PK\x03\x04", "does not read: save it as CSV"),
    "x.pkl": (b"\x80\x04", "may run code when opened"),
    "x.tar.gz": (b"\x1f\x8b", r"unpack it \(tar -xf x.tar.gz\)"),
    "x.zip": (b"PK", "unzip it"),
    "x.wav": (b"RIFF", "is a recording by its name, not a list of them"),
    "x.bin": (bytes(100), "of no kind that lalm reads: write a table"),
    "latin.csv": ("audio,answer\n0.wav,für\n".encode("latin-1"), "not UTF-8 text; iconv -f WINDOWS-1252"),
    "x.yaml": (b"a: 1\n", "write a JSON object a line"),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("command", ["data validate", "eval --data . --task manifest="])
def test_what_cannot_be_read_gets_one_sentence_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    data, words = UNREADABLE[name]
    (tmp_path / name).write_bytes(data)
    given = command.split()
    given = (
        [*given[:-1], f"{given[-1]}{tmp_path / name}"]
        if command.endswith("=")
        else [*given, str(tmp_path / name)]
    )
    assert run(given) in (1, 2)
    told = capsys.readouterr()
    lines = [
        line for line in (told.err + told.out).splitlines() if line.strip() and " good lines" not in line
    ]
    lines = [line for line in lines if "--columns says otherwise" not in line]
    assert len(lines) == 1, lines
    assert re.search(words, lines[0])


def test_faults_that_many_rows_share_are_one_line(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {
        "messages": [
            {"role": "user", "content": [{"type": "audio", "audio": "clips/0.wav"}]},
            {"role": "assistant", "content": "x"},
        ]
    }
    (clips / "m.jsonl").write_text("\n".join(json.dumps(row) for row in [good] + [{**good, "mood": 1}] * 40))
    assert run(["data", "validate", str(clips / "m.jsonl"), "--workers", "1"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0].startswith("m.jsonl:2: a sample has the unknown key 'mood'")
    assert said[0].endswith("(and 39 more, the last m.jsonl:41)")


def test_any_source_becomes_a_manifest(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clips / "t.csv").write_text("path,caption\nclips/0.wav,a hum\nclips/1.wav,a hiss\n")
    words = [
        "data",
        "validate",
        str(clips / "t.csv"),
        "--out",
        str(clips / "m.jsonl"),
        "--prompt",
        "What is it?",
    ]
    assert run([*words, "--workers", "1"]) == 0
    samples = open_manifest(clips / "m.jsonl")
    assert [sample.target for sample in samples] == ["a hum", "a hiss"] and not samples.told
    assert message_text(samples[0].messages[0]) == "What is it?"
    with pytest.raises(ReaderError, match="holds whole samples, not a table"):
        open_samples(clips / "m.jsonl", Reading({"language": "x"}))


@pytest.fixture(params=["kaldi", "table", "clips"])
def source(request: pytest.FixtureRequest, clips: Path) -> tuple[str, list[str]]:
    """One thing that is no manifest, and what its columns are called on the command line."""
    if request.param == "kaldi":
        (clips / "wav.scp").write_text("a clips/0.wav\nb clips/1.wav\n")
        (clips / "segments").write_text("a-1 a 0.0 0.5\nb-1 b 0.5 1.5\n")
        (clips / "text").write_text("a-1 a hum\nb-1 a hiss\n")
        return str(clips), []
    if request.param == "table":
        (clips / "t.csv").write_text("where,what\nclips/0.wav,a hum\nclips/1.wav,a hiss\n")
        return str(clips / "t.csv"), ["--columns", "audio=where,answer=what"]
    for name, text in (("0", "a hum"), ("1", "a hiss")):
        (clips / "clips" / f"{name}.txt").write_text(text)
    return str(clips / "clips"), []


def test_every_command_takes_the_same_sources(
    source: tuple[str, list[str]], clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, columns = source
    assert run(["data", "stats", path, *columns, "--json", "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 2
    replies = clips / "replies.jsonl"
    assert run(["respond", path, str(replies), "--mode", "caption", *columns]) == 0
    assert [sample.references for sample in open_manifest(replies)] == [("a hum",), ("a hiss",)]
    reading = reading_of(columns[1:], ["What is it?"])
    (asked,) = open_task(f"manifest={path}", clips, reading=reading)
    assert [sample.references for sample in asked.samples] == [("a hum",), ("a hiss",)]
    assert all(message_text(sample.messages[0]) == "What is it?" for sample in asked.samples)
    assert [prompt.sample.target for prompt in read_prompts(Path(path), reading)] == ["a hum", "a hiss"]
    assert [sample.target for sample in answered([Path(path)], 9, reading)] == ["a hum", "a hiss"]
    names = [Path(name).name for name in parts_of([path], reading_of(columns[1:]))]
    assert names in (["0.wav", "1.wav"], ["0.wav#t=0,0.5", "1.wav#t=0.5,1.5"])
