"""Reads the published SALMONN annotation files.

    {"annotation": [{"path": "a.wav", "text": "...", "task": "asr"},
                    {"path": "a.wav", "text": "No", "task": "speaker_verification", "expand_wav": ["b.wav"]},
                    {"path": "a.wav", "text": "...", "task": "QA", "Q": "What is heard?"}]}

``task`` is "asr" where absent. The authors' loader joins ``expand_wav`` to the first file with 0.1 s of
silence between; here they are further clips of the same sample. ``Q`` is ignored, as there, by tasks whose
prompts have no place for it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lalm.data.sample import Sample, ask
from lalm.systems.salmonn.prompts import QUESTION, prompts
from lalm.tasks.sources import Source, SourceError, read_json

MAX_TEXT = 100_000  # characters of one entry's text or question
MAX_CLIPS = 16
# Their task names (training and test prompts) -> ours.
TASKS: Mapping[str, str] = {
    "asr": "asr",
    "asr_zh": "asr",
    "asr_de": "asr",
    "translation_ec": "translate_zh",
    "translation_en2de": "translate_de",
    "translation_en2ja": "translate_ja",
    "audiocaption": "caption",
    "audiocaption_v2": "caption",
    "QA": "audio_qa",
    "inference_QA": "audio_qa",
    "gender_QA": "audio_qa",
    "gender_recognition": "gender",
    "phone_recognition": "phones",
    "speech_separation": "overlap",
    "speaker_diarization_asr": "overlap",
    "emotion_recognition": "emotion",
    "music_description": "music_caption",
    "speaker_verification": "speaker",
    "audio_story_telling": "story",
    "speech_query": "spoken_question",
    "slot_filling": "slots",
    "keywords": "keywords",
    "speech_audio_coreasoning": "coreason",
    "speech_audio_query": "coreason",
    "lyrics_recognition": "lyrics",
    "audio_speech_description": "speech_and_sounds",
    "fluent_speech_audio": "speech_and_sounds",
}
LANGUAGES = {"asr_zh": "zh", "asr_de": "de"}  # of transcripts, for their error rates


def annotation(source: Source) -> Iterator[Sample]:
    """Samples of an annotation file without instruction; errors read ``train.json:42: <what>``, from 0.

    Paths are relative to ``source.audio``, else to the file's folder. Their own names of the tasks stay in
    ``origin``.
    """
    whole = read_json(source.path)
    name = source.path.name
    if not isinstance(whole, dict) or not isinstance(whole.get("annotation"), list):
        raise SourceError(f"{name} has no list 'annotation'")
    root = source.audio or source.folder
    for index, entry in enumerate(whole["annotation"]):
        try:
            yield _sample(entry, f"{source.path.stem}-{index}", root)
        except SourceError as error:
            raise SourceError(f"{name}:{index}: {error}") from None


def _sample(entry: Any, name: str, root: Path) -> Sample:
    if not isinstance(entry, dict):
        raise SourceError("the entry is not an object")
    unknown = sorted(set(entry) - {"path", "text", "task", "Q", "expand_wav"})
    if unknown:
        raise SourceError(f"unknown key '{unknown[0]}'")
    path, text = _text(entry, "path"), _text(entry, "text")
    theirs, question = _text(entry, "task", "asr"), _text(entry, "Q", "")
    if theirs not in TASKS:
        raise SourceError(f"unknown task '{theirs}'")
    more = entry.get("expand_wav", [])
    if not isinstance(more, list) or len(more) >= MAX_CLIPS or not all(isinstance(p, str) for p in more):
        raise SourceError(f"expand_wav must be a list of fewer than {MAX_CLIPS} paths")
    takes_question = QUESTION in prompts()[TASKS[theirs]][0]
    if takes_question and not question:
        raise SourceError(f"task '{theirs}' needs a question in Q")
    asked = ask([root / p for p in (path, *more)], question if takes_question else "").with_target(text)
    origin = {"recording": path, "annotated_task": theirs}
    if theirs in LANGUAGES:
        origin["language"] = LANGUAGES[theirs]
    return Sample(asked.messages, id=name, task=TASKS[theirs], references=(text,), origin=origin)


def _text(entry: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = entry.get(key, default)
    if value is None:
        raise SourceError(f"{key} is missing")
    if not isinstance(value, str) or len(value) > MAX_TEXT or (default is None and not value):
        raise SourceError(f"{key} must be a text of 1 to {MAX_TEXT} characters")
    return value
