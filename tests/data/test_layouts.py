"""Tables and lists as published corpora and other toolkits lay them out, and as spreadsheets save them."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_parts import noise

from lalm.cli.app import run
from lalm.data.messages import message_text
from lalm.data.readers import ReaderError, Reading, open_samples
from lalm.data.sample import Sample, SampleError

Layout = Callable[[Path], str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def put(folder: Path, name: str, text: str, coding: str = "utf-8") -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode(coding))
    return name


def clip(folder: Path, name: str) -> None:
    noise(folder / name, 0.1)


def rows(folder: Path, name: str, *found: object) -> str:
    return put(folder, name, "".join(json.dumps(row) + "\n" for row in found))


def there(sample: Sample) -> list[bool]:
    return [Path(str(part["audio"])).is_file() for part in sample.audios]


# Where clips lie in folders that their tables do not name: the first row of each corpus's own table.
PLACES: dict[str, tuple[str, str, str, str, str]] = {
    "ESC-50": (
        "audio/1-100032-A-0.wav",
        "meta/esc50.csv",
        "filename,fold,target,category,esc10,src_file,take\n1-100032-A-0.wav,1,0,dog,True,100032,A\n",
        "dog",
        "as ../audio/...",
    ),
    "UrbanSound8K": (
        "audio/fold5/100032-3-0-0.wav",
        "metadata/UrbanSound8K.csv",
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
        "100032-3-0-0.wav,100032,0.0,0.317551,1,5,3,dog_bark\n",
        "dog_bark",
        "start and end are not used: --columns offset=start,end=end takes stretches",
    ),
    "FSD50K": (
        "FSD50K.dev_audio/64760.wav",
        "FSD50K.ground_truth/dev.csv",
        'fname,labels,mids,split\n64760,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h",train\n',
        "Electric_guitar,Guitar,Music",
        "looked up by name",
    ),
    "Clotho": (
        "development/Distorted AM Radio noise.wav",
        "clotho_captions_development.csv",
        "file_name,caption_1,caption_2\nDistorted AM Radio noise.wav,A muddled noise,A radio\n",
        "A muddled noise",
        "answer=caption_1+caption_2",
    ),
    "AudioCaps": (
        "train/Yr1nicOVtvkQ.wav",
        "train.csv",
        "audiocap_id,youtube_id,start_time,caption\n91139,r1nicOVtvkQ,130,A woman talks nearby\n",
        "A woman talks nearby",
        "audio=youtube_id (looked up by name",
    ),
    "MusicCaps": (
        "wav/-0Gj8-vB1q4.wav",
        "musiccaps-public.csv",
        "ytid,start_s,end_s,audioset_positive_labels,caption\n-0Gj8-vB1q4,30,40,/m/0140xf,A ballad.\n",
        "A ballad.",
        "as wav/....wav",
    ),
    "SpeechBrain": (
        "x.wav",
        "train.csv",
        "ID,duration,wav,spk_id,wrd\n19-1,0.1,x.wav,19,ABBEY\n",
        "ABBEY",
        "",
    ),
    "VITS": (
        "DUMMY1/a.wav",
        "filelists/train.txt",
        "DUMMY1/a.wav|0|Printing, in\n",
        "Printing, in",
        "answer=3",
    ),
    "fairseq S2T": ("x.wav", "t.tsv", "id\taudio\tn_frames\ttgt_text\n1\tx.wav\t10\thello\n", "hello", ""),
    "another machine's": (
        "clips/dog.wav",
        "t.csv",
        "path,caption\n/home/you/data/clips/dog.wav,A dog\n",
        "A dog",
        "without /home/you/data/",
    ),
    "a Windows machine's": (
        "clips/dog.wav",
        "t.csv",
        "path,caption\nC:\\Users\\you\\clips\\dog.wav,A dog\n",
        "A dog",
        "without C:/Users/you/",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_clips_are_found_where_a_corpus_has_them(folder: Path, name: str) -> None:
    audio, table, text, answer, told = PLACES[name]
    clip(folder, audio)
    put(folder, table, text)
    samples = open_samples(folder / table)
    assert [there(sample) for sample in samples] == [[True]] and samples[0].target == answer
    assert told in samples.told
    if name == "UrbanSound8K":  # its start and end are places in another recording
        assert "offset_s" not in samples[0].audios[0]


def test_a_stretch_is_taken_where_it_is_said_also_in_minutes_and_with_a_decimal_comma(folder: Path) -> None:
    noise(folder / "x.wav", 2.0)
    put(folder, "t.csv", "path;start;end;text\nx.wav;0,5;00:01.25;Hello\n")
    reading = Reading({"audio": "path", "offset": "start", "end": "end"})
    (sample,) = open_samples(folder / "t.csv", reading)
    assert sample.audios[0]["offset_s"] == 0.5 and sample.audios[0]["duration_s"] == 0.75
    put(folder, "t.csv", "path;offset;text\nx.wav;soon;Hello\n")
    with pytest.raises(SampleError, match="offset is 'soon', which are no seconds"):
        open_samples(folder / "t.csv")[0]


def test_recordings_that_are_nowhere_are_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "path,caption\n" + "".join(f"lost/{n}.wav,A dog\n" for n in range(40))
    table = folder / put(folder, "t.csv", text)
    assert run(["data", "validate", str(table)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "none of the recordings that its first rows name is there" in told
    assert "--audio FOLDER" in told
    clip(folder, "elsewhere/lost/3.wav")
    samples = open_samples(table, Reading(audio=folder / "elsewhere"))
    assert there(samples[3]) == [True] and there(samples[4]) == [False]


SHEETS: dict[str, tuple[str, str]] = {
    "Excel's first line": ("\ufeffsep=;\r\nDatei;Beschreibung\r\nx.wav;Ein Hund\r\n", "utf-8"),
    "a byte order mark and quotes": ('\ufeff"File name","Caption"\r\n"x.wav","Ein Hund"\r\n', "utf-8"),
    "an index of pandas'": (",path,caption\n0,x.wav,Ein Hund\n", "utf-8"),
    "blanks after commas": ('path, caption\nx.wav, "Ein Hund"\n', "utf-8"),
    "UTF-16 without a known suffix": ("\ufeffwav\ttext\r\nx.wav\tEin Hund\r\n", "utf-16-le"),
    "columns of unusual names": ("Datei,Beschreibung\nx.wav,Ein Hund\n", "utf-8"),
}


@pytest.mark.parametrize("name", SHEETS)
def test_tables_as_spreadsheets_save_them(folder: Path, name: str) -> None:
    clip(folder, "x.wav")
    text, coding = SHEETS[name]
    table = folder / put(folder, "t.txt" if "UTF-16" in name else "t.csv", text, coding)
    reading = Reading({"answer": "Beschreibung"} if "Beschreibung" in text else {})
    samples = open_samples(table, reading)
    assert [s.target for s in samples] == ["Ein Hund"] and there(samples[0]) == [True]


def test_two_columns_of_one_name_and_another_encoding_are_refused_with_the_way_out(folder: Path) -> None:
    clip(folder, "x.wav")
    table = folder / put(folder, "t.csv", "path,text,text\nx.wav,A dog,Ein Hund\n")
    with pytest.raises(ReaderError, match="has two columns 'text': give each a name of its own"):
        open_samples(table)
    table = folder / put(folder, "t.csv", "file,caption\nx.wav,M\u00e4dchen\n", "cp1252")
    with pytest.raises(ReaderError, match=r"iconv -f WINDOWS-1252 -t UTF-8 t\.csv"):
        open_samples(table)


def audio_flamingo(folder: Path) -> str:
    said = {"name": "x.wav", "prompt": "What is it?", "output": "A dog."}
    return rows(
        folder, "t.json", {"dataset": "Clotho", "split": "train", "total_num": 1, "data": {"0": said}}
    )


def openaqa(folder: Path) -> str:
    said = {"instruction": "What is it?", "input": "", "audio_id": "x.wav", "output": "A dog."}
    return put(folder, "t.json", json.dumps([{**said, "dataset": "x", "task": "cla_label"}]))


def llava(folder: Path) -> str:
    turns = [{"from": "human", "value": "<sound>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]
    return put(
        folder, "t.json", json.dumps([{"id": "1", "sound": "x.wav", "duration": 1, "conversations": turns}])
    )


def qwen_audio(folder: Path) -> str:
    asked = {"from": "user", "value": "Audio 1: <audio>x.wav</audio>\nWhat is it?"}
    return rows(folder, "t.jsonl", {"conversations": [asked, {"from": "assistant", "value": "A dog."}]})


def swift(folder: Path) -> str:
    return rows(folder, "t.jsonl", {"query": "<audio>What is it?", "response": "A dog.", "audios": ["x.wav"]})


def swift_in_text(folder: Path) -> str:
    return rows(
        folder, "t.jsonl", {"query": "Audio 1:<audio>x.wav</audio>\nWhat is it?", "response": "A dog."}
    )


def air_bench(folder: Path) -> str:
    said = {"path": "x.wav", "question": "What is it?", "choice_a": "A dog.", "choice_b": "A cat."}
    return put(folder, "t.json", json.dumps([{**said, "choice_c": None, "answer_gt": "A dog."}]))


def wenet(folder: Path) -> str:
    return rows(folder, "data.list", {"key": "u1", "wav": "x.wav", "txt": "A dog."})


def sensevoice(folder: Path) -> str:
    marks = {"text_language": "<|en|>", "emo_target": "<|NEUTRAL|>", "with_or_wo_itn": "<|withitn|>"}
    said = {"key": "u1", "source": "x.wav", "target": "A dog.", "source_len": 10, "target_len": 2}
    return rows(folder, "t.jsonl", said | marks)


def to_dict(folder: Path) -> str:
    return put(folder, "t.json", json.dumps({"audio": ["x.wav", "x.wav"], "text": ["A dog.", "A cat."]}))


def shards_list(folder: Path) -> str:
    put(folder, "a.txt", "A dog.")
    with tarfile.open(folder / "s0.tar", "w") as tar:
        tar.add(folder / "x.wav", "a.wav")
        tar.add(folder / "a.txt", "a.txt")
    return put(folder, "shards.list", "s0.tar\n")


def kaldi_of_flac(folder: Path) -> str:
    put(folder, "data/wav.scp", f"u1 flac -c -d -s {folder}/x.wav |\n")
    put(folder, "data/text", "u1 A dog.\n")
    return "data"


FORMS = (
    audio_flamingo,
    openaqa,
    llava,
    qwen_audio,
    swift,
    swift_in_text,
    air_bench,
    wenet,
    sensevoice,
    to_dict,
)


@pytest.mark.parametrize("form", [*FORMS, shards_list, kaldi_of_flac])
def test_training_data_of_other_toolkits(folder: Path, form: Layout) -> None:
    clip(folder, "x.wav")
    samples = open_samples(folder / form(folder))
    first = samples[0]
    assert first.target == "A dog." and len(samples) == (2 if form is to_dict else 1)
    assert there(first) == [True] or form is shards_list
    asked = message_text(first.messages[0]).strip()
    assert asked == ("What is it?" if form in FORMS[:7] else "")
    if form is air_bench:
        assert list(first.choices) == ["A dog.", "A cat."]


def test_a_list_of_recordings_is_a_source_to_ask_about(folder: Path) -> None:
    clip(folder, "x.wav")
    shutil.copy(folder / "x.wav", folder / "y.wav")
    samples = open_samples(folder / put(folder, "list.txt", "x.wav\ny.wav\n"))
    assert [there(sample) for sample in samples] == [[True], [True]] and not samples[0].target


def test_a_command_that_does_more_than_unpack_is_refused(folder: Path) -> None:
    put(folder, "data/wav.scp", "u1 flac -c -d -s x.flac | sox - -t wav - |\nu2 cat $(rm x) |\n")
    put(folder, "data/text", "u1 a\nu2 b\n")
    for number in range(2):
        with pytest.raises(SampleError, match=r"wav\.scp gives a command"):
            open_samples(folder / "data")[number]


def test_texts_in_a_tree_of_their_own_are_found_by_name(folder: Path) -> None:
    """VCTK: wav48/p225/p225_001.wav and txt/p225/p225_001.txt."""
    for number in (1, 2):
        clip(folder, f"wav48/p225/p225_00{number}.wav")
        put(folder, f"txt/p225/p225_00{number}.txt", f"Please call {number}.\n")
    samples = open_samples(folder)
    assert [sample.target for sample in samples] == ["Please call 1.", "Please call 2."]
    (folder / "txt/p225/p225_002.txt").unlink()
    with pytest.raises(SampleError, match=r"p225_002.wav: there is no p225_002.txt beside it"):
        open_samples(folder)[1]
