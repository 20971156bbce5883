"""More corpora, each copied at small size as it lies on a disk, with real audio; and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

from lalm.audio.load import load_audio
from lalm.cli.app import run
from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, message_text
from lalm.tasks import Source, SourceError, build

SAMPLES = Path(__file__).parents[2] / "samples"


def cut(path: Path, seconds: float = 0.4) -> Path:
    """The beginning of a real recording, written as a corpus would hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = load_audio(SAMPLES / "bird.ogg", duration_s=seconds)
    soundfile.write(path, audio, 16_000)
    return path


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def made(task: str, layout: str, path: Path, tmp_path: Path, missing: int = 0, **where: Any) -> list[Sample]:
    built = build(task, Source(path, **where), tmp_path / "out.jsonl", layout=layout)
    samples = list(read_manifest(tmp_path / "out.jsonl"))
    assert built.written == len(samples) == len({s.id for s in samples}) and built.missing == missing
    for sample in samples:
        (part,) = sample.audios
        assert len(load_audio(part["audio"], offset_s=part.get("offset_s", 0.0))) > 1000
        assert message_text(sample.messages[0])
    return samples


def test_common_voice(tmp_path: Path) -> None:
    root = tmp_path / "cv-corpus-21.0" / "cy"
    for i in range(2):
        cut(root / "clips" / f"common_voice_cy_{i}.mp3")
    head = "client_id\tpath\tsentence_id\tsentence\tlocale\n"
    rows = "".join(f'c{i}\tcommon_voice_cy_{i}.mp3\ts\tMae "{i}" yma.\tcy\n' for i in range(3))
    samples = made("asr", "common_voice", put(root / "train.tsv", head + rows), tmp_path, missing=1)
    assert [s.target for s in samples] == ['Mae "0" yma.', 'Mae "1" yma.']
    assert samples[0].origin["language"] == "cy" and samples[1].origin["speaker"] == "c1"


def test_fleurs(tmp_path: Path) -> None:
    root = tmp_path / "en_us"
    cut(root / "audio" / "dev" / "123.wav")
    row = "1\t123.wav\tA bird, singing.\ta bird singing\ta | b\t6400\tFEMALE\n"
    (sample,) = made("asr", "fleurs", put(root / "dev.tsv", row), tmp_path)
    assert sample.target == "A bird, singing." and sample.origin["gender"] == "female"
    with pytest.raises(SourceError, match=r"dev.tsv:1: not 'ID FILE.wav"):
        made("asr", "fleurs", put(root / "dev.tsv", "1\tx\n"), tmp_path)


def test_aishell_2(tmp_path: Path) -> None:
    root = tmp_path / "iOS" / "data"
    cut(root / "wav" / "C0001" / "IC0001W0001.wav")
    put(root / "wav.scp", "IC0001W0001\twav/C0001/IC0001W0001.wav\n")
    put(root / "trans.txt", "IC0001W0001\t厨房 用品\n")
    (sample,) = made("asr", "aishell2", root, tmp_path)
    assert sample.target == "厨房 用品" and sample.origin["speaker"] == "C0001"
    put(root / "trans.txt", "IC9\tx\n")
    with pytest.raises(SourceError, match=r"trans.txt:1: wav.scp has no IC9"):
        made("asr", "aishell2", root, tmp_path)


def test_gigaspeech_segments(tmp_path: Path) -> None:
    cut(tmp_path / "audio" / "pod" / "P1.flac", 2.0)
    segments = [
        {"sid": "P1_1", "begin_time": 0.5, "end_time": 1.0, "text_tn": "HELLO <COMMA> YOU <PERIOD>"},
        {"sid": "P1_2", "begin_time": 1.0, "end_time": 2.0, "text_tn": "<MUSIC>"},
    ]
    whole = {"audios": [{"aid": "P1", "path": "audio/pod/P1.flac", "segments": segments}]}
    path = put(tmp_path / "GigaSpeech.json", json.dumps(whole))
    (sample,) = made("asr", "gigaspeech", path, tmp_path)
    assert sample.target == "hello, you."
    assert sample.audios[0]["offset_s"] == 0.5 and sample.audios[0]["duration_s"] == 0.5
    del segments[0]["end_time"]
    put(path, json.dumps(whole))
    with pytest.raises(SourceError, match="segment P1_1 needs begin_time"):
        made("asr", "gigaspeech", path, tmp_path)


def test_slurp(tmp_path: Path) -> None:
    for name in ("audio-1.flac", "audio-2.flac"):
        cut(tmp_path / "slurp_real" / name)
    recordings = [{"file": "audio-1.flac"}, {"file": "audio-2.flac"}]
    row = {"slurp_id": 1, "sentence": "wake me up", "intent": "alarm_set", "recordings": recordings}
    samples = made("asr", "slurp", put(tmp_path / "train.jsonl", json.dumps(row) + "\n"), tmp_path)
    assert [s.target for s in samples] == ["wake me up"] * 2 and samples[0].origin["intent"] == "alarm_set"


def test_meld(tmp_path: Path) -> None:
    cut(tmp_path / "train_splits" / "dia0_utt0.wav")
    head = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"
    path = put(tmp_path / "train_sent_emo.csv", head + '1,"Oh, no!",Ross,anger,negative,0,0\n')
    (sample,) = made("emotion", "meld", path, tmp_path)
    assert sample.target == "Anger." and len(sample.choices) == 7 and sample.origin["transcript"] == "Oh, no!"
    put(path, head + "1,Hi,Ross,bored,negative,0,0\n")
    with pytest.raises(SourceError, match="'bored' is none of neutral"):
        made("emotion", "meld", path, tmp_path)


def test_esc_50_and_vocalsound(tmp_path: Path) -> None:
    root = tmp_path / "ESC-50-master"
    head = "filename,fold,target,category,esc10,src_file,take\n"
    put(
        root / "meta" / "esc50.csv",
        head + "1-1-A-0.wav,1,0,dog,True,1,A\n5-2-A-3.wav,5,3,sea_waves,True,2,A\n",
    )
    for name in ("1-1-A-0.wav", "5-2-A-3.wav"):
        cut(root / "audio" / name)
    samples = made("tags", "esc50", root, tmp_path)
    assert [(s.target, s.split) for s in samples] == [("dog", "fold1"), ("sea waves", "fold5")]
    assert samples[0].choices == ("dog", "sea waves")
    cut(tmp_path / "vs" / "audio_16k" / "f0003_0_throatclearing.wav")
    (sample,) = made("tags", "vocalsound", tmp_path / "vs", tmp_path)
    assert sample.target == "throat clearing" and sample.origin["speaker"] == "f0003"
    cut(tmp_path / "vs" / "audio_16k" / "other.wav")
    with pytest.raises(SourceError, match=r"other.wav is not named as"):
        made("tags", "vocalsound", tmp_path / "vs", tmp_path)


def test_audioset_weak_and_strong(tmp_path: Path) -> None:
    put(
        tmp_path / "class_labels_indices.csv", 'index,mid,display_name\n0,/m/1,"Bird"\n1,/m/2,"Wind, gusts"\n'
    )
    comment = "# Segments csv created\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"
    path = put(tmp_path / "eval_segments.csv", comment + '-abc_de, 30.000, 40.000, "/m/1,/m/2"\n')
    cut(tmp_path / "audio" / "Y-abc_de.wav")
    (sample,) = made("tags", "audioset", path, tmp_path, audio=tmp_path / "audio")
    assert sample.target == "bird; wind, gusts" and sample.references == ("bird", "wind, gusts")
    put(path, 'x, 30.0, 40.0, "/m/9"\n')
    with pytest.raises(SourceError, match=r"eval_segments.csv:1: not 'YTID"):
        made("tags", "audioset", path, tmp_path)
    put(tmp_path / "mid_to_display_name.tsv", "/m/1\tBird\n/m/2\tWind\n")
    head = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
    rows = "-abc_de_30000\t1.5\t2.0\t/m/2\n-abc_de_30000\t0.0\t0.5\t/m/1\n"
    strong = put(tmp_path / "strong.tsv", head + rows)
    (sample,) = made("tags", "audioset_strong", strong, tmp_path, audio=tmp_path / "audio")
    assert sample.target == "bird; wind" and [e["onset_s"] for e in sample.events] == [0.0, 1.5]


def test_macs_and_clotho_aqa(tmp_path: Path) -> None:
    cut(tmp_path / "audio" / "airport-1-a.wav")
    text = "files:\n- filename: airport-1-a.wav\n  annotations:\n  - {annotator_id: 1, sentence: Talk.}\n"
    path = put(tmp_path / "MACS.yaml", text + "  - {annotator_id: 2, sentence: A crowd.}\n")
    (sample,) = made("caption", "macs", path, tmp_path)
    assert sample.target == "Talk." and sample.references == ("Talk.", "A crowd.")
    with pytest.raises(SourceError, match=r"MACS.yaml is not MACS"):
        made("caption", "macs", put(path, "a: [1"), tmp_path)
    rows = "".join(f"airport-1-a.wav,Is it loud?,{a},yes\n" for a in ("no", "Yes", "yes"))
    path = put(tmp_path / "clotho_aqa_train.csv", "file_name,QuestionText,answer,confidence\n" + rows)
    (sample,) = made("audio_qa", "clotho_aqa", path, tmp_path)
    assert sample.target == "yes" and sample.references == ("no", "yes", "yes")
    assert "Is it loud?" in message_text(sample.messages[0])


def test_wavcaps_in_both_layouts_without_what_test_sets_have(tmp_path: Path) -> None:
    """Lists as on the Hub and as in the authors' repository; their blacklist names FreeSound's numbers."""
    fields = {"title": "Bell", "author": "A", "href": "2219-Bell.html", "caption": "A bell rings."}
    rows = [fields | {"id": "2219", "duration": 14.14}, fields | {"id": "2218", "duration": "1.5"}]
    rows.append(fields | {"id": "2217", "duration": "180.5"})  # longer than SALMONN took
    for name in ("2219", "2218", "2217", "YvfY_TJq7n_U"):
        cut(tmp_path / "audio" / f"{name}.flac")
    listed = put(
        tmp_path / "black.json", json.dumps({"AudioSet": ["YvfY_TJq7n_U.wav"], "FreeSound": ["2219"]})
    )
    bare = put(tmp_path / "sb_final.json", json.dumps(rows))
    hub = put(tmp_path / "hub.json", json.dumps({"num_captions_per_audio": 1, "data": rows}))

    def ids(path: Path, exclude: Path | None = None) -> list[str]:
        where = {"audio": tmp_path / "audio", "exclude": exclude}
        return [s.id.removeprefix("caption-") for s in made("caption", "wavcaps", path, tmp_path, **where)]

    assert ids(bare) == ids(hub) == ids(bare, listed) == ["2219", "2218"]
    assert ids(put(tmp_path / "fsd_final.json", json.dumps(rows)), listed) == ["2218"]
    assert ids(put(tmp_path / "x.json", json.dumps([r | {"file_name": "b"} for r in rows])), listed) == [
        "2218"
    ]
    clip = {"id": "YvfY_TJq7n_U.wav", "caption": "Rain.", "duration": 10.0}
    audioset = put(tmp_path / "as_final.json", json.dumps({"data": [clip]}))
    assert ids(audioset) == ["YvfY_TJq7n_U"]
    with pytest.raises(SourceError, match="gives no sample"):
        ids(audioset, listed)
    with pytest.raises(SourceError, match="no list of WavCaps' authors"):
        ids(bare, put(tmp_path / "no.json", "[1]"))


def test_every_caption_of_a_clip_is_learned_and_all_are_tested_with(tmp_path: Path) -> None:
    cut(tmp_path / "a.wav")
    columns = ",".join(f"caption_{n}" for n in range(1, 6))
    path = put(tmp_path / "clotho_captions_development.csv", f"file_name,{columns}\na.wav,A,B,C,D,D\n")
    build("caption", Source(path), tmp_path / "out.jsonl", layout="clotho", every=True)
    samples = list(read_manifest(tmp_path / "out.jsonl"))
    assert [s.target for s in samples] == ["A", "B", "C", "D"]
    assert [s.references for s in samples] == [("A",), ("B",), ("C",), ("D",)]
    assert len({s.id for s in samples}) == 4
    (together,) = made("caption", "clotho", path, tmp_path)
    assert together.references == ("A", "B", "C", "D", "D")


@pytest.mark.parametrize(
    ("layout", "name", "text"),
    [
        ("clotho", "clotho_captions_validation.csv", "{columns}\na.wav,A,B,C,D,E\n"),
        (
            "audiocaps",
            "val.csv",
            "audiocap_id,youtube_id,start_time,caption\n1,a,30,A\n2,a,30,B\n3,a,30,C\n4,a,30,D\n5,a,30,E\n",
        ),
        ("macs", "MACS.yaml", "files:\n- filename: a.wav\n  annotations:\n{sentences}"),
    ],
)
def test_validation_has_every_caption_of_a_clip(tmp_path: Path, capsys, layout, name, text) -> None:
    """As documented for AC/DC's recipes: captions as the corpus has them, then a target for each of them."""
    cut(tmp_path / "audio" / "a.wav")
    columns = ",".join(["file_name", *(f"caption_{n}" for n in range(1, 6))])
    sentences = "".join(f"  - {{annotator_id: {i}, sentence: {c}}}\n" for i, c in enumerate("ABCDE"))
    path = put(tmp_path / name, text.format(columns=columns, sentences=sentences))
    every, targets = str(tmp_path / "every.jsonl"), str(tmp_path / "valid.captions.jsonl")
    words = ["build", "caption", str(path), "--layout", layout, "--audio", str(tmp_path / "audio")]
    assert run([*words, "--out", every]) == 0, capsys.readouterr().err
    assert run(["respond", every, targets, "--mode", "caption"]) == 0, capsys.readouterr().err
    assert [s.target for s in read_manifest(Path(targets))] == list("ABCDE")


def test_avqa_with_videos_as_they_lie(tmp_path: Path) -> None:
    """Rows as in train_qa.json; the sound of a video is found by its name with or without the start."""
    row = {"id": 183, "video_name": "-HG3Omg_89c_000030", "video_id": 341, "question_text": "What is it?"}
    row |= {"multi_choice": ["a bird", "a horse", "a bell", "a train"], "answer": 0}
    row |= {"question_relation": "Both", "question_type": "Which"}
    seen = {**row, "id": 184, "question_relation": "View", "answer": 1}
    gone = {**row, "id": 185, "video_name": "xxxxxxxxxxx_000010"}
    path = put(tmp_path / "AVQA" / "train_qa.json", json.dumps([row, seen, gone]))
    cut(tmp_path / "AVQA" / "audio" / "-HG3Omg_89c_000030.wav")
    (sample,) = made("audio_qa", "avqa", path, tmp_path, missing=1)
    assert sample.target == "a bird" and sample.id == "audio_qa-183" and sample.origin["category"] == "Which"
    assert "What is it? Choose from: a bird, a horse, a bell or a train." in message_text(sample.messages[0])
    wrong = put(tmp_path / "AVQA" / "bad.json", json.dumps([{**row, "answer": 4}]))
    with pytest.raises(SourceError, match=r"bad.json:0: the answer 4 is no index of the choices"):
        made("audio_qa", "avqa", wrong, tmp_path)
