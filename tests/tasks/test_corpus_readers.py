"""Each corpus' layout, copied at small size with real audio, as manifests; and what is refused, by place."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalm.audio.load import load_audio
from lalm.cli.app import run
from lalm.data.readers import read_manifest
from lalm.data.sample import message_text
from lalm.systems.apt.prompts import prompts as apt_prompts
from lalm.systems.salmonn.prompts import prompts
from lalm.tasks import READERS, Source, SourceError, build
from lalm.tasks.overlap import mix
from lalm.tasks.phones import phones

SAMPLES = Path(__file__).parents[2] / "samples"
SPEAKERS = (
    "; a comment\n19   | F | train-clean-100 | 25.0 | Kara\n26   | M | train-clean-100 | 25.0 | Denys\n"
)
IEMOCAP = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
[10.0100 - 11.3925]\tSes01F_impro01_F001\texc\t[2.5000, 2.5000, 2.5000]
[14.8872 - 18.0175]\tSes01F_impro01_M002\txxx\t[2.5000, 2.5000, 2.5000]
"""


def cut(path, name="bird.ogg", seconds=0.4):
    """Part of a real recording, written as a corpus would hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, load_audio(SAMPLES / name)[: int(seconds * 16_000)], 16_000)


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def libri(tmp_path):
    root = tmp_path / "LibriSpeech"
    put(root / "SPEAKERS.TXT", SPEAKERS)
    for speaker, lines in (
        ("19", ["THE DOG'S BARK", "A GREEN ZORBLAX"]),
        ("26", ["BIRDS SING", "RAIN FALLS"]),
    ):
        folder = root / "train-clean-100" / speaker / "198"
        rows = [f"{speaker}-198-{i:04d} {line}" for i, line in enumerate(lines)]
        put(folder / f"{speaker}-198.trans.txt", "\n".join(rows) + "\n")
        for i in range(2):
            cut(folder / f"{speaker}-198-{i:04d}.flac", "bird.ogg" if speaker == "19" else "train.ogg")
    return root


def made(task, path, tmp_path, **options):
    out = tmp_path / "out.jsonl"
    audio = options.pop("audio", None)
    built = build(task, Source(path, audio), out, **options)
    samples = list(read_manifest(out))
    assert built.written == len(samples) == len({s.id for s in samples})
    assert all(len(load_audio(part["audio"])) > 1000 for s in samples for part in s.audios)
    assert all(message_text(s.messages[0]) for s in samples)
    return samples


def answers(samples):
    return [s.target for s in samples]


def test_librispeech_speech_phones_and_gender(libri, tmp_path):
    samples = made("asr", libri, tmp_path, seed=None)
    assert answers(samples) == ["the dog's bark", "a green zorblax", "birds sing", "rain falls"]
    assert samples[2].origin["speaker"] == "26" and samples[2].id == "asr-26-198-0000"
    assert message_text(samples[0].messages[0]) == prompts()["asr"][0]
    assert answers(made("phones", libri, tmp_path)) == [
        "DH AH D AO G Z B AA R K",
        "B ER D Z S IH NG",
        "R EY N F AO L Z",
    ]
    genders = made("gender", libri, tmp_path)
    assert answers(genders) == ["A woman.", "A woman.", "A man.", "A man."]
    assert genders[0].references == ("woman",) and genders[0].choices == ("man", "woman")


def test_a_subset_of_librispeech_finds_the_speakers_above_it(libri, tmp_path):
    genders = made("gender", libri / "train-clean-100", tmp_path)
    assert answers(genders) == ["A woman.", "A woman.", "A man.", "A man."]


def test_a_papers_prompts_are_asked_for_by_name(libri, tmp_path):
    cut(tmp_path / "clips" / "2 dogs.wav")
    header = "file_name," + ",".join(f"caption_{n}" for n in range(1, 6))
    path = put(tmp_path / "clotho.csv", f"{header}\n2 dogs.wav,a,b,c,d,e\n")
    words = {"layout": "clotho", "audio": tmp_path / "clips", "wording": "apt"}
    (tested,) = made("caption", path, tmp_path, seed=None, **words)
    assert message_text(tested.messages[0]) == "Describe the audio clip concisely."
    learned = made("caption", path, tmp_path, every=True, **words)
    asked = {message_text(sample.messages[0]) for sample in learned}
    assert len(learned) == 5 and len(asked) > 1 and asked <= set(apt_prompts()["caption"])
    assert all(len(apt_prompts()[task]) >= 10 for task in ("tags", "caption", "detect", "retrieve"))
    out = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="task 'asr' has no prompts of apt; those with are tags, caption"):
        build("asr", Source(libri), out, wording="apt")
    with pytest.raises(ValueError, match="there are no prompts of 'ltu'; there are those of salmonn and apt"):
        build("asr", Source(libri), out, wording="ltu")


def test_phones_need_every_word():
    assert phones("Don't, stop!") == "D OW N T S T AA P"
    assert phones("zorblax") is None and phones("5 dogs") is None and phones("...") is None


def test_a_manifest_of_transcripts(libri, tmp_path):
    made("asr", libri, tmp_path)
    source = (tmp_path / "out.jsonl").rename(tmp_path / "speech.jsonl")
    assert answers(made("asr", source, tmp_path, layout="manifest"))[2] == "birds sing"
    assert len(made("phones", source, tmp_path)) == 3


def test_covost(tmp_path):
    tsv = 'path\tsentence\ttranslation\tclient_id\nx_1.mp3\tIt "rains.\t下雨了。\tab\n'
    path = put(tmp_path / "covost_v2.en_zh-CN.train.tsv", tsv)
    cut(tmp_path / "clips" / "x_1.mp3")
    (sample,) = made("translate_zh", path, tmp_path)
    assert sample.target == "下雨了。" and sample.origin["transcript"] == 'It "rains.'
    assert "Chinese" in message_text(sample.messages[0])
    with pytest.raises(SourceError, match="is of task 'translate_zh', not 'translate_de'"):
        made("translate_de", path, tmp_path)


def test_captions(tmp_path):
    audio = tmp_path / "audio"
    for name in ("Yabc_30.wav", "def_0.flac", "77.wav", "Ywc.flac", "2 dogs.wav"):
        cut(audio / name, "horse.ogg")
    rows = '1,abc,30,A horse\n2,abc,30,"Neighing, far"\n3,def,0.0,Hooves\n77,ghi,5,Wind\n4,gone,1,x\n'
    path = put(tmp_path / "train.csv", "audiocap_id,youtube_id,start_time,caption\n" + rows)
    out = tmp_path / "out.jsonl"
    assert build("caption", Source(path, audio), out).missing == 1
    assert [s.references for s in read_manifest(out)] == [
        ("A horse", "Neighing, far"),
        ("Hooves",),
        ("Wind",),
    ]
    data = [{"id": "Ywc.wav", "caption": " A horse. ", "duration": 9.5}]
    data.append({"id": "Ywc.wav", "caption": "Long", "duration": 180.5})
    path = put(tmp_path / "as.json", json.dumps({"num_captions_per_audio": 1, "data": data}))
    assert answers(made("caption", path, tmp_path, layout="wavcaps", audio=audio)) == ["A horse."]
    header = "file_name," + ",".join(f"caption_{n}" for n in range(1, 6))
    path = put(tmp_path / "clotho.csv", f"{header}\n2 dogs.wav,a,b,c,d,e\n")
    (sample,) = made("caption", path, tmp_path, layout="clotho", audio=audio)
    assert sample.references == tuple("abcde")


def test_musiccaps(tmp_path):
    header = "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_audioset_eval"
    rows = "-0Gj,30,40,/m/1,\"['a', 'b']\",A slow song.,4,False\n-0Gk,0,10,/m/1,[],Fast.,4,True\n"
    path = put(tmp_path / "musiccaps-public.csv", f"{header}\n{rows}")
    cut(tmp_path / "wav" / "[-0Gj]-[30-40].wav")
    cut(tmp_path / "wav" / "[-0Gk]-[0-10].wav")
    assert answers(made("music_caption", path, tmp_path)) == ["A slow song.", "Fast."]
    assert answers(made("music_caption", path, tmp_path, splits=["train"])) == ["A slow song."]
    put(path, f"{header}\n-0Gj,x,40,/m/1,a,b,4,False\n")
    with pytest.raises(SourceError, match=r"musiccaps-public.csv:2: start_s and end_s"):
        made("music_caption", path, tmp_path)


def test_iemocap(tmp_path):
    root = tmp_path / "IEMOCAP"
    put(root / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt", IEMOCAP)
    for name in ("F000", "F001", "M002"):
        cut(root / "Session1" / "sentences" / "wav" / "Ses01F_impro01" / f"Ses01F_impro01_{name}.wav")
    samples = made("emotion", root, tmp_path)
    assert answers(samples) == ["Neutral.", "Happy."] and {s.split for s in samples} == {"session1"}
    assert samples[1].references == ("happy",) and set(samples[0].choices) == {
        "neutral",
        "happy",
        "angry",
        "sad",
    }


def test_voxceleb_trials_and_pairs_of_our_own(tmp_path):
    names = [f"id{speaker}/v/0000{n}.wav" for speaker in (1, 2, 3) for n in (1, 2, 3, 4)]
    for name in names:
        cut(tmp_path / "wav" / name)
    path = put(tmp_path / "veri_test.txt", f"1 {names[0]} {names[1]}\n0 {names[0]} {names[4]}\n")
    samples = made("speaker", path, tmp_path)
    assert answers(samples) == ["Yes.", "No."] and [len(s.audios) for s in samples] == [2, 2]
    pairs = made("speaker", tmp_path / "wav", tmp_path, layout="folders")
    assert len(pairs) == 12
    for pair in pairs:
        first, second = (Path(str(part["audio"])) for part in pair.audios)
        assert first != second
        assert pair.target == ("Yes." if first.parents[1] == second.parents[1] else "No.")
    put(path, "1 a\n")
    with pytest.raises(SourceError, match=r"veri_test.txt:1: not '1 FILE FILE'"):
        made("speaker", path, tmp_path)


def test_librimix(libri, tmp_path):
    name = "19-198-0000_26-198-0001"
    folder = libri.parent / "Libri2Mix" / "wav16k" / "min"
    header = "mixture_ID,mixture_path,source_1_path,source_2_path,length"
    path = put(folder / "metadata" / "mixture_train-100_mix_clean.csv", f"{header}\n{name},/x,/y,/z,9\n")
    cut(folder / "train-100" / "mix_clean" / f"{name}.wav")
    (sample,) = made("overlap", tmp_path, tmp_path)
    assert sample.target == "the dog's bark\nrain falls" and sample.split == "train-100"
    assert sample.references[1] == "rain falls\nthe dog's bark"
    put(path, f"{header}\n1-2-3_{name},/x,/y,/z,9\n")
    with pytest.raises(SourceError, match=r"mixture_train-100_mix_clean.csv:2: .* no 1-2-3"):
        made("overlap", tmp_path, tmp_path)


def test_mixtures_of_our_own(libri, tmp_path):
    samples = made("overlap", libri, tmp_path, layout="mixed")
    assert len(samples) == 2
    for sample in samples:
        audio = Path(str(sample.audios[0]["audio"]))
        assert audio.parent == tmp_path / "out_audio"
        assert {name.split("-")[0] for name in audio.stem.split("_")} == {"19", "26"}
        assert len(sample.target.split("\n")) == 2


def test_mixing_keeps_both_voices_at_the_level_asked_for():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 0.1, 16_000), rng.normal(0, 0.5, 12_000)
    whole = mix(first, second, 8_000, 6.0)
    assert len(whole) == 20_000 and np.isclose(np.abs(whole).max(), 0.9, atol=1e-3)
    alone, later = whole[:8_000], whole[16_000:]
    assert np.isclose(20 * np.log10(alone.std() / later.std()), 6.0, atol=0.3)


def test_annotation_files_as_published(tmp_path):
    for name in ("a.wav", "b.wav", "c.wav"):
        cut(tmp_path / name)
    rows = [
        {"path": "a.wav", "text": "hello"},
        {"path": "a.wav", "text": "No", "task": "speaker_verification", "expand_wav": ["b.wav", "c.wav"]},
        {"path": "b.wav", "text": "A dog.", "task": "QA", "Q": "What barks?"},
        {"path": "b.wav", "text": "A dog barks.", "task": "audiocaption", "Q": "", "expand_wav": []},
        {"path": "a.wav", "text": "Someone speaks while a dog barks.", "task": "fluent_speech_audio"},
        {"path": "a.wav", "text": "你好", "task": "asr_zh"},
        {"path": "a.wav", "text": "Guten Tag", "task": "asr_de"},
    ]
    path = put(tmp_path / "train.json", json.dumps({"annotation": rows}))
    samples = made("annotation", path, tmp_path)
    assert [s.task for s in samples] == [
        "asr",
        "speaker",
        "audio_qa",
        "caption",
        "speech_and_sounds",
        "asr",
        "asr",
    ]
    assert [s.origin.get("language") for s in samples] == [None] * 5 + ["zh", "de"]
    assert [len(s.audios) for s in samples][:4] == [1, 3, 1, 1] and samples[1].target == "No"
    assert "What barks?" in message_text(samples[2].messages[0])


def test_gigaspeech_segments_of_long_recordings(tmp_path):
    def segment(sid, begin, text, *subsets):
        times = {"begin_time": begin, "end_time": begin + 0.25}
        return {"sid": sid, **times, "text_tn": text, "subsets": [f"{{{name}}}" for name in subsets]}

    rows = [
        segment("POD1_S1", 0.5, "IT'S RAINING <COMMA> MOM <PERIOD>", "XL", "L", "M"),
        segment("POD1_S2", 0.75, "AGAIN <QUESTIONMARK>", "XL"),
        segment("POD1_S3", 1.0, "<MUSIC>", "TEST"),
    ]
    cut(tmp_path / "audio" / "POD1.wav", "water.ogg", 2.0)
    whole = {"audios": [{"aid": "POD1", "path": "audio/POD1.wav", "segments": rows}]}
    path = put(tmp_path / "GigaSpeech.json", json.dumps(whole))
    samples = made("asr", path, tmp_path, layout="gigaspeech")
    assert answers(samples) == ["it's raining, mom.", "again?"] and [s.split for s in samples] == ["M", "XL"]
    part = samples[1].audios[0]
    assert (part["offset_s"], part["duration_s"]) == (0.75, 0.25)
    assert answers(made("asr", path, tmp_path, layout="gigaspeech", splits=["M", "S"])) == [
        "it's raining, mom."
    ]
    with pytest.raises(SourceError, match="has no split 'S'; it has M, XL"):
        made("asr", path, tmp_path, layout="gigaspeech", splits=["S"])


def test_music_by_its_metadata(tmp_path):
    cut(tmp_path / "train_data" / "1727.wav")
    cut(tmp_path / "mp3" / "4ZoBC5.mp3", "horse.ogg")
    header = "id,composer,composition,movement,ensemble,source,transcriber,catalog_name,seconds"
    row = "1727,Schubert,Piano Quintet in A major,2. Andante,Piano Quintet,EA,s,OP114,447"
    path = put(tmp_path / "musicnet_metadata.csv", f"{header}\n{row}\n")
    said = "Classical music by Schubert for piano quintet: Piano Quintet in A major, 2. Andante."
    assert answers(made("music_caption", path, tmp_path, layout="musicnet")) == [said]
    header = "track_id,name,artist,spotify_preview_url,spotify_id,tags,genre,year,duration_ms,tempo"
    rows = 'TR1,S,A,http://x,4ZoBC5,"rock, female_vocalists",Rock,2004,1,148.03\nTR2,S,A,x,y,,,2004,1,90\n'
    path = put(tmp_path / "Music Info.csv", f"{header}\n{rows}")
    said = "Music that listeners call rock, female vocalists, from the year 2004, at 148 beats a minute."
    assert answers(made("music_caption", path, tmp_path, layout="millionsong")) == [said]


def test_questions_to_be_read_aloud(tmp_path):
    header = "QuestionID\tQuestion\tDocumentID\tDocumentTitle\tSentenceID\tSentence\tLabel"
    rows = [f'Q0\tHOW OLD\tD1\tT\tD1-{n}\tAnswer "{n}.\t{n % 2}' for n in range(4)]
    path = put(tmp_path / "WikiQA-test.tsv", "\n".join([header, *rows, "Q4\tWHO\tD2\tT\tD2-0\tNo.\t0"]))
    cut(tmp_path / "speech" / "Q0.wav")
    (sample,) = made("spoken_question", path, tmp_path, audio=tmp_path / "speech")
    assert sample.references == ('Answer "1.', 'Answer "3.') and sample.origin["transcript"] == "HOW OLD"


def test_clips_for_stories_have_no_answer(tmp_path):
    path = put(tmp_path / "test.csv", "audiocap_id,youtube_id,start_time,caption\n1,abc,30,A horse\n")
    cut(tmp_path / "audio" / "abc_30.wav", "horse.ogg")
    (sample,) = made("story", path, tmp_path, seed=None, audio=tmp_path / "audio")
    assert sample.target == "" and not sample.references and sample.origin["caption"] == "A horse"
    assert message_text(sample.messages[0]) == prompts()["story"][0]


def test_pairs_in_one_recording(tmp_path):
    for name in ("a/1.wav", "b/1.wav"):
        cut(tmp_path / "wav" / name)
    path = put(tmp_path / "veri_test.txt", "0 a/1.wav b/1.wav\n")
    (sample,) = made("speaker", path, tmp_path, join=True)
    (part,) = sample.audios
    assert len(load_audio(part["audio"])) == 2 * 6400 + 1600 and sample.target == "No."


def test_sessions_are_chosen_by_split(tmp_path, capsys):
    for session in (1, 5):
        root = tmp_path / "IEMOCAP" / f"Session{session}"
        put(root / "dialog" / "EmoEvaluation" / "x.txt", IEMOCAP.replace("Ses01", f"Ses0{session}"))
        cut(root / "sentences" / "wav" / f"Ses0{session}F_impro01" / f"Ses0{session}F_impro01_F000.wav")
    out = tmp_path / "test.jsonl"
    words = ["build", "emotion", str(tmp_path / "IEMOCAP"), "--out", str(out), "--split", "session5"]
    assert run(words) == 0, capsys.readouterr().err
    assert [s.split for s in read_manifest(out)] == ["session5"]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ([], "the entry is not an object"),
        ({"path": "a.wav"}, "text is missing"),
        ({"path": "a.wav", "text": ""}, "text must be a text of 1 to"),
        ({"path": "a.wav", "text": "x" * 100_001}, "text must be a text of 1 to"),
        ({"path": "a.wav", "text": "x", "task": "dance"}, "unknown task 'dance'"),
        ({"path": "a.wav", "text": "x", "tsak": "asr"}, "unknown key 'tsak'"),
        ({"path": "a.wav", "text": "x", "task": "QA"}, "task 'QA' needs a question in Q"),
        ({"path": "a.wav", "text": "x", "expand_wav": "b.wav"}, "expand_wav must be a list"),
    ],
)
def test_wrong_annotations_are_named_by_place(entry, problem, tmp_path):
    cut(tmp_path / "a.wav")
    rows = [{"path": "a.wav", "text": "hello"}, entry]
    path = put(tmp_path / "train.json", json.dumps({"annotation": rows}))
    with pytest.raises(SourceError, match=rf"^train.json:1: {problem}"):
        made("annotation", path, tmp_path)
    assert not (tmp_path / "out.jsonl").exists()


def test_what_is_no_such_corpus_is_refused(libri, tmp_path):
    with pytest.raises(SourceError, match=r"has no \*.trans.txt in it"):
        made("asr", tmp_path / "nowhere", tmp_path)
    with pytest.raises(SourceError, match="has no layout 'dance'; it has librispeech, manifest"):
        made("asr", libri, tmp_path, layout="dance")
    path = put(libri / "train-clean-100" / "19" / "198" / "19-198.trans.txt", "19-198-0000 HI\nno\n")
    with pytest.raises(SourceError, match=r"19-198.trans.txt:2: not 'ID WORDS'"):
        made("asr", libri, tmp_path)
    put(path, "19-198-0009 HI\n")
    put(path.parents[2] / "26" / "198" / "26-198.trans.txt", "26-198-0009 HI\n")
    with pytest.raises(SourceError, match=r"gives no sample whose audio is there: no '.*19-198-0009.flac'"):
        made("asr", libri, tmp_path)
    path = put(tmp_path / "train.csv", "a,b\n1,2\n")
    with pytest.raises(SourceError, match=r"train.csv:1: there is no column 'audiocap_id'"):
        made("caption", path, tmp_path)


def test_the_command(libri, tmp_path, capsys):
    out = tmp_path / "asr.jsonl"
    assert run(["build", "asr", str(libri), "--out", str(out), "--test"]) == 0
    assert capsys.readouterr().out == f"{out}: 4 samples\n"
    assert run(["build", "dance", str(libri), "--out", str(out)]) == 2
    assert "No such command 'dance'" in capsys.readouterr().err
    assert set(READERS) - {"annotation", "few_shot"} <= {*prompts(), *apt_prompts()}


def test_the_command_knows_every_task():
    from lalm.cli.build import TASKS

    assert list(TASKS) == list(READERS)
