"""Corpora as their archives unpack: names are those of the archives' own listings, with a row or two each.

MELD's listing is that of MELD.Raw.tar.gz and the three archives in it, with what a Mac left behind.
"""

import json

import pytest
from test_corpus_readers import cut, put

from lalm.data.readers import read_manifest
from lalm.evaluate.items import open_task
from lalm.evaluate.task import known_tasks
from lalm.evaluate.task_data import OTHER_NAMES
from lalm.tasks import Source, build

MELD = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
    '1,"Why do all you\u2019re coffee mugs have numbers on the bottom?",Mark,surprise,positive,0,0,3,19,'
    '"00:14:38,127","00:14:40,378"\n'
    '2,"Oh. That\u2019s so Monica",Rachel,joy,positive,0,1,3,19,"00:14:40,629","00:14:43,255"\n'
)
COMMON_VOICE = (
    "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment\n"
    "ab\tcommon_voice_en_27710027.mp3\tJoe Keaton disapproved.\t2\t0\t\t\t\t\ten\t\n"
)
VOXCELEB = (
    "1 id10270/5r0dWxy17C8/00001.wav id10270/5r0dWxy17C8/00002.wav\n"
    "0 id10270/5r0dWxy17C8/00001.wav id10309/0b1inHMAr6o/00001.wav\n"
)
VOXCELEB_CLIPS = [
    "id10270/5r0dWxy17C8/00001.wav",
    "id10270/5r0dWxy17C8/00002.wav",
    "id10309/0b1inHMAr6o/00001.wav",
]
GIGASPEECH = json.dumps(
    {
        "audios": [
            {
                "aid": "POD0000000001",
                "path": "audio/podcast/P0000/POD0000000001.opus",
                "segments": [
                    {
                        "sid": "POD0000000001_S0000008",
                        "begin_time": 0.1,
                        "end_time": 0.3,
                        "text_tn": "DOUGLAS MCGRAY <COMMA>",
                        "subsets": ["{XL}", "{M}"],
                    }
                ],
            }
        ]
    }
)
SLURP = json.dumps(
    {
        "slurp_id": 13804,
        "sentence": "event",
        "intent": "calendar_set",
        "tokens": [{"surface": "event", "id": 0}],
        "entities": [{"span": [0], "type": "event_name"}],
        "recordings": [{"file": "audio-1501754435.flac", "wer": 0.0, "ent_wer": 0.0, "status": "correct"}],
    }
)
FLEURS = "1906\t1017.wav\t这并不是告别。\t这并不是告别\t这 | 并 | 不 | 是 | 告 | 别 |\t83520\tMALE\n"
COVOST = "path\tsentence\ttranslation\tclient_id\ncommon_voice_en_1.mp3\tGo.\t去。\tab\n"
IEMOCAP = (
    "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\n"
)
# Each row: task and layout of ``lalm build``, the table in the archive, its text, and the archive's clips.
LAYOUTS = {
    "meld": ("emotion", "meld", "MELD.Raw/test_sent_emo.csv", MELD,
             ["MELD.Raw/output_repeated_splits_test/dia0_utt0.mp4",
              "MELD.Raw/output_repeated_splits_test/dia0_utt1.mp4",
              "MELD.Raw/output_repeated_splits_test/._dia0_utt1.mp4"]),
    "meld, dev": ("emotion", "meld", "MELD.Raw/dev_sent_emo.csv", MELD,
                  ["MELD.Raw/dev_splits_complete/dia0_utt0.mp4",
                   "MELD.Raw/dev_splits_complete/dia0_utt1.mp4"]),
    "meld, train": ("emotion", "meld", "MELD.Raw/train/train_sent_emo.csv", MELD,
                    ["MELD.Raw/train/train_splits/dia0_utt0.mp4",
                     "MELD.Raw/train/train_splits/dia0_utt1.mp4"]),
    "meld, archives unpacked each in its folder": (
        "emotion", "meld", "MELD.Raw/test_sent_emo.csv", MELD,
        ["MELD.Raw/test/output_repeated_splits_test/dia0_utt0.mp4",
         "MELD.Raw/test/output_repeated_splits_test/dia0_utt1.mp4"]),
    "meld, table one folder down": (
        "emotion", "meld", "meld/test/test_sent_emo.csv", MELD,
        ["meld/output_repeated_splits_test/dia0_utt0.wav", "meld/output_repeated_splits_test/dia0_utt1.wav"]),
    "meld, clips that were named twice": (
        "emotion", "meld", "test_sent_emo.csv", MELD,
        ["output_repeated_splits_test/final_videos_testdia0_utt0.mp4",
         "output_repeated_splits_test/dia0_utt1.mp4"]),
    "common_voice": ("asr", "common_voice", "cv-corpus-15.0-2023-09-08/en/test.tsv", COMMON_VOICE,
                     ["cv-corpus-15.0-2023-09-08/en/clips/common_voice_en_27710027.mp3"]),
    "common_voice, converted": ("asr", "common_voice", "en/train.tsv", COMMON_VOICE,
                                ["en/clips/common_voice_en_27710027.flac"]),
    "fleurs": ("asr", "fleurs", "cmn_hans_cn/test.tsv", FLEURS, ["cmn_hans_cn/audio/test/1017.wav"]),
    "fleurs of the hub": ("asr", "fleurs", "data/cmn_hans_cn/test.tsv", FLEURS,
                          ["data/cmn_hans_cn/test/1017.wav"]),
    "gigaspeech": ("asr", "gigaspeech", "GigaSpeech/GigaSpeech.json", GIGASPEECH,
                   ["GigaSpeech/audio/podcast/P0000/POD0000000001.opus"]),
    "slurp": ("asr", "slurp", "slurp/dataset/slurp/test.jsonl", SLURP,
              ["slurp/audio/slurp_real/audio-1501754435.flac"]),
    "covost": ("translate_zh", "covost", "covost2/en/covost_v2.en_zh-CN.test.tsv", COVOST,
               ["covost2/en/clips/common_voice_en_1.mp3"]),
    "covost beside the language": ("translate_zh", "covost", "covost2/covost_v2.en_zh-CN.test.tsv", COVOST,
                                   ["covost2/en/clips/common_voice_en_1.mp3"]),
    "voxceleb": ("speaker", "voxceleb", "vox1/veri_test2.txt", VOXCELEB,
                 [f"vox1/wav/{clip}" for clip in VOXCELEB_CLIPS]),
    "voxceleb, archives apart": ("speaker", "voxceleb", "vox1/veri_test2.txt", VOXCELEB,
                                 [f"vox1/test/wav/{VOXCELEB_CLIPS[0]}", f"vox1/test/wav/{VOXCELEB_CLIPS[1]}",
                                  f"vox1/dev/wav/{VOXCELEB_CLIPS[2]}"]),
    "esc50": ("tags", "esc50", "ESC-50-master/meta/esc50.csv",
              "filename,fold,target,category,esc10,src_file,take\n1-100032-A-0.wav,1,0,dog,True,100032,A\n",
              ["ESC-50-master/audio/1-100032-A-0.wav"]),
    "clotho": ("caption", "clotho", "clotho_captions_development.csv",
               "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
               "Distorted AM Radio noise.wav,a,b,c,d,e\n",
               ["development/Distorted AM Radio noise.wav"]),
    "clotho_aqa": ("audio_qa", "clotho_aqa", "clotho_aqa_test.csv",
                   "file_name,QuestionText,answer,confidence\n"
                   "20080504.horse.drawn.00.wav,Is it a horse?,yes,yes\n",
                   ["audio_files/20080504.horse.drawn.00.wav"]),
    "vocalsound": ("tags", "vocalsound", "vs_release_16k/audio_16k", None,
                   ["vs_release_16k/audio_16k/f0003_0_cough.wav"]),
    "iemocap": ("emotion", "iemocap", "IEMOCAP_full_release", None,
                ["IEMOCAP_full_release/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"]),
    "macs": ("caption", "macs", "MACS.yaml",
             "files:\n- filename: airport-barcelona-0-0-a.wav\n  annotations:\n  - annotator_id: 14\n"
             "    sentence: adults talking\n    tags: [adults_talking]\n",
             ["TAU-urban-acoustic-scenes-2019-development/audio/airport-barcelona-0-0-a.wav"]),
    "musicnet": ("music_caption", "musicnet", "musicnet_metadata.csv",
                 "id,composer,composition,movement,ensemble,source,transcriber,catalog_name,seconds\n"
                 "1727,Schubert,Piano Quintet in A major,2. Andante,Piano Quintet,European Archive,http://,OP114,447\n",
                 ["musicnet/train_data/1727.wav"]),
    "millionsong": ("music_caption", "millionsong", "Music Info.csv",
                    "track_id,name,artist,spotify_preview_url,spotify_id,tags,genre,year,duration_ms,tempo\n"
                    "TRAIWHH128F42844AA,S,A,http://x,4ZoB,\"blues, slow\",Blues,2004,1,90\n",
                    ["MP3-Example/Blues/Blues-TRAIWHH128F42844AA.mp3"]),
    "inspec": ("keywords", "inspec", "Hulth2003/Test", None, ["speech/193.wav"]),
}  # fmt: skip


def sound(path):
    """A recording that is there; what a Mac left behind and the sound of a film are WAV under their names."""
    if path.suffix in (".mp4", ".opus"):
        cut(path.with_suffix(".wav"))
        path.with_suffix(".wav").rename(path)
    else:
        cut(path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_archive_is_read_as_it_unpacks(tmp_path, name):
    task, layout, table, text, clips = LAYOUTS[name]
    if text is not None:
        put(tmp_path / table, text)
    if name == "iemocap":
        put(tmp_path / table / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", IEMOCAP)
        put(tmp_path / table / "Session1/dialog/EmoEvaluation/._Ses01F_impro01.txt", "\x00\x05")
    if name == "inspec":
        put(tmp_path / table / "193.abstr", "Cache conscious mining.")
        put(tmp_path / table / "193.uncontr", "cache conscious; mining")
    for clip in clips:
        sound(tmp_path / clip)
    audio = tmp_path / "speech" if name == "inspec" else None
    built = build(task, Source(tmp_path / table, audio), tmp_path / "out.jsonl", layout=layout)
    samples = list(read_manifest(tmp_path / "out.jsonl"))
    assert built.missing == 0 and built.written == len(samples) > 0
    used = {str(part["audio"]) for sample in samples for part in sample.audios}
    assert used == {str(tmp_path / clip) for clip in clips if "/._" not in clip and "/speech" not in clip}


@pytest.mark.parametrize(
    "name",
    [
        "meld",
        "common_voice",
        "fleurs",
        "gigaspeech",
        "slurp",
        "covost",
        "voxceleb",
        "esc50",
        "clotho",
        "iemocap",
    ],
)
def test_the_audio_may_lie_in_another_folder(tmp_path, name):
    task, layout, table, text, clips = LAYOUTS[name]
    root = tmp_path / table if text is None else (tmp_path / table).parent
    if text is not None:
        put(tmp_path / table, text)
    else:
        put(root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", IEMOCAP)
    if name == "esc50":
        root = root.parent
    for clip in clips:
        place = tmp_path / clip
        inside = place.relative_to(root) if place.is_relative_to(root) else place.name
        sound(tmp_path / "elsewhere" / inside)
    built = build(
        task, Source(tmp_path / table, tmp_path / "elsewhere"), tmp_path / "out.jsonl", layout=layout
    )
    assert built.missing == 0 and built.written > 0


@pytest.mark.parametrize("folder", ["MELD.Raw", "MELD", "MELD/MELD.Raw", "meld", "."])
def test_a_task_finds_meld_under_its_usual_names(tmp_path, folder):
    put(tmp_path / folder / "test_sent_emo.csv", MELD)
    for i in (0, 1):
        sound(tmp_path / folder / "output_repeated_splits_test" / f"dia0_utt{i}.mp4")
    (asked,) = open_task("meld", tmp_path)
    assert len(asked.samples) == 2


def test_a_task_takes_its_audio_from_the_folder_it_is_given(tmp_path):
    put(tmp_path / "MELD.Raw" / "test_sent_emo.csv", MELD)
    for i in (0, 1):
        sound(tmp_path / "disk" / f"dia0_utt{i}.wav")
    (asked,) = open_task("meld", tmp_path, audio=tmp_path / "disk")
    assert len(asked.samples) == 2


def test_a_task_finds_common_voice_with_its_date(tmp_path):
    put(tmp_path / "cv-corpus-15.0-2023-09-08" / "en" / "test.tsv", COMMON_VOICE)
    sound(tmp_path / "cv-corpus-15.0-2023-09-08/en/clips/common_voice_en_27710027.mp3")
    assert [len(asked.samples) for asked in open_task("common_voice_en", tmp_path)] == [1]


def test_every_folder_of_a_task_has_its_other_names():
    folders = {task.path.partition("/")[0] for task in known_tasks().values() if task.path}
    assert set(OTHER_NAMES) == folders - {"AudioBench"}  # folders of the Hub, by their names there
