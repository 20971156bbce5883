"""Reads speech corpora as transcription, translation, emotion, gender and speaker samples."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from lalm.audio.load import AUDIO_SUFFIXES
from lalm.data.readers import read_manifest
from lalm.data.sample import Sample
from lalm.tasks.sources import (
    Source,
    SourceError,
    asking,
    heard,
    lines,
    table,
)

GENDERS = {"F": "woman", "M": "man"}
# IEMOCAP's four usual classes; "excited" counts as happy, other labels are left out.
EMOTIONS = {"neu": "neutral", "hap": "happy", "exc": "happy", "ang": "angry", "sad": "sad"}


def librispeech(source: Source) -> Iterator[Sample]:
    """LibriSpeech: ``speaker/chapter/speaker-chapter.trans.txt``, lines ``ID WORDS``, beside ``ID.flac``."""
    for path in source.files("*.trans.txt"):
        for place, line in lines(path):
            name, _, words = line.partition(" ")
            if not words.strip() or name.count("-") != 2:
                raise SourceError(f"{place}: not 'ID WORDS'")
            text = words.strip().lower()
            yield heard(
                "asr",
                name,
                [source.moved(path.with_name(f"{name}.flac"))],
                text,
                transcript=text,
                speaker=name.split("-")[0],
                language="english",
            )


def transcripts(source: Source) -> Iterator[Sample]:
    """A manifest of ours: the transcript is ``origin.transcript``, or else the assistant's text."""
    for sample in read_manifest(source.path, source.reading):
        text = sample.origin.get("transcript") or sample.target
        if not text or not sample.audios:
            raise SourceError(f"{source.path.name}: {sample.id or 'a sample'} has no transcript or no audio")
        origin = {"recording": sample.id, **sample.origin, "transcript": text}
        bare = replace(sample, messages=asking(sample.audios), references=(text,))
        yield replace(bare, id=f"asr-{sample.id}", task="asr", origin=origin).with_target(text)


def librispeech_gender(source: Source) -> Iterator[Sample]:
    """LibriSpeech, or one of its subsets, with ``SPEAKERS.TXT`` in it or in the folder above: lines
    ``14 | F | ...``, comments after ``;``."""
    genders = {}
    above = source.folder.parent / "SPEAKERS.TXT"
    for path in [above] if above.is_file() else source.files("SPEAKERS.TXT"):
        for place, line in lines(path):
            if line.startswith(";"):
                continue
            fields = [field.strip() for field in line.split("|")]
            if len(fields) < 3 or fields[1] not in GENDERS:
                raise SourceError(f"{place}: not 'ID | F or M | ...'")
            genders[fields[0]] = GENDERS[fields[1]]
    for sample in librispeech(source):
        gender = genders.get(sample.origin["speaker"])
        if gender is None:
            raise SourceError(f"SPEAKERS.TXT has no speaker {sample.origin['speaker']}")
        yield _about(sample, "gender", f"A {gender}.", (gender,), ("man", "woman"))


def _about(
    sample: Sample, task: str, target: str, references: tuple[str, ...], choices: tuple[str, ...] = ()
) -> Sample:
    """Another task about the same clip."""
    name = f"{task}-{sample.id.removeprefix('asr-')}"
    asked = replace(sample, id=name, task=task, references=references, choices=choices)
    return asked.with_target(target)


def covost(source: Source) -> Iterator[Sample]:
    """CoVoST 2: ``covost_v2.en_zh-CN.train.tsv`` (path, sentence, translation), as ``get_covost_splits.py``
    writes it; Common Voice 4's ``clips/`` beside, or ``en/clips/``."""
    found = re.search(r"\.([A-Za-z-]+)_([a-z]+)", source.path.name)
    if found is None:
        raise SourceError(
            f"{source.path.name} does not name its languages, as covost_v2.en_zh-CN.train.tsv does"
        )
    spoken = found[1].split("_")[0]
    for place, row in table(source.path, ["path", "sentence", "translation"], "\t"):
        if not row["translation"].strip():
            raise SourceError(f"{place}: the translation is empty")
        yield heard(
            f"translate_{found[2]}",
            Path(row["path"]).stem,
            [source.clip(row["path"], "clips", f"{spoken}/clips", f"../{spoken}/clips")],
            row["translation"].strip(),
            transcript=row["sentence"].strip(),
            speaker=row.get("client_id") or "",
        )


def iemocap(source: Source) -> Iterator[Sample]:
    """IEMOCAP: ``SessionN/dialog/EmoEvaluation/*.txt`` label ``SessionN/sentences/wav/DIALOG/ID.wav``.

    ``split`` is the session ("session5" is the paper's test set). Only the four usual emotions are kept.
    """
    for path in source.files("EmoEvaluation/*.txt"):
        session = path.parents[2]
        for _, line in lines(path):
            found = re.fullmatch(r"\[[\d. -]+\]\t(\w+)\t(\w{3})\t\[.*\]", line)
            if found is None or found[2] not in EMOTIONS:
                continue
            name, emotion = found[1], EMOTIONS[found[2]]
            audio = source.moved(session / "sentences" / "wav" / name.rpartition("_")[0] / f"{name}.wav")
            choices = tuple(dict.fromkeys(EMOTIONS.values()))
            made = heard(
                "emotion", name, [audio], f"{emotion.capitalize()}.", references=(emotion,), choices=choices
            )
            yield replace(made, split=session.name.lower())


def voxceleb(source: Source) -> Iterator[Sample]:
    """VoxCeleb trials (``veri_test.txt``, ``veri_test2.txt``, ``list_test_all2.txt``): lines
    ``1 id10270/5r0dWxy17C8/00001.wav id10270/.../00002.wav``, 1 for one speaker; audio in ``wav/`` beside, as
    vox1_dev_wav.zip and vox1_test_wav.zip unpack, together or apart."""
    folders = ("wav", "test/wav", "dev/wav", "vox1_test_wav/wav", "vox1_dev_wav/wav", ".")
    for number, (place, line) in enumerate(lines(source.path), 1):
        fields = line.split()
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise SourceError(f"{place}: not '1 FILE FILE' or '0 FILE FILE'")
        first, second = (source.clip(field, *folders) for field in fields[1:])
        yield _pair(f"{source.path.stem}-{number}", first, second, fields[0] == "1")


def speakers(source: Source) -> Iterator[Sample]:
    """Pairs drawn from a folder with a folder a speaker, as VoxCeleb's ``wav/``: half of one speaker."""
    clips = {
        folder.name: sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
        for folder in sorted(source.folder.iterdir())
        if folder.is_dir()
    }
    clips = {name: own for name, own in clips.items() if len(own) > 1}
    if len(clips) < 2:
        raise SourceError(f"'{source.path}' needs two folders of speakers with two clips each")
    rng, names = np.random.default_rng(source.seed), list(clips)
    for name, own in clips.items():
        order = [own[i] for i in rng.permutation(len(own))]
        others = [other for other in names if other != name]
        for at in range(0, len(order) - 1, 2):
            first, second = order[at], order[at + 1]
            stranger = clips[others[rng.integers(len(others))]]
            yield _pair(f"{name}-{at}-same", first, second, True)
            yield _pair(f"{name}-{at}-other", first, stranger[rng.integers(len(stranger))], False)


def _pair(name: str, first: Path, second: Path, same: bool) -> Sample:
    answer = "yes" if same else "no"
    return heard("speaker", name, [first, second], f"{answer.capitalize()}.", references=(answer,))
