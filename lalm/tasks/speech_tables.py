"""Reads speech corpora kept as tables: Common Voice, FLEURS, AISHELL-2, GigaSpeech, SLURP, MELD."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lalm.data.sample import AudioPart, Sample
from lalm.tasks.sources import Source, SourceError, asking, heard, lines, read_json, table

MELD_EMOTIONS = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")
MELD_FOLDERS = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
SLURP_FOLDERS = ("slurp_real", "slurp_synth", "../../audio/slurp_real", "../../audio/slurp_synth", ".")
# GigaSpeech writes punctuation as tags, and marks segments without speech with the last four.
MARKS = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
GIGASPEECH_SETS = ("TEST", "DEV", "XS", "S", "M", "L", "XL")  # each training set holds those before it
NO_SPEECH = {"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"}


def common_voice(source: Source) -> Iterator[Sample]:
    """Common Voice: ``cv-corpus-15.0-2023-09-08/LANG/train.tsv`` (path, sentence, client_id, locale, ...),
    ``clips/`` beside; LANG is the language where a row has no locale."""
    for place, row in table(source.path, ["path", "sentence"], "\t"):
        if not row["sentence"].strip():
            raise SourceError(f"{place}: the sentence is empty")
        name = row["path"] if Path(row["path"]).suffix else f"{row['path']}.mp3"
        yield _said(
            Path(name).stem,
            [source.clip(name, "clips")],
            row["sentence"],
            speaker=row.get("client_id") or "",
            language=row.get("locale") or source.folder.name,
        )


def fleurs(source: Source) -> Iterator[Sample]:
    """FLEURS: ``LANG/train.tsv`` without a header (id, file, raw transcription, transcription, characters,
    samples, gender); the raw transcription counts, with its punctuation. The audio lies in ``audio/train/``
    beside, or in ``train/`` as the Hub's ``audio/train.tar.gz`` unpacks."""
    split = source.path.stem
    for place, line in lines(source.path):
        fields = line.split("\t")
        if len(fields) < 4 or not fields[1].endswith(".wav"):
            raise SourceError(f"{place}: not 'ID FILE.wav RAW TRANSCRIPTION ...', tab between them")
        gender = fields[6].lower() if len(fields) > 6 else ""
        yield _said(
            Path(fields[1]).stem,
            [source.clip(fields[1], f"audio/{split}", split, "audio")],
            fields[2],
            language=source.folder.name,
            gender=gender,
        )


def aishell2(source: Source) -> Iterator[Sample]:
    """AISHELL-2: ``wav.scp`` (ID, ``wav/SPEAKER/ID.wav``) and ``trans.txt`` (ID, words) in one folder
    (``iOS/data``, or ``AISHELL-DEV-TEST-SET/Mic/test``)."""
    paths = dict(_pair(place, line) for place, line in lines(source.folder / "wav.scp"))
    for place, line in lines(source.folder / "trans.txt"):
        name, text = _pair(place, line)
        if name not in paths:
            raise SourceError(f"{place}: wav.scp has no {name}")
        speaker = Path(paths[name]).parent.name
        yield _said(name, [source.clip(paths[name])], text, speaker=speaker, language="zh")


def gigaspeech(source: Source) -> Iterator[Sample]:
    """GigaSpeech: ``GigaSpeech.json`` names audio files and their segments (begin_time, end_time, text_tn).

    Audio is where the file's ``path`` says ("audio/podcast/P0000/POD0000000001.opus"), beside the file.
    Segments without speech are left out; punctuation tags become punctuation. ``split`` is the smallest set
    a segment is of: the M set is XS, S and M together.
    """
    whole = read_json(source.path)
    if not isinstance(whole, dict) or not isinstance(whole.get("audios"), list):
        raise SourceError(f"{source.path.name} has no list 'audios'")
    for audio in whole["audios"]:
        for segment in audio.get("segments", []):
            place = f"{source.path.name}: segment {segment.get('sid')}"
            try:
                start_s, end_s = float(segment["begin_time"]), float(segment["end_time"])
                words, path = str(segment["text_tn"]).split(), source.clip(str(audio["path"]))
                split = next((s for s in GIGASPEECH_SETS if f"{{{s}}}" in segment.get("subsets", ())), "")
            except (KeyError, TypeError, ValueError):
                raise SourceError(
                    f"{place} needs begin_time, end_time and text_tn, its audio a path"
                ) from None
            if NO_SPEECH & set(words):
                continue
            text = " ".join(MARKS.get(word, word.lower()) for word in words)
            text = re.sub(r" ([,.?!])", r"\1", text)
            part: AudioPart = {
                "type": "audio",
                "audio": str(path),
                "offset_s": start_s,
                "duration_s": round(end_s - start_s, 3),
            }
            made = _said(str(segment["sid"]), [path], text, language="en")
            origin = {**made.origin, "recording": path.stem}
            yield replace(made, messages=asking([part]), split=split, origin=origin).with_target(text)


def slurp(source: Source) -> Iterator[Sample]:
    """SLURP: ``dataset/slurp/train.jsonl`` (sentence, recordings with a file each); the audio in
    ``slurp_real/`` (or ``slurp_synth/``) beside it or, as its script fetches it, in ``audio/`` of the
    repository."""
    for place, line in lines(source.path):
        try:
            row: Any = json.loads(line)
            files, text = [str(r["file"]) for r in row["recordings"]], str(row["sentence"])
            intent = str(row.get("intent", ""))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise SourceError(f"{place}: not an object with sentence and recordings") from None
        for file in files:
            yield _said(
                Path(file).stem, [source.clip(file, *SLURP_FOLDERS)], text, language="en", intent=intent
            )


def meld(source: Source) -> Iterator[Sample]:
    """MELD: ``train_sent_emo.csv`` (Utterance, Speaker, Emotion, Dialogue_ID, Utterance_ID), clips
    ``dia0_utt0.mp4`` (or audio).

    ``MELD.Raw.tar.gz`` holds the tables and train.tar.gz, dev.tar.gz and test.tar.gz, which unpack to
    ``train_splits``, ``dev_splits_complete`` and ``output_repeated_splits_test``, in folders of their own or
    not. Some test clips are there twice: those named ``final_videos_testdia0_utt0.mp4`` fit the table.
    """
    columns = ["Utterance", "Emotion", "Dialogue_ID", "Utterance_ID"]
    split = source.path.stem.split("_")[0]
    clips = MELD_FOLDERS.get(split, f"{split}_splits")
    folders = (clips, f"{split}/{clips}", f"../{clips}", f"../{split}/{clips}", f"{split}_splits", split)
    for place, row in table(source.path, columns):
        emotion = row["Emotion"].strip().lower()
        if emotion not in MELD_EMOTIONS:
            raise SourceError(f"{place}: '{emotion}' is none of {', '.join(MELD_EMOTIONS)}")
        name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
        path = source.clip(f"{name}.mp4", *folders, others=[f"final_videos_test{name}.mp4"])
        yield heard(
            "emotion",
            name,
            [path],
            f"{emotion.capitalize()}.",
            references=(emotion,),
            choices=MELD_EMOTIONS,
            transcript=row["Utterance"].strip(),
            speaker=row.get("Speaker") or "",
        )


def _said(name: str, audios: list[Path], text: str, **origin: str) -> Sample:
    text = text.strip()
    return heard("asr", name, audios, text, transcript=text, **origin)


def _pair(place: str, line: str) -> tuple[str, str]:
    fields = line.split(maxsplit=1)
    if len(fields) != 2:
        raise SourceError(f"{place}: not 'ID TEXT'")
    return fields[0], fields[1].strip()
