"""More speech corpora as they are laid out: transcripts, emotions, slots and keywords."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lalm.sample import Sample, ask
from lalm.tasks.sources import Source, SourceError, heard, lines, opened, read_json, table

PUNCTUATION = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
NO_SPEECH = ("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>")  # whole segments of GigaSpeech that nobody speaks in
MELD_EMOTIONS = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")


def gigaspeech(source: Source) -> Iterator[Sample]:
    """GigaSpeech: ``GigaSpeech.json`` ({"audios": [{"path", "segments": [{"sid", "begin_time", "end_time",
    "text_tn", "subsets"}]}]}) beside ``audio/``; the segments of its test set, without those of no speech."""
    whole = read_json(source.path)
    audios = whole.get("audios") if isinstance(whole, dict) else None
    if not isinstance(audios, list):
        raise SourceError(f"{source.path.name} has no list 'audios'")
    for number, recording in enumerate(audios):
        for segment in recording.get("segments", ()):
            if "{TEST}" not in segment.get("subsets", ()):
                continue
            try:
                words, name = segment["text_tn"].split(), segment["sid"]
                begin_s, end_s = float(segment["begin_time"]), float(segment["end_time"])
                path = (source.audio or source.folder) / recording["path"]
            except (KeyError, TypeError, ValueError, AttributeError):
                raise SourceError(f"{source.path.name}:{number}: a segment lacks its text or times") from None
            if any(word in NO_SPEECH for word in words):
                continue
            text = " ".join(PUNCTUATION.get(word, word) for word in words).lower()
            text = re.sub(r" ([,.?!])", r"\1", text)
            made = heard("asr", name, [path], text, transcript=text, language="english")
            yield _stretch(replace(made, origin={**made.origin, "recording": path.stem}), begin_s, end_s)


def _stretch(sample: Sample, begin_s: float, end_s: float) -> Sample:
    part: Any = {**sample.audios[0], "offset_s": begin_s, "duration_s": round(end_s - begin_s, 3)}
    return replace(sample, messages=({"role": "user", "content": [part]}, *sample.messages[1:]))


def common_voice(source: Source) -> Iterator[Sample]:
    """Common Voice: ``en/test.tsv`` (client_id, path, sentence, ...), ``clips/`` beside; the language is the
    folder's name. One speaker's clips count as one recording."""
    for _, row in table(source.path, ["client_id", "path", "sentence"], "\t"):
        text = row["sentence"].strip()
        clip = (source.audio or source.folder / "clips") / row["path"]
        made = heard("asr", clip.stem, [clip], text, transcript=text, language=source.folder.name)
        yield replace(made, origin={**made.origin, "recording": row["client_id"] or clip.stem})


def fleurs(source: Source) -> Iterator[Sample]:
    """Fleurs: ``cmn_hans_cn/test.tsv`` without header (id, file, transcript as written, normalised, ...),
    audio in ``audio/test/`` beside. One sentence, which several read, counts as one recording."""
    language = {"cmn": "zh", "yue": "yue"}.get(source.folder.name.split("_")[0], source.folder.name[:2])
    for place, line in lines(source.path):
        fields = line.split("\t")
        if len(fields) < 4:
            raise SourceError(f"{place}: not 'id, file, transcript, normalised, ...' with tabs between")
        clip = (source.audio or source.folder / "audio" / source.path.stem) / fields[1]
        made = heard("asr", clip.stem, [clip], fields[2], transcript=fields[2], language=language)
        yield replace(made, origin={**made.origin, "recording": fields[0]})


def aishell2(source: Source) -> Iterator[Sample]:
    """AISHELL-2's test sets: folders with ``trans.txt`` (ID, text) and ``wav.scp`` (ID, path)."""
    paths = {}
    for place, line in lines(source.path / "wav.scp"):
        name, _, path = line.partition("\t") if "\t" in line else line.partition(" ")
        if not path:
            raise SourceError(f"{place}: not 'ID path'")
        paths[name] = source.path / path.strip()
    for place, line in lines(source.path / "trans.txt"):
        name, _, text = line.partition("\t") if "\t" in line else line.partition(" ")
        if name not in paths:
            raise SourceError(f"{place}: wav.scp has no '{name}'")
        yield heard("asr", name, [paths[name]], text.strip(), transcript=text.strip(), language="zh")


def meld(source: Source) -> Iterator[Sample]:
    """MELD: ``test_sent_emo.csv`` (Utterance, Emotion, Dialogue_ID, Utterance_ID, ...), clips
    ``dia0_utt0.mp4`` or .wav anywhere below; one dialogue counts as one recording."""
    for place, row in table(source.path, ["Utterance", "Emotion", "Dialogue_ID", "Utterance_ID"]):
        if row["Emotion"] not in MELD_EMOTIONS:
            raise SourceError(f"{place}: there is no emotion '{row['Emotion']}' in MELD")
        stem = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
        made = heard(
            "emotion",
            stem,
            [source.find(stem)],
            row["Emotion"],
            choices=MELD_EMOTIONS,
            transcript=row["Utterance"],
        )
        yield replace(made, origin={**made.origin, "recording": f"dia{row['Dialogue_ID']}"})


def slurp(source: Source) -> Iterator[Sample]:
    """SLURP: ``test.jsonl`` rows with "sentence", "tokens", "entities" ({"span", "type"}) and "recordings"
    ({"file"}): a question a slot, about the first recording that is there."""
    for place, line in lines(source.path):
        try:
            row = json.loads(line)
            tokens = [token["surface"] for token in row["tokens"]]
            slots = [(e["type"], " ".join(tokens[i] for i in e["span"])) for e in row["entities"]]
            files = [source.find(Path(r["file"]).stem) for r in row["recordings"]]
            name, sentence = str(row["slurp_id"]), str(row["sentence"])
        except (ValueError, KeyError, TypeError, IndexError):
            raise SourceError(f"{place}: not a row of SLURP") from None
        path = next((file for file in files if file.is_file()), files[0] if files else None)
        for number, (kind, value) in enumerate(slots if path else ()):
            question = f"What is the {kind.replace('_', ' ')} that the speaker names?"
            yield Sample(
                ask([str(path)], question).messages,
                id=f"slots-{name}-{number}",
                task="slots",
                references=(value,),
                origin={"recording": name, "transcript": sentence, "category": kind},
            )


def inspec(source: Source) -> Iterator[Sample]:
    """Inspec: a folder of ``ID.abstr`` and ``ID.uncontr`` (keywords between semicolons), the abstracts spoken
    in ``ID.wav`` anywhere below."""
    for path in source.files("*.uncontr"):
        keywords = [" ".join(word.split()) for word in path.read_text("utf-8", "replace").split(";")]
        spoken = " ".join(opened(path.with_suffix(".abstr")).read_text("utf-8", "replace").split())
        found = source.find(path.stem)
        yield heard(
            "keywords",
            path.stem,
            [found],
            ", ".join(keywords[:3]),
            references=[word for word in keywords if word],
            transcript=spoken,
        )


def wikiqa(source: Source) -> Iterator[Sample]:
    """WikiQA: ``WikiQA-test.tsv`` (QuestionID, Question, Sentence, Label, ...); the references of a question
    are the sentences labelled 1, and questions without any are left out. Each is
    read aloud in ``QuestionID.wav`` (the paper had a synthesiser do it)."""
    questions: dict[str, str] = {}
    right: dict[str, list[str]] = {}
    for place, row in table(source.path, ["QuestionID", "Question", "Sentence", "Label"], "\t"):
        if row["Label"] not in ("0", "1"):
            raise SourceError(f"{place}: the label must be 0 or 1")
        questions[row["QuestionID"]] = row["Question"].strip()
        if row["Label"] == "1":
            right.setdefault(row["QuestionID"], []).append(row["Sentence"].strip())
    for name, texts in right.items():
        audio = [source.find(name)]
        yield heard("spoken_question", name, audio, texts[0], references=texts, transcript=questions[name])
