"""Published test sets, copied at small size with real audio: read as laid out, asked, and scored."""

import json
from pathlib import Path

import pytest
import soundfile

from lalm.audio.load import load_audio
from lalm.data.sample import Sample, ask, write_manifest
from lalm.evaluate.items import open_task, put, question_of
from lalm.evaluate.run import Job, run
from lalm.evaluate.said import Said
from lalm.evaluate.task import known_tasks
from lalm.tasks.sources import SourceError

SAMPLES = Path(__file__).parents[2] / "samples"


def cut(path: Path, name: str = "bird.ogg", seconds: float = 0.4) -> None:
    """Part of a real recording, written as a corpus would hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, load_audio(SAMPLES / name)[: int(seconds * 16_000)], 16_000)


def write(path: Path, text: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def librispeech(root: Path) -> None:
    for part in ("test-clean", "test-other"):
        folder = root / "LibriSpeech" / part / "19" / "198"
        write(folder / "19-198.trans.txt", "19-198-0000 BIRDS SING\n")
        cut(folder / "19-198-0000.flac")


def gigaspeech(root: Path) -> None:
    segment = {"begin_time": 0.1, "end_time": 0.3, "subsets": ["{TEST}"]}
    said = {**segment, "sid": "A1_S0", "text_tn": "BIRDS SING <PERIOD>"}
    silent = {**segment, "sid": "A1_S1", "text_tn": "<NOISE>"}
    trained = {**said, "sid": "A1_S2", "subsets": ["{XL}"]}
    audios = [{"aid": "A1", "path": "audio/a1.wav", "segments": [said, silent, trained]}]
    write(root / "GigaSpeech" / "GigaSpeech.json", {"audios": audios})
    cut(root / "GigaSpeech" / "audio" / "a1.wav")


def common_voice(root: Path) -> None:
    for language in ("en", "zh-CN", "yue", "fr"):
        folder = root / "cv-corpus-15.0" / language
        write(folder / "test.tsv", "client_id\tpath\tsentence\nc1\tv1.wav\tBirds sing\n")
        cut(folder / "clips" / "v1.wav")


def fleurs(root: Path) -> None:
    folder = root / "fleurs" / "cmn_hans_cn"
    write(folder / "test.tsv", "7\tv1.wav\t鸟儿在歌唱\t鸟儿在歌唱\t鸟 儿\t6400\tMALE\n")
    cut(folder / "audio" / "test" / "v1.wav")


def aishell2(root: Path) -> None:
    for device in ("Mic", "iOS", "Android"):
        folder = root / "AISHELL-DEV-TEST-SET" / device / "test"
        write(folder / "wav.scp", "T1\twav/T1.wav\n")
        write(folder / "trans.txt", "T1\t鸟儿在歌唱\n")
        cut(folder / "wav" / "T1.wav")


def covost2(root: Path) -> None:
    for language, names in (("en", ("en_zh-CN", "en_de", "en_ja")), ("zh-CN", ("zh-CN_en",))):
        folder = root / "covost2" / language
        for name in names:
            row = "path\tsentence\ttranslation\tclient_id\nv1.wav\tBirds sing.\tVögel singen\tc1\n"
            write(folder / f"covost_v2.{name}.test.tsv", row)
        cut(folder / "clips" / "v1.wav")


def emotions(root: Path) -> None:
    head = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"
    write(root / "MELD.Raw" / "test_sent_emo.csv", f'{head}1,"Hi, you",Joey,joy,positive,0,1\n')
    cut(root / "MELD.Raw" / "test_splits" / "dia0_utt1.wav")
    for number in (4, 5):
        session = root / "IEMOCAP_full_release" / f"Session{number}"
        name = f"Ses0{number}F_impro01"
        line = f"[6.2901 - 8.2357]\t{name}_F000\tang\t[2.5000, 2.5000, 2.5000]\n"
        write(session / "dialog" / "EmoEvaluation" / f"{name}.txt", line)
        cut(session / "sentences" / "wav" / name / f"{name}_F000.wav")


def speakers(root: Path) -> None:
    write(root / "VoxCeleb1" / "veri_test2.txt", "1 id1/a/1.wav id1/a/2.wav\n0 id1/a/1.wav id2/a/1.wav\n")
    for name, sound in (("id1/a/1", "bird.ogg"), ("id1/a/2", "bird.ogg"), ("id2/a/1", "horse.ogg")):
        cut(root / "VoxCeleb1" / "wav" / f"{name}.wav", sound)
    for name, text in (("19-198-0000", "BIRDS SING"), ("26-198-0000", "RAIN FALLS")):
        folder = root / "LibriMix" / "LibriSpeech" / "test" / name.split("-")[0] / "198"
        write(folder / f"{name[:-5]}.trans.txt", f"{name} {text}\n")
        cut(folder / f"{name}.flac")
    metadata = root / "LibriMix" / "Libri2Mix" / "metadata"
    both = "19-198-0000_26-198-0000"
    write(metadata / "mixture_test_mix_clean.csv", f"mixture_ID,mixture_path\n{both},x.wav\n")
    cut(metadata.parent / "test" / "mix_clean" / f"{both}.wav")


def commands(root: Path) -> None:
    row = {
        "slurp_id": 3,
        "sentence": "wake me at seven",
        "tokens": [{"surface": word} for word in ["wake", "me", "at", "seven"]],
        "entities": [{"span": [2, 3], "type": "time_of_day"}],
        "recordings": [{"file": "audio-1.flac", "status": "correct"}],
    }
    write(root / "slurp" / "test.jsonl", json.dumps(row) + "\n")
    cut(root / "slurp" / "slurp_real" / "audio-1.flac")
    write(root / "Inspec" / "test" / "2.abstr", "Birds sing\n\tin trees and fields")
    write(root / "Inspec" / "test" / "2.uncontr", "bird song; trees;\nfields; dawn")
    cut(root / "Inspec" / "test" / "2.wav")


def captions(root: Path) -> None:
    rows = "".join(f"{i},vid,30,Birds sing in trees\n" for i in range(5))
    write(root / "AudioCaps" / "test.csv", f"audiocap_id,youtube_id,start_time,caption\n{rows}")
    cut(root / "AudioCaps" / "vid_30.wav")
    names = ",".join(f"caption_{n}" for n in range(1, 6))
    write(
        root / "Clotho" / "clotho_captions_evaluation.csv",
        f"file_name,{names}\nbird.wav{5 * ',birds sing loudly'}\n",
    )
    cut(root / "Clotho" / "evaluation" / "bird.wav")
    write(root / "MusicCaps" / "musiccaps-public.csv", "ytid,start_s,end_s,caption\nvid,30,40,A flute.\n")
    cut(root / "MusicCaps" / "vid.wav")


def classes(root: Path) -> None:
    rows = [{"wav": "/somewhere/f0003_0_throatclearing.wav", "labels": "/m/0dl9sf8"}]
    write(root / "VocalSound" / "datafiles" / "te.json", {"data": rows})
    cut(root / "VocalSound" / "audio_16k" / "f0003_0_throatclearing.wav")
    head = "filename,fold,target,category,esc10,src_file,take\n"
    body = "1-9-A-1.wav,1,1,chirping_birds,False,9,A\n1-8-A-2.wav,1,2,train,False,8,A\n"
    write(root / "ESC-50" / "meta" / "esc50.csv", head + body)
    cut(root / "ESC-50" / "audio" / "1-9-A-1.wav")
    cut(root / "ESC-50" / "audio" / "1-8-A-2.wav", "train.ogg")
    names = 'index,mid,display_name\n0,/m/1,"Bird, wild"\n1,/m/2,Train\n'
    write(root / "AudioSet" / "class_labels_indices.csv", names)
    segments = (
        '# csv\n# YTID, start_seconds, end_seconds, positive_labels\nvid, 30.000, 40.000, "/m/1,/m/2"\n'
    )
    write(root / "AudioSet" / "eval_segments.csv", segments)
    cut(root / "AudioSet" / "Yvid.wav")


def questions(root: Path) -> None:
    rows = "".join(f"bird.wav,Is there a bird?,{a},yes\n" for a in ("yes", "no", "yes"))
    write(root / "ClothoAQA" / "clotho_aqa_test.csv", f"file_name,QuestionText,answer,confidence\n{rows}")
    cut(root / "ClothoAQA" / "audio_files" / "bird.wav")
    row = {"uniq_id": 1, "path": "bird.wav", "task_name": "Sound_QA", "dataset_name": "clotho"}
    row |= {"question": "What sings?", "answer_gt": "a bird"}
    options = {"choice_a": "a bird", "choice_b": "a train "}
    grounding = {
        **row,
        **options,
        "task_name": "Audio_Grounding",
        "dataset_name": "AudioGrounding",
        "uniq_id": 2,
    }
    air = root / "AIR-Bench"
    write(air / "Foundation" / "Foundation_meta.json", [{**row, **options}, grounding])
    write(air / "Chat" / "Chat_meta.json", [{**row, "meta_info": "Birds sing in a tree."}])
    for kind in ("Foundation", "Chat"):
        cut(air / kind / "Sound_QA_clotho" / "bird.wav")
    cut(air / "Foundation" / "Audio_Grounding_AudioGrounding" / "bird.flac")
    choices = ["a bird", "a train"]
    row = {"id": "m1", "audio_id": "./test-mini-audios/a.wav", "question": "What sings?", "task": "sound"}
    write(root / "MMAU" / "mmau-test-mini.json", [{**row, "choices": choices, "answer": "a bird"}])
    cut(root / "MMAU" / "test-mini-audios" / "a.wav")
    heard = {"id": 5, "video_name": "vid_000030", "question_text": "What sings?", "answer": 0}
    heard |= {"multi_choice": choices, "question_relation": "Sound", "question_type": "Which"}
    seen = {**heard, "id": 6, "question_relation": "View"}
    write(root / "AVQA" / "val_qa.json", [heard, seen])
    cut(root / "AVQA" / "audio" / "vid_000030.wav")
    (root / "AVQA" / "vid_000030.mp4").write_bytes(b"seen by none here")


def hub(root: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    folder = root / "AudioBench" / "clotho_aqa_test"
    folder.mkdir(parents=True)
    sound = (SAMPLES / "bird.ogg").read_bytes()
    row = {
        "context": {"bytes": sound, "path": "bird.ogg"},
        "instruction": {"text": "What sings?", "audio": None},
        "answer": {"text": "a bird", "audio": None},
    }
    parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "test-00000-of-00001.parquet")
    flat = {"context": {"bytes": sound, "path": None}, "instruction": "What sings?", "answer": "a bird"}
    listening = {**flat, "choices": "(A) a bird (B) a train", "other_attributes": {"task": "music"}}
    spoken = {"context": flat["context"], "speech_instruction": "Name a bird.", "answer": "a robin"}
    for name, row in (("mu_chomusic_test", listening), ("alpaca_audio_test", spoken)):
        (root / "AudioBench" / name).mkdir()
        parquet.write_table(pyarrow.Table.from_pylist([row]), root / "AudioBench" / name / "test.parquet")


def spoken_questions(root: Path) -> None:
    row = "Q1\tWhere do birds sing?\tThey sing in trees.\t1\n"
    write(root / "WikiQA" / "WikiQA-test.tsv", f"QuestionID\tQuestion\tSentence\tLabel\n{row}")
    cut(root / "WikiQA" / "Q1.wav")


def manifests(root: Path) -> None:
    spoken = Sample(
        ask([str(SAMPLES / "bird.ogg")], "").messages,
        references=("a bird",),
        origin={"transcript": "what sings in the tree", "caption": "a bird sings"},
    )
    write_manifest(root / "spoken.jsonl", [spoken])


# task -> what an answer that is right says; tasks with a path in the specification have a manifest.
RIGHT = {
    **dict.fromkeys(("librispeech_clean", "librispeech_other", "gigaspeech"), "Birds sing."),
    **dict.fromkeys(("common_voice_en", "common_voice_fr"), "birds sing"),
    **dict.fromkeys(("fleurs_zh", "aishell2_mic", "aishell2_ios", "aishell2_android"), "鸟儿在歌唱。"),
    **dict.fromkeys(("covost2_en_de", "covost2_zh_en"), "Vögel singen"),
    **{"meld": "Joy.", "iemocap": "Angry.", "librimix": "rain falls birds sing"},
    **{"librispeech_phones": "B ER D Z S IH NG", "slurp": "at seven", "inspec": "bird song, trees, dawn"},
    **{
        "audiocaps": "Birds sing in trees.",
        "clotho": "Birds sing loudly",
        "musiccaps": "A flute.",
        "esc50": "a chirping bird",
    },
    **{"vocalsound": "Throat clearing.", "audioset": "bird, wild; train", "clotho_aqa": "Yes"},
    **{
        "avqa": "A",
        "avqa_video": "A",
        "airbench_foundation": "A. a bird",
        "mmau": "(A) a bird",
        "airbench_chat": "a bird",
    },
    **{"audiobench_clotho_aqa": "a bird", "sqqa": "In trees.", "sac=spoken.jsonl": "A bird."},
}
MAKERS = (
    *(librispeech, gigaspeech, common_voice, fleurs, aishell2, covost2, emotions, speakers, commands),
    *(captions, classes, questions, spoken_questions, hub, manifests),
)
TOP = {"cider_d", "cider_content", "rouge_l", "caption_bleu", "bleu"}  # of one item these say little


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for make in MAKERS:
        make(root)
    return root


class Right:
    """Always says one thing."""

    name = "right"

    def __init__(self, text: str) -> None:
        self.text = text

    def answer(self, keys, samples, max_new_tokens):
        assert all(sample.audios and question_of(sample) for sample in samples)
        return [Said(self.text, (0.4,)) for _ in keys]


@pytest.mark.parametrize("spec", RIGHT)
def test_a_right_answer_scores_full_marks(spec, data, tmp_path):
    name, _, path = spec.partition("=")
    opened = open_task(f"{name}={data / path}" if path else name, data)
    entry = run(Job(opened, tmp_path), Right(RIGHT[spec])).card["tasks"][name]
    metrics = {m: found["mean"] for m, found in entry["metrics"].items() if m not in TOP}
    for metric, value in metrics.items():
        if metric in ("wer", "per"):
            assert value == 0, metric
        elif name == "esc50":
            assert metric != "accuracy" or value == 0.5  # one of the two clips is a bird
        else:
            assert value == pytest.approx(1.0, abs=0.02), metric
    assert entry["unreadable"]["mean"] == 0 and entry["citation"] and entry["missing"] == 0
    assert entry["metrics"]


def test_every_named_task_with_data_is_tried_here_or_like_one_that_is():
    tried = {spec.partition("=")[0] for spec in RIGHT}
    layouts = {known_tasks()[name].layout for name in tried}
    tasks = [task for task in known_tasks().values() if task.path]
    assert {task.layout for task in tasks} - layouts == {
        "voxceleb",  # below: one answer cannot be right twice
        "chunked_calls",  # tests/evaluate/test_benchmark_layouts.py: a call's answers are right together
    }
    assert all(
        task.citation and (task.prompts or (task.columns and task.columns.transcript)) for task in tasks
    )


def test_audiobenchs_rows_are_put_as_audiobench_puts_them(data):
    (music,) = open_task("audiobench_muchomusic", data)
    assert question_of(put(music.task, music.samples[0])) == "What sings?\n(A) a bird (B) a train"
    assert not music.samples[0].choices and music.samples[0].origin["category"] == "music"
    (alpaca,) = open_task("audiobench_alpaca", data)
    assert question_of(put(alpaca.task, alpaca.samples[0])) == "Do what the speaker asks."
    assert alpaca.samples[0].origin["transcript"] == "Name a bird."


def test_questions_are_put_as_their_benchmarks_need(data):
    (air,) = open_task("airbench_foundation", data)
    assert [Path(s.audios[0]["audio"]).name for s in air.samples] == ["bird.wav", "bird.flac"]
    assert air.samples[0].choices == ("a bird", "a train") and air.missing == 0
    (mmau,) = open_task("mmau", data)
    text = question_of(put(mmau.task, mmau.samples[0]))
    assert text.startswith("What sings?\nA. a bird\nB. a train\n")
    assert mmau.samples[0].origin["category"] == "sound" and mmau.samples[0].id == "m1"
    assert [s.origin["group"] for s in air.samples] == ["sound", "sound"]
    (vox,) = open_task("voxceleb1", data)
    assert [s.references for s in vox.samples] == [("yes",), ("no",)] and len(vox.samples[0].audios) == 2
    (iemocap,) = open_task("iemocap", data)
    assert len(iemocap.samples) == 1  # of session 5 only
    (giga,) = open_task("gigaspeech", data)
    assert len(giga.samples) == 1 and giga.samples[0].audios[0]["duration_s"] == pytest.approx(0.2)
    (avqa,) = open_task("avqa", data)
    assert [s.id for s in avqa.samples] == ["audio_choice-5"]
    (clotho,) = open_task("clotho_aqa", data)
    assert (
        clotho.samples[0].references == ("yes", "no", "yes")
        and clotho.samples[0].origin["recording"] == "bird"
    )
    (chinese,) = open_task("common_voice_zh", data)
    assert chinese.samples[0].origin["language"] == "zh-CN"


@pytest.mark.parametrize(
    ("spec", "path", "text", "error"),
    [
        (
            "mmau",
            "m.json",
            '[{"id": 1}]',
            r"m\.json:0: there is no column 'audio_id' \(for audio\); there are id",
        ),
        ("mmau", "m.json", "3", "is not a list of objects"),
        ("mmau", "m.json", "[3]", r"m\.json:0: not an object"),
        ("avqa", "a.json", "[", "is not JSON"),
        ("slurp", "s.txt", '{"slurp_id": 1}\n', r"s\.txt:1: not a row of SLURP"),
        ("gigaspeech", "g.json", "{}", "has no list 'audios'"),
        ("vocalsound", "d/v.json", '{"data": [{"wav": "a_b_song.wav"}]}', "does not end with a vocal sound"),
        ("inspec", "x/y.txt", "", "has no \\*.uncontr"),
        ("audiobench_alpaca", "x.parquet", "no parquet", r"x\.parquet cannot be read"),
    ],
)
def test_what_is_not_laid_out_as_it_should_be_is_named(tmp_path, spec, path, text, error):
    with pytest.raises(SourceError, match=error):
        open_task(f"{spec}={write(tmp_path / path, text)}", tmp_path)
