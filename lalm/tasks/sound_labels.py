"""Reads corpora of labelled sounds and sound questions: ESC-50, VocalSound, AudioSet, MACS, Clotho-AQA.

Labels become the task "tags" (names with semicolons between), questions "audio_qa".
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from lalm.data.labels import join_labels
from lalm.data.sample import AudioPart, Sample
from lalm.tasks.sources import Source, SourceError, asking, heard, lines, opened, table

VOCAL_SOUNDS = {
    "laughter": "laughter",
    "sigh": "sigh",
    "cough": "cough",
    "throatclearing": "throat clearing",
    "sneeze": "sneeze",
    "sniff": "sniff",
}


def esc50(source: Source) -> Iterator[Sample]:
    """ESC-50: ``meta/esc50.csv`` (filename, fold, target, category, ...), clips in ``audio/``. ``split`` is
    the fold, as five-fold cross-validation needs it."""
    root = source.path if source.path.is_dir() else source.path.parents[1]
    rows = list(table(root / "meta" / "esc50.csv", ["filename", "fold", "category"]))
    names = tuple(sorted({_plain(row["category"]) for _, row in rows}))
    for _, row in rows:
        label = _plain(row["category"])
        path = replace(source, path=root).clip(row["filename"], "audio")
        made = heard("tags", path.stem, [path], label, choices=names)
        origin = {
            **made.origin,
            "recording": row.get("src_file") or path.stem,
        }
        yield replace(made, split=f"fold{row['fold']}", origin=origin)


def vocalsound(source: Source) -> Iterator[Sample]:
    """VocalSound: ``audio_16k/f0003_0_cough.wav``: gender and speaker, take, sound."""
    for path in source.files("*.wav"):
        found = re.fullmatch(r"([fm]\d+)_(\d+)_([a-z]+)", path.stem)
        if found is None or found[3] not in VOCAL_SOUNDS:
            raise SourceError(f"{path.name} is not named as f0003_0_cough.wav is")
        label = VOCAL_SOUNDS[found[3]]
        yield heard("tags", path.stem, [path], label, choices=tuple(VOCAL_SOUNDS.values()), speaker=found[1])


def audioset(source: Source) -> Iterator[Sample]:
    """AudioSet: ``balanced_train_segments.csv`` (YTID, start, end, "/m/1,/m/2" under a comment), and
    ``class_labels_indices.csv`` (index, mid, display_name) beside; audio named by the video."""
    names = {
        row["mid"]: row["display_name"].lower()
        for _, row in table(source.folder / "class_labels_indices.csv", ["mid", "display_name"])
    }
    for place, line in lines(source.path):
        if line.startswith("#"):
            continue
        fields = next(csv.reader([line], skipinitialspace=True))
        labels = [names.get(mid, "") for mid in fields[3].split(",")] if len(fields) == 4 else [""]
        if "" in labels:
            raise SourceError(f"{place}: not 'YTID, START, END, \"LABELS\"' with labels of the class list")
        video, start_s = fields[0], fields[1].removesuffix(".000").removesuffix(".0")
        stems = [video, f"Y{video}", f"{video}_{start_s}", f"{video}_{start_s}000"]
        yield heard("tags", video, [source.find(*stems)], join_labels(labels), references=labels)


def audioset_strong(source: Source) -> Iterator[Sample]:
    """AudioSet strong: ``audioset_train_strong.tsv`` (segment_id, start_time_seconds, end_time_seconds,
    label) and ``mid_to_display_name.tsv`` beside; ``events`` hold the times."""
    names = dict(
        line.split("\t", 1) for _, line in lines(source.folder / "mid_to_display_name.tsv") if "\t" in line
    )
    columns = ["segment_id", "start_time_seconds", "end_time_seconds", "label"]
    found: dict[str, list[tuple[float, float, str]]] = {}
    for place, row in table(source.path, columns, "\t"):
        if row["label"] not in names:
            raise SourceError(f"{place}: mid_to_display_name.tsv has no {row['label']}")
        try:
            times = float(row["start_time_seconds"]), float(row["end_time_seconds"])
        except ValueError:
            raise SourceError(f"{place}: the times are not seconds") from None
        found.setdefault(row["segment_id"], []).append((*times, names[row["label"]].strip().lower()))
    for segment, events in found.items():
        video = segment.rpartition("_")[0]
        labels = list(dict.fromkeys(label for _, _, label in sorted(events)))
        path = source.find(segment, video, f"Y{video}")
        made = heard("tags", segment, [path], join_labels(labels), references=labels)
        yield replace(
            made,
            events=tuple(
                {"label": label, "caption": label, "onset_s": onset_s, "offset_s": offset_s}
                for onset_s, offset_s, label in sorted(events)
            ),
        )


def macs(source: Source) -> Iterator[Sample]:
    """MACS: ``MACS.yaml`` (files with a filename and annotations with a sentence each), TAU's clips."""
    try:
        whole = yaml.safe_load(opened(source.path).read_text("utf-8"))
        rows = [(f["filename"], [a["sentence"] for a in f["annotations"]]) for f in whole["files"]]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        raise SourceError(
            f"{source.path.name} is not MACS: a list 'files' of filename and annotations"
        ) from None
    for filename, sentences in rows:
        stem = Path(filename).stem
        texts = [str(text).strip() for text in sentences]
        yield heard("caption", stem, [source.find(stem)], texts[0], references=texts, caption=texts[0])


def clotho_aqa(source: Source) -> Iterator[Sample]:
    """Clotho-AQA: ``clotho_aqa_train.csv`` (file_name, QuestionText, answer, confidence), three answers a
    question; the most frequent is the target, all are references."""
    answers: dict[tuple[str, str], list[str]] = {}
    for _, row in table(source.path, ["file_name", "QuestionText", "answer"]):
        key = row["file_name"], row["QuestionText"].strip()
        answers.setdefault(key, []).append(row["answer"].strip().lower())
    for number, ((filename, question), given) in enumerate(answers.items()):
        path = source.find(Path(filename).stem)
        target = Counter(given).most_common(1)[0][0]
        made = heard("audio_qa", f"{path.stem}-{number}", [path], target, references=given)
        part: AudioPart = {"type": "audio", "audio": str(path)}
        origin = {**made.origin, "recording": path.stem}
        yield replace(made, messages=asking([part], question), origin=origin).with_target(target)


def _plain(category: str) -> str:
    return category.replace("_", " ")
