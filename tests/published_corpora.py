"""The corpora that docs/manifests.md names, a few rows each, laid out as their archives unpack."""

import json
from dataclasses import replace
from pathlib import Path

from tiny_parts import noise

from lalm.data.sample import ask, write_manifest

CLASSES = ["Speech", "Male speech, man speaking", "Dog", "Rain", "Bell", "Engine"]
OURS = {  # labels of the corpus that lalm corpus build makes, with their captions
    "animal/dog": "a dog barks",
    "weather/rain": "rain falls",
    "vehicle/train": "a train passes",
    "instrument/piano": "a piano note is played",
    "animal/cat": "a cat meows",
    "animal/horse": "a horse neighs",
    "animal/cow": "a cow moos",
    "animal/bird": "a bird sings",
    "speech/english": "a woman speaks in English",
}


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def clips(*paths: Path) -> None:
    """Recordings of 1.1 to 1.5 s, each another noise; MP3 and Opus are WAV under their names."""
    for number, path in enumerate(paths):
        made = noise(path.with_suffix(".wav"), 1.1 + 0.1 * (number % 5), seed=number)
        made.rename(path)


def captioned(root: Path) -> None:
    """AudioCaps, Clotho and Clotho-AQA, WavCaps."""
    for split, ids in (("train", "abcd"), ("val", "ef")):
        rows = [f"{n},{i},30,A dog barks {n} times" for n, i in enumerate(ids)]
        header = "audiocap_id,youtube_id,start_time,caption"
        put(root / f"AudioCaps/{split}.csv", "\n".join([header, *rows]) + "\n")
        clips(*(root / f"AudioCaps/audio/{i}_30.wav" for i in ids))
    columns = ",".join(["file_name", *(f"caption_{n}" for n in range(1, 6))])
    for split in ("development", "validation"):
        rows = [f"{split} {n}.wav,rain,rain falls,water,it rains,drops" for n in range(2)]
        put(root / f"Clotho/clotho_captions_{split}.csv", "\n".join([columns, *rows]) + "\n")
        clips(*(root / f"Clotho/{split}/{split} {n}.wav" for n in range(2)))
    rows = [f"water {n}.wav,Is it rain {n}?,yes,yes" for n in range(2) for _ in range(3)]
    put(
        root / "Clotho-AQA/clotho_aqa_train.csv",
        "\n".join(["file_name,QuestionText,answer,confidence", *rows]),
    )
    clips(*(root / f"Clotho-AQA/audio_files/water {n}.wav" for n in range(2)))
    files = {"AudioSet_SL": "as", "FreeSound": "fsd", "BBC_Sound_Effects": "bbc", "SoundBible": "sb"}
    for folder, short in files.items():
        names = ["Yab.wav", "Ycd.wav"] if short == "as" else ["17", "18"]  # numbers are the archive's own
        data = [{"id": i, "caption": f"{folder} {i}", "duration": 1.2} for i in names]
        data = [{**row, "file_name": "x.mp3"} for row in data] if short == "fsd" else data
        whole = {"num_captions_per_audio": 1, "data": data}
        put(root / f"WavCaps/json_files/{folder}/{short}_final.json", json.dumps(whole))
        clips(*(root / f"WavCaps/{folder}_flac/{Path(i).stem}.flac" for i in names))
    put(
        root / "WavCaps/json_files/blacklist/blacklist_exclude_all_ac.json",
        json.dumps({"AudioSet": ["Ycd.wav"], "FreeSound": ["18"]}),
    )


def own_clips(root: Path) -> None:
    """Somebody's own clips with captions, as docs/guide.md has them."""
    for name, count in (("train", 4), ("held_out", 2)):
        rows = [f"clips/{name}{n}.wav,A kettle whistles {n} times" for n in range(count)]
        put(root / f"{name}.csv", "\n".join(["file,caption", *rows]) + "\n")
        clips(*(root / f"clips/{name}{n}.wav" for n in range(count)))


def librispeech(root: Path, *subsets: str) -> None:
    put(root / "SPEAKERS.TXT", "; comment\n19 | F | x | 25.0 | Kara\n26 | M | x | 25.0 | Denys\n")
    for chapter, subset in enumerate(subsets, 198):
        for speaker, text in (("19", "THE DOG BARKS"), ("26", "RAIN FALLS")):
            folder, name = root / subset / speaker / str(chapter), f"{speaker}-{chapter}"
            put(folder / f"{name}.trans.txt", f"{name}-0000 {text}\n")
            clips(folder / f"{name}-0000.flac")


def spoken(root: Path) -> None:
    """LibriSpeech, LibriMix, GigaSpeech, CoVoST 2, IEMOCAP, VoxCeleb1."""
    subsets = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean")
    librispeech(root / "LibriSpeech", *subsets)
    librispeech(root / "LibriMix/LibriSpeech", "train-clean-100", "dev-clean")
    for subset in ("train-100", "dev"):
        folder, name = root / "LibriMix/Libri2Mix/wav16k/min", "19-198-0000_26-198-0000"
        put(
            folder / f"metadata/mixture_{subset}_mix_clean.csv",
            f"mixture_ID,mixture_path,source_1_path,source_2_path,length\n{name},/x,/y,/z,9\n",
        )
        clips(folder / subset / "mix_clean" / f"{name}.wav")
    segments = [
        {
            "sid": f"P_S{n}",
            "begin_time": 0.1 * n,
            "end_time": 0.1 * n + 0.9,
            "text_tn": f"RAIN <COMMA> {name}",
            "subsets": ["{XL}", f"{{{name}}}"],
        }
        for n, name in enumerate(("M", "S", "XS", "XL"))
    ]
    whole = {"audios": [{"aid": "P", "path": "audio/podcast/P0/P.opus", "segments": segments}]}
    put(root / "GigaSpeech/GigaSpeech.json", json.dumps(whole))
    clips(root / "GigaSpeech/audio/podcast/P0/P.opus")
    tsv = "path\tsentence\ttranslation\tclient_id\nen_1.mp3\tIt rains.\t下雨了。\tab\n"
    put(root / "CoVoST2/covost_v2.en_zh-CN.train.tsv", tsv)
    clips(root / "CoVoST2/clips/en_1.mp3")
    for n in range(1, 6):
        turn, session = f"Ses0{n}F_impro01_F000", root / f"IEMOCAP_full_release/Session{n}"
        label = f"[6.2901 - 8.2357]\t{turn}\tneu\t[2.5000, 2.5000, 2.5000]\n"
        put(session / f"dialog/EmoEvaluation/Ses0{n}F_impro01.txt", label)
        clips(session / f"sentences/wav/Ses0{n}F_impro01/{turn}.wav")
    clips(*(root / f"VoxCeleb1/dev/wav/id1000{s}/v/0000{n}.wav" for s in (1, 2) for n in (1, 2)))


def music(root: Path) -> None:
    """MusicCaps, the Million Song Dataset as Kaggle has it, MusicNet."""
    rows = "ab,30,40,A slow song.,False\ncd,0,10,A fast song.,True\n"
    put(root / "MusicCaps/musiccaps-public.csv", f"ytid,start_s,end_s,caption,is_audioset_eval\n{rows}")
    clips(*(root / f"MusicCaps/audio/[{i}]-[{times}].wav" for i, times in (("ab", "30-40"), ("cd", "0-10"))))
    header = "track_id,name,artist,spotify_preview_url,spotify_id,tags,genre,year,duration_ms,tempo"
    put(root / "MillionSong/Music Info.csv", f'{header}\nTR1,S,A,http://x,4Z,"blues, slow",Blues,2004,1,90\n')
    clips(root / "MillionSong/MP3-Example/Blues/Blues-TR1.mp3")
    header = "id,composer,composition,movement,ensemble,source,transcriber,catalog_name,seconds"
    row = "1727,Schubert,Quintet,2. Andante,Piano Quintet,EA,http://,OP114,447"
    put(root / "MusicNet/musicnet_metadata.csv", f"{header}\n{row}\n")
    clips(root / "MusicNet/musicnet/train_data/1727.wav")


def audioset(root: Path) -> None:
    """AudioSet's segments and strong labels; three clips of each of six classes."""
    folder = root / "AudioSet"
    rows = [f'{n},/m/{n},"{name}"' for n, name in enumerate(CLASSES)]
    put(folder / "class_labels_indices.csv", "\n".join(["index,mid,display_name", *rows]) + "\n")
    put(folder / "mid_to_display_name.tsv", "".join(f"/m/{n}\t{name}\n" for n, name in enumerate(CLASSES)))
    strong = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel"]
    for split, takes in (("balanced_train", "a"), ("unbalanced_train", "bc")):
        names = [(n, f"v{n}{take}") for n in range(6) for take in takes]
        lines = [f'{name}, 30.000, 40.000, "/m/{n}"' for n, name in names]
        head = ["# Segments csv", "# num_ytids=6", "# YTID, start_seconds, end_seconds, positive_labels"]
        put(folder / f"{split}_segments.csv", "\n".join([*head, *lines]))
        for n, name in names:
            strong.append(f"{name}_30000\t0.0\t0.4\t/m/{n}")
            strong.append(f"{name}_30000\t0.6\t1.0\t/m/{(n + 1) % 6}")
        clips(*(folder / f"audio/{name}.wav" for _, name in names))
    put(folder / "audioset_train_strong.tsv", "\n".join(strong) + "\n")


def debian(root: Path, tier: str = "medium") -> None:
    """What ``lalm corpus build TIER --out corpus/TIER`` leaves: one to three recordings of each of nine
    labels a split, fewer than APT's script holds labels out at, and scenes of two of them or of one twice."""
    folder = root / f"corpus/{tier}"
    labels = list(OURS)
    for split, takes in {"train": 3, "valid": 2, "test_known": 1, "test_unseen": 1}.items():
        scenes = [(f"{label}-{n}", "single", [label]) for label in labels for n in range(takes)]
        scenes += [(f"pair-{n}", "sequence", [labels[n], labels[-1 - n]]) for n in range(2)]
        scenes.append(("again", "repetition", [labels[1]] * 2))
        samples = []
        for number, (name, kind, own) in enumerate(scenes):
            place = folder / f"clips/{split}-{name.replace('/', '-')}.flac"
            noise(place, 1.2, seed=number)
            times = [(0.6 * n, 0.6 * n + (1.2 if len(own) == 1 else 0.5)) for n in range(len(own))]
            events = [
                {"label": label, "caption": OURS[label], "onset_s": onset, "offset_s": offset}
                for label, (onset, offset) in zip(own, times, strict=True)
            ]
            caption = ", then ".join(OURS[label] for label in own)
            origin = {"recording": place.stem, "kind": kind, "package": "tiny", "path": name}
            if "speech/english" in own:
                origin["transcript"] = "It is raining."
            sample = ask([place], "").with_target(f"{caption.capitalize()}.")
            samples.append(
                replace(
                    sample,
                    **{"id": place.stem, "task": "caption", "references": (caption,), "split": split},
                    **{"events": tuple(events), "origin": origin},
                )
            )
        write_manifest(folder / f"{split}.jsonl", samples)
    for name in ("known", "unseen"):
        for kind in ("questions", "instructions"):
            asked = replace(samples[0], messages=ask([place], "Is it a dog?").messages, task="presence")
            write_manifest(folder / f"{kind}_{name}.jsonl", [asked])
    put(folder / "corpus.json", json.dumps({"tier": tier}))
