"""Reads tables whose columns have named roles: dataset folders of the Hub, JSON, JSON lines and CSV.

A task file says which column is the recording, the question, the answer and so on (``Columns``); nothing is
guessed from names: VoiceBench's "prompt" is what is spoken, AudioBench's "instruction" what is asked.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lalm.data.sample import Sample, ask
from lalm.tasks.sources import Columns, Source, SourceError, lines, read_json, table

ROWS_AT_ONCE = 64
LETTERS = "ABCDEFGHIJ"
ROLES = ("audio", "question", "answer", "choices", "transcript", "caption", "category", "language", "id")
_LETTERED = re.compile(r"\(([a-jA-J])\)\s*(.+?)(?=\s*\([a-jA-J]\)|\s*$)", re.S)
_LETTER = re.compile(r"\s*\(?([a-jA-J])[).:]?\s*(.*)", re.S)

Row = Mapping[str, Any]


def columns(source: Source) -> Iterator[Sample]:
    """Every row of the file, or of the folder's parquet or Arrow files, in order; audio as bytes or a path.

    Raises SourceError where a column is not there, and where the answers of a task are bare numbers."""
    roles = source.columns
    if roles is None:
        path, names = next(((path, list(row)) for path, row in _first_rows(source)), (source.path, []))
        raise SourceError(
            f"{path.name} has the columns {', '.join(names) or '(none)'}: say in the task file which of them "
            "is what, such as columns: {audio: audio, question: question, answer: answer}"
        )
    number = 0
    for path in _files(source.path):
        for row in rows_of(path, roles.above):
            row = {**row, "@folder": _task_folder(path, source.folder)}
            if _is_asked(row, roles):
                yield _sample(row, roles, number, f"{path.name}:{number}", source)
            number += 1


def _is_asked(row: Row, roles: Columns) -> bool:
    """Whether a row is one of those that the roles are about."""
    for column, wanted in roles.only.items():
        found = _texts(_value(row, column))
        if not found or (wanted != "*" and wanted not in found):
            return False
    return not roles.skip or not set(_texts(_value(row, roles.answer)) or [""]) <= set(roles.skip)


def _task_folder(path: Path, root: Path) -> str:
    """The folder of a task below ``root``: Keyword_Spotting of MUGEN/Keyword_Spotting/data/test.parquet."""
    return path.relative_to(root).parts[0] if path.parent != root else root.name


def _value(row: Row, column: str) -> Any:
    """A column's value, or a field's of it: "other_attributes.task"."""
    if column in row or "." not in column:
        return row.get(column)
    first, _, rest = column.partition(".")
    inner = row.get(first)
    return _value(inner, rest) if isinstance(inner, dict) else None


def _first_rows(source: Source) -> Iterator[tuple[Path, Row]]:
    for path in _files(source.path):
        for row in rows_of(path):
            yield path, row
            break


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix in (".parquet", ".arrow"))
    if not found:
        raise SourceError(f"'{path}' has no parquet or Arrow file in it")
    return found


def rows_of(path: Path, above: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of one table; numbers of a ClassLabel column become its names. ``above``: what the names are
    below which the rows of a JSON object stand, as ``Columns`` has it."""
    if path.suffix in (".csv", ".tsv"):
        yield from (row for _, row in table(path, [], "\t" if path.suffix == ".tsv" else ","))
    elif path.suffix == ".jsonl":
        for place, line in lines(path):
            yield _object(_loaded(line, place), place)
    elif path.suffix == ".json":
        rows = list(_below(read_json(path), above, path.name)) if above else read_json(path)
        if isinstance(rows, dict) and all(isinstance(row, dict) for row in rows.values()):
            rows = [{"key": key, **row} for key, row in rows.items()]
        if not isinstance(rows, list):
            raise SourceError(f"{path.name} is not a list of objects")
        yield from (_object(row, f"{path.name}:{number}") for number, row in enumerate(rows))
    else:
        yield from _table_rows(path)


def _below(value: Any, above: Sequence[str], place: str, names: tuple[str, ...] = ()) -> Iterator[Row]:
    """The objects so many names deep in an object, with the names on the way and all of these as "@above"."""
    if len(names) == len(above):
        yield {"@above": "/".join(names), **dict(zip(above, names, strict=True)), **_object(value, place)}
        return
    for name, inner in _object(value, place).items():
        yield from _below(inner, above, f"{place}: {name}", (*names, name))


def _loaded(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise SourceError(f"{place}: not JSON") from None


def _object(row: Any, place: str) -> Row:
    if not isinstance(row, dict):
        raise SourceError(f"{place}: not an object")
    return row


def _table_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise SourceError("a Hub dataset folder needs pyarrow: pip install 'lalm[evaluate]'") from None
    try:
        if path.suffix == ".parquet":
            file = parquet.ParquetFile(path)
            names = _class_names(file.schema_arrow)
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield from (_named(row, names) for row in batch.to_pylist())
            return
        with pyarrow.memory_map(str(path)) as memory:
            stream = pyarrow.ipc.open_stream(memory)
            names = _class_names(stream.schema)
            for batch in stream:
                yield from (_named(row, names) for row in batch.to_pylist())
    except pyarrow.ArrowException as error:
        raise SourceError(f"{path.name} cannot be read: {error}") from None


def _class_names(schema: Any) -> dict[str, Sequence[str]]:
    """The names behind the numbers of ClassLabel columns, from what ``datasets`` writes beside a schema."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = told["info"]["features"]
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _named(row: dict[str, Any], names: Mapping[str, Sequence[str]]) -> Row:
    for column, labels in names.items():
        number = _value(row, column)
        if isinstance(number, int) and 0 <= number < len(labels):
            row[column] = labels[number]
    return row


def _sample(row: Row, roles: Columns, number: int, place: str, source: Source) -> Sample:
    _check(row, roles, place)
    question = "\n".join(_texts(_value(row, roles.question)))
    shown = _options(row, roles, question)
    if isinstance(shown, str):  # lettered lines as one text: part of what is asked
        question = f"{question}\n{shown}".strip()
    options = [] if isinstance(shown, str) else shown
    answers = _answers(row, roles, options, place)
    origin = {name: _kept(_value(row, column)) for name, column in roles.keep.items()}
    for role in ("transcript", "caption", "category", "language"):
        column: str = getattr(roles, role)
        origin[role] = " ".join(_texts(_value(row, column))) if column else ""
    recording = _texts(_value(row, roles.recording)) if roles.recording else []
    name = (_texts(_value(row, roles.id)) if roles.id else []) or [str(number)]
    origin["recording"] = (recording or name)[0]
    return Sample(
        ask(_audios(row, roles, source, place), question).messages,
        id=name[0],
        references=tuple(answers),
        choices=tuple(options),
        origin={key: value for key, value in origin.items() if value},
    )


def _check(row: Row, roles: Columns, place: str) -> None:
    """Raises SourceError for a column that is not there."""
    roled = {field.name: getattr(roles, field.name) for field in fields(roles) if field.name in ROLES}
    for role, column in roled.items():
        if isinstance(column, str) and column and column.partition(".")[0] not in row:
            there = ", ".join(name for name in row if name[0] != "@")
            raise SourceError(f"{place}: there is no column '{column}' (for {role}); there are {there}")


def _kept(value: Any) -> str:
    """A value for the sample's origin: texts as they are, all else as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return (
        str(value) if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False, default=str)
    )


def _options(row: Row, roles: Columns, question: str) -> list[str] | str:
    """The options of a row: a list, several columns, those in the question, or bare letters."""
    if roles.inside == "question":
        return [text.strip() for _, text in _LETTERED.findall(question)]
    if roles.letters:
        return list(LETTERS[: roles.letters])
    if not roles.choices:
        return []
    if not isinstance(roles.choices, str):
        return [text for column in roles.choices for text in _texts(_value(row, column))]
    value = _value(row, roles.choices)
    if isinstance(value, str):
        listed = _listed(value)
        return value.strip() if listed is None else listed
    return _texts(value)


def _listed(text: str) -> list[str] | None:
    """The texts of a list written as JSON or as Python writes it; None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    import ast

    try:
        value = ast.literal_eval(text.strip()) if len(text) < 100_000 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return _texts(value) if isinstance(value, list) else None


def _answers(row: Row, roles: Columns, options: Sequence[str], place: str) -> list[str]:
    """The right answers; a letter or a number of one of the options is that option."""
    if not roles.answer:
        return []
    value = _value(row, roles.answer)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if options and isinstance(value, int) and 0 <= value < len(options):
            return [options[value]]
        if not roles.numbers:
            raise SourceError(
                f"{place}: the answer column '{roles.answer}' holds the number {value}, which may stand for "
                "a class: name another column, or say numbers: true where numbers are what is to be said"
            )
    if isinstance(value, str) and value in options:  # MMAU has options that look like lists
        return [value]
    texts = (_listed(value) if isinstance(value, str) else None) or _texts(value)
    return [_option_of(text, options, place) for text in texts] if options and texts else texts


def _option_of(answer: str, options: Sequence[str], place: str) -> str:
    if answer in options:
        return answer
    bare = {option.strip().casefold(): option for option in options}
    letter = _LETTER.fullmatch(answer)
    rest = letter[2].strip() if letter else ""
    if answer.strip().casefold() in bare:
        return bare[answer.strip().casefold()]
    if letter and rest.casefold() in bare:
        return bare[rest.casefold()]
    if letter and not rest and LETTERS.index(letter[1].upper()) < len(options):
        return options[LETTERS.index(letter[1].upper())]
    raise SourceError(f"{place}: the answer '{answer}' is not among the options {', '.join(options)}")


def _audios(row: Row, roles: Columns, source: Source, place: str) -> list[Any]:
    """The recordings of a row, in the order of their columns; empty columns are left out."""
    named = [roles.audio] if isinstance(roles.audio, str) else roles.audio
    found = [part for column in named for part in _each(_value(row, column))]
    if not found:
        raise SourceError(f"{place}: no recording in {', '.join(named)}")
    return [_audio(part, roles, source, place) for part in found]


def _each(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [own for part in value for own in _each(part)] if isinstance(value, list) else [value]


def _audio(value: Any, roles: Columns, source: Source, place: str) -> Any:
    """Bytes, or the path of a file."""
    if isinstance(value, dict) and isinstance(value.get("audio"), dict):
        value = value["audio"]
    if isinstance(value, dict):
        if value.get("bytes"):
            return value["bytes"]
        value = value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value:
        folders = [*([roles.folder] if roles.folder else []), "."]
        return str(source.clip(value, *folders, others=[Path(value).name]))
    raise SourceError(f"{place}: the audio is neither bytes nor a path")


def _texts(value: Any) -> list[str]:
    """Texts of a value: a string, a number, a list of them, or {"text": ...}."""
    if isinstance(value, dict):
        value = value.get("text", "")
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return [str(value).strip()] if value is not None and str(value).strip() else []
