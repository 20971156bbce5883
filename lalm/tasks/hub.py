"""Reads dataset folders of the Hugging Face Hub: parquet files, or Arrow files of ``save_to_disk``.

Columns are found by name, AudioBench's ("context" is audio; "instruction", "answer" are texts, in older
releases {"text", "audio"}; "choices" a list or, in its listening tests, one text of lettered lines, which
then follows the question) and those of others; the first of a list that is there counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lalm.data.sample import Sample, ask
from lalm.tasks.sources import Source, SourceError

AUDIO = ("context", "audio", "speech", "wav")
QUESTION = ("instruction", "question", "Question", "prompt")
ANSWER = (
    "answer",
    "answers",
    "caption",
    "captions",
    "reference",
    "text",
    "sentence",
    "transcription",
    "label",
)
CHOICES = ("choices", "options", "candidates", "multi_choice")
TRANSCRIPT = ("transcript", "transcription", "speech_instruction")
ROWS_AT_ONCE = 64


def hub(source: Source) -> Iterator[Sample]:
    """Every row of the folder's parquet or Arrow files, in order, audio as bytes inside or as a path."""
    files = sorted(p for p in source.folder.rglob("*") if p.suffix in (".parquet", ".arrow"))
    if source.path.is_file():
        files = [source.path]
    if not files:
        raise SourceError(f"'{source.path}' has no parquet or Arrow file in it")
    number = 0
    for path in files:
        for row in _rows(path):
            yield _sample(row, number, f"{path.name}:{number}", source)
            number += 1


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise SourceError("a Hub dataset folder needs pyarrow: pip install 'lalm[evaluate]'") from None
    try:
        if path.suffix == ".parquet":
            for batch in parquet.ParquetFile(path).iter_batches(ROWS_AT_ONCE):
                yield from batch.to_pylist()
            return
        with pyarrow.memory_map(str(path)) as file:
            for batch in pyarrow.ipc.open_stream(file):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise SourceError(f"{path.name} cannot be read: {error}") from None


def _sample(row: Mapping[str, Any], number: int, place: str, source: Source) -> Sample:
    audio = _audio(_first(row, AUDIO, place, "audio"), source, place)
    answers = _texts(_first(row, ANSWER, place, "answer"))
    if not answers:
        raise SourceError(f"{place}: the answer is empty")
    question = _texts(row.get(next((n for n in QUESTION if n in row), ""), ""))
    options = row.get(next((n for n in CHOICES if n in row), ""), [])
    if isinstance(options, str) and options.strip() and question:
        question, options = [f"{question[0]}\n{options.strip()}"], []
    choices = _texts(options)
    if choices and answers[0] not in choices and answers[0].isdigit() and int(answers[0]) < len(choices):
        answers = [choices[int(answers[0])]]
    origin = {
        "recording": str(row.get("recording") or row.get("audio_id") or row.get("file_name") or number),
        "transcript": next((t for n in TRANSCRIPT if n in row for t in _texts(row[n])), ""),
        "category": str(row.get("category") or row.get("task") or _other(row, "task")),
    }
    return Sample(
        ask([audio], question[0] if question else "").messages,
        id=str(row.get("id") or number),
        references=tuple(answers),
        choices=tuple(choices),
        origin={key: value for key, value in origin.items() if value},
    )


def _other(row: Mapping[str, Any], name: str) -> str:
    """A value of AudioBench's column "other_attributes"."""
    others = row.get("other_attributes")
    return str(others.get(name) or "") if isinstance(others, dict) else ""


def _first(row: Mapping[str, Any], names: Sequence[str], place: str, what: str) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise SourceError(f"{place}: no column holds the {what}; looked for {', '.join(names)}")


def _audio(value: Any, source: Source, place: str) -> Any:
    """Bytes, a path, or samples with their rate, which become a WAV."""
    if isinstance(value, dict) and isinstance(value.get("audio"), dict):
        value = value["audio"]
    if isinstance(value, dict):
        if value.get("bytes"):
            return value["bytes"]
        value = value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value:
        return str((source.audio or source.folder) / value)
    raise SourceError(f"{place}: the audio is neither bytes nor a path")


def _texts(value: Any) -> list[str]:
    """Texts of a column: a string, a list of them, or {"text": ...}."""
    if isinstance(value, dict):
        value = value.get("text", "")
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [str(value).strip()] if value is not None and str(value).strip() else []
