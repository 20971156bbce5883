"""Reads published question sets about audio, and VocalSound's test list."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lalm.data.sample import Message, Sample, ask
from lalm.tasks.sound_labels import VOCAL_SOUNDS
from lalm.tasks.sources import Source, SourceError, asking, heard, read_json

# AIR-Bench's abilities whose name does not tell their group; the others without one are of speech.
AIR_GROUPS = {
    "audio_grounding": "sound",
    "acoustic_scene_classification": "sound",
    "vocal_sound_classification": "sound",
}
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def _rows(path: Path) -> list[dict[str, Any]]:
    """A JSON file that is one list of objects."""
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SourceError(f"{path.name} is not a list of objects")
    return rows


def _of(row: dict[str, Any], place: str, *names: str) -> list[Any]:
    """Values of a row. Raises SourceError naming the first that is not there."""
    for name in names:
        if row.get(name) in (None, ""):
            raise SourceError(f"{place}: the row has no {name}")
    return [row[name] for name in names]


def _question(
    task: str,
    name: str,
    audio: Path,
    question: str,
    references: Sequence[str],
    choices: Sequence[str] = (),
    /,
    **origin: str,
) -> Sample:
    return Sample(
        ask([str(audio)], question.strip()).messages,
        id=f"{task}-{name}",
        task=task,
        references=tuple(references),
        choices=tuple(choices),
        origin={"recording": audio.stem, **{key: value for key, value in origin.items() if value}},
    )


def airbench_chat(source: Source) -> Iterator[Sample]:
    """AIR-Bench chat: ``Chat_meta.json``, audio in ``TASK_DATASET/FILE`` beside; ``meta_info`` says what is
    heard, for the judge."""
    for number, row in enumerate(_rows(source.path)):
        place = f"{source.path.name}:{number}"
        name, path, task, dataset, question, answer = _of(
            row, place, "uniq_id", "path", "task_name", "dataset_name", "question", "answer_gt"
        )
        audio = source.clip(str(path), f"{task}_{dataset}")
        yield _question(
            "audio_chat",
            str(name),
            audio,
            str(question),
            [str(answer)],
            caption=str(row.get("meta_info") or ""),
            **_air(str(task), str(dataset), str(path), str(question)),
        )


def airbench_foundation(source: Source) -> Iterator[Sample]:
    """AIR-Bench foundation: ``Foundation_meta.json`` with ``choice_a`` to ``choice_d``, audio as for chat
    (rows of Audio_Grounding say .wav, and the files are FLAC)."""
    for number, row in enumerate(_rows(source.path)):
        place = f"{source.path.name}:{number}"
        name, path, task, dataset, question, answer = _of(
            row, place, "uniq_id", "path", "task_name", "dataset_name", "question", "answer_gt"
        )
        options = [str(row.get(f"choice_{letter}") or "").strip() for letter in "abcd"]
        choices, right = [option for option in options if option], str(answer).strip()
        if right not in choices:
            raise SourceError(f"{place}: the answer '{answer}' is not among the choices")
        audio = source.clip(str(path), f"{task}_{dataset}")
        more = _air(str(task), str(dataset), str(path), str(question))
        yield _question("audio_choice", str(name), audio, str(question), [right], choices, **more)


def _air(task: str, dataset: str, path: str, question: str) -> dict[str, str]:
    """What AIR-Bench's tables go by: the ability, its group (speech, sound, music, mixed audio) and set."""
    name = task.lower()
    kinds = [kind for kind in ("speech", "sound", "music") if kind in name]
    group = "mixed audio" if len(kinds) > 1 else kinds[0] if kinds else AIR_GROUPS.get(name, "speech")
    return {"category": task, "group": group, "dataset": dataset, "path": path, "question": question}


def avqa(source: Source) -> Iterator[Sample]:
    """AVQA: ``val_qa.json`` rows with "video_name", "question_text", "multi_choice", "answer" (an index) and
    "question_relation"; the sound of each video anywhere below. Questions about the picture are left out."""
    return _avqa(source, seen=False)


def avqa_video(source: Source) -> Iterator[Sample]:
    """The same with the videos, anywhere below, and the questions about the picture. The sound that is heard
    is the file of it where there is one, else the video's own."""
    return _avqa(source, seen=True)


def _avqa(source: Source, *, seen: bool) -> Iterator[Sample]:
    root = source.audio or source.folder
    films = root.rglob("*") if seen else ()
    videos = {path.stem: path for path in films if path.suffix.lower() in VIDEO_SUFFIXES}
    for number, row in enumerate(_rows(source.path)):
        place = f"{source.path.name}:{number}"
        name, video, question, choices, answer = _of(
            row, place, "id", "video_name", "question_text", "multi_choice", "answer"
        )
        if row.get("question_relation") == "View" and not seen:
            continue
        if not isinstance(answer, int) or not 0 <= answer < len(choices):
            raise SourceError(f"{place}: the answer {answer!r} is no index of the choices")
        stem = Path(str(video)).stem
        audio = source.find(stem, str(video))
        film = videos.get(stem, root / f"{stem}.mp4")
        sound = film if seen and not audio.is_file() else audio
        category = str(row.get("question_type") or "")
        found = _question(
            "audio_choice", str(name), sound, str(question), [choices[answer]], choices, category=category
        )
        yield replace(found, messages=_watched(found, film)) if seen else found


def _watched(sample: Sample, film: Path) -> tuple[Message, ...]:
    """The sample's only turn with a video before its sound."""
    parts = [part for part in sample.messages[0]["content"] if not isinstance(part, str)]
    return ({"role": "user", "content": [{"type": "video", "video": str(film)}, *parts]},)


def avqa_answers(source: Source) -> Iterator[Sample]:
    """The same to learn from (``train_qa.json``): options in the question, the right one as the answer."""
    for sample in avqa(source):
        (user,) = sample.messages
        parts = [part for part in user["content"] if not isinstance(part, str)]
        said = " ".join(part["text"] for part in parts if part["type"] == "text")
        options = ", ".join(sample.choices[:-1])
        question = f"{said} Choose from: {options} or {sample.choices[-1]}."
        made = Sample(
            asking(sample.audios, question),
            id=f"audio_qa-{sample.id.removeprefix('audio_choice-')}",
            task="audio_qa",
            references=sample.references,
            choices=sample.choices,
            origin=sample.origin,
        )
        yield made.with_target(sample.references[0])


def _fields(sample: Sample) -> dict[str, Any]:
    names = ("messages", "id", "task", "references", "choices")
    return {name: getattr(sample, name) for name in names}


def vocalsound(source: Source) -> Iterator[Sample]:
    """VocalSound: ``datafiles/te.json`` ({"data": [{"wav": ".../f0003_0_cough.wav"}]}), the wavs anywhere
    below the folder above; the class is the file name's last part, the speaker its first."""
    whole = read_json(source.path)
    rows = whole.get("data") if isinstance(whole, dict) else None
    if not isinstance(rows, list):
        raise SourceError(f"{source.path.name} has no list 'data'")
    nearby = Source(source.path.parents[1], source.audio)
    for number, row in enumerate(rows):
        stem = Path(str(row.get("wav", ""))).stem if isinstance(row, dict) else ""
        kind = VOCAL_SOUNDS.get(stem.rpartition("_")[2])
        if kind is None:
            raise SourceError(f"{source.path.name}:{number}: '{stem}' does not end with a vocal sound's name")
        made = heard(
            "vocal_sound",
            stem,
            [nearby.find(stem)],
            kind,
            choices=tuple(VOCAL_SOUNDS.values()),
            category=kind,
        )
        speaker = stem.partition("_")[0]
        yield Sample(**{**_fields(made), "origin": {**made.origin, "recording": speaker}})
