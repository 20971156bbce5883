"""Turns a folder of ``lalm corpus build`` into one manifest per task, for training and for testing.

    OUT/{train,valid}/TASK.jsonl                 trained tasks: asr, asr_scenes, caption, tags, language,
                                                 gender, audio_qa (all kinds of questions where asked for)
    OUT/{test_known,test_unseen}/TASK.jsonl      the same, and tasks that nothing trains: untrained_qa
                                                 (counting, order, choice of four), instructions (one word,
                                                 ten words, a given language, bare yes or no), story

Questions keep the task names that ``lalm.evaluate`` scores by: presence, speech, what, which_of_two.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lalm.corpus.catalogue import SPLITS, Row, classes
from lalm.corpus.clips import Clip
from lalm.corpus.questions import questions
from lalm.corpus.scenes import Recording
from lalm.data.labels import join_labels
from lalm.data.readers import read_manifest
from lalm.data.sample import Sample, write_manifest
from lalm.tasks.instructions import instruct
from lalm.tasks.sources import asking

TRAINED_QUESTIONS = ("presence", "speech", "what", "which_of_two")
QUESTION_GROUP = 300  # recordings that are asked about together: ``questions`` makes at most 300 a task

Make = Callable[[Sample], Sample | None]


def build(
    folder: Path, out: Path, *, seed: int = 0, languages: Sequence[str] = (), every_question: bool = False
) -> dict[str, int]:
    """Write the manifests; returns how many samples each holds, by its path below ``out``.

    ``languages`` ("english") are those of the asr manifests; all when empty. Training and validation samples
    draw their prompts with ``seed``; tests have the task's first prompt. With ``every_question`` counting,
    order and choices are among the questions to learn from, too.
    """
    if not (folder / "corpus.json").is_file():
        raise ValueError(f"'{folder}' is not a folder of 'lalm corpus build': it has no corpus.json")
    spoken = [name.lower() for name in languages]
    known = [label.partition("/")[2] for label in classes() if label.startswith("speech/")]
    for name in spoken:
        if name not in known:
            raise ValueError(f"no recording speaks '{name}'; the languages are {', '.join(known)}")
    counts = {}
    for split in SPLITS:
        test = split.startswith("test_")
        samples = list(read_manifest(folder / f"{split}.jsonl"))
        makers: dict[str, Make] = {
            "asr": lambda s: _transcript(s, spoken) if s.origin["kind"] in ("single", "take") else None,
            "asr_scenes": lambda s: (
                _transcript(s, spoken) if s.origin["kind"] in ("sequence", "bed") else None
            ),
            "caption": lambda s: replace(s, id=f"caption-{s.id}"),
            "tags": _tags,
            "language": _language,
            "gender": _gender,
        }
        if test:
            makers["story"] = _story
        for name, make in makers.items():
            made = (item for sample in samples if (item := make(sample)) is not None)
            path = out / split / f"{name}.jsonl"
            counts[f"{split}/{name}"] = write_manifest(path, instruct(made, seed=None if test else seed))
        asked: dict[str, Iterable[Sample]] = {"audio_qa": _questions(samples, split, seed, every_question)}
        for name, items in (_held_out(folder, split) if test else asked).items():
            counts[f"{split}/{name}"] = write_manifest(out / split / f"{name}.jsonl", items)
    return counts


def _bare(sample: Sample, task: str, target: str, references: Sequence[str] = ()) -> Sample:
    """The sample's audio alone, with another task and target (none if empty)."""
    bare = replace(
        sample,
        messages=asking(sample.audios),
        id=f"{task}-{sample.id}",
        task=task,
        references=tuple(references) or ((target,) if target else ()),
        origin={**sample.origin, "caption": next(iter(sample.references), "")},
    )
    return bare.with_target(target) if target else bare


def _speech(sample: Sample) -> str:
    """The language of the only speech in the recording; empty without speech, or with several."""
    spoken = [e["label"].partition("/")[2] for e in sample.events if e["label"].startswith("speech/")]
    return spoken[0] if len(spoken) == 1 else ""


def _transcript(sample: Sample, languages: Sequence[str]) -> Sample | None:
    text = " ".join(sample.origin.get("transcript", "").split())
    language = _speech(sample)
    if not text or not language or (languages and language not in languages):
        return None
    return _bare(sample, "asr", text)


def _tags(sample: Sample) -> Sample | None:
    names = list(dict.fromkeys(classes()[event["label"]].name for event in sample.events))
    return _bare(sample, "tags", join_labels(names), names)


def _language(sample: Sample) -> Sample | None:
    if not (language := _speech(sample)):
        return None
    known = sorted(label.partition("/")[2].title() for label in classes() if label.startswith("speech/"))
    made = _bare(sample, "language", f"{language.title()}.", [language.title()])
    return replace(made, choices=tuple(known))


def _gender(sample: Sample) -> Sample | None:
    if not _speech(sample):
        return None
    (caption,) = (e["caption"] for e in sample.events if e["label"].startswith("speech/"))
    found = re.match(r"an? (man|woman) ", caption)
    if found is None:
        return None
    made = _bare(sample, "gender", f"A {found[1]}.", [found[1]])
    return replace(made, choices=("man", "woman"))


def _story(sample: Sample) -> Sample | None:
    return _bare(sample, "story", "") if sample.origin["kind"] != "repetition" else None


def _questions(samples: Sequence[Sample], split: str, seed: int, every: bool) -> Iterator[Sample]:
    """Questions about the content with their answers as targets, in groups of recordings."""
    rng = np.random.default_rng([seed, *split.encode()])
    order = [_recording(samples[i]) for i in rng.permutation(len(samples))]
    for start in range(0, len(order), QUESTION_GROUP):
        for item in questions(order[start : start + QUESTION_GROUP], rng):
            if every or item.task in TRAINED_QUESTIONS:
                yield replace(item.with_target(_answer(item)), split=split)


def _answer(item: Sample) -> str:
    """A short sentence for a question's first reference."""
    text = classes()[item.events[0]["label"]].name if item.task == "what" else item.references[0]
    return f"{text[0].upper()}{text[1:]}."


def _held_out(folder: Path, split: str) -> dict[str, Iterable[Sample]]:
    """The corpus' own questions and instructions about a test split, the trained tasks' apart."""
    name = split.removeprefix("test_")
    asked = list(read_manifest(folder / f"questions_{name}.jsonl"))
    return {
        "audio_qa": [s for s in asked if s.task in TRAINED_QUESTIONS],
        "untrained_qa": [s for s in asked if s.task not in TRAINED_QUESTIONS],
        "instructions": list(read_manifest(folder / f"instructions_{name}.jsonl")),
    }


def _recording(sample: Sample) -> Recording:
    """A manifest line as the recording it was made from, as far as questions need it."""
    clips = tuple(
        Clip(Row(sample.id, e["caption"], e["label"], e["caption"], "", "", "", ""), sample.split, "", 0, 1)
        for e in sample.events
    )
    return Recording(
        sample.id,
        str(sample.audios[0]["audio"]),
        sample.references[0],
        sample.origin["kind"].replace("take", "single"),
        clips,
        sample.events,
    )
