"""What readers of corpora share: finding a corpus's folder, its tables, its audio files."""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from lalm.audio.load import AUDIO_SUFFIXES
from lalm.data.readers import Reading
from lalm.data.sample import AudioPart, Message, Part, Sample, ask
from lalm.errors import LalmError

FILM_SUFFIXES = (".mp4", ".mkv", ".webm")  # whose sound can be read as well
MAX_JSON_BYTES = 8 << 30  # GigaSpeech names ten million segments in one file


class SourceError(LalmError, ValueError):
    """A corpus that is not laid out as its reader expects; the text names file and place."""


@dataclass(frozen=True)
class Columns:
    """What each column of a table is (``lalm.tasks.published_tables``); roles left empty are not there.

    ``audio``: the recordings, one column or several. ``question``: what is asked in writing. ``answer``: what
    is right. ``choices``: the options, one column (a list, or lettered lines as one text) or several.
    ``transcript``: what is said, which is not shown; ``caption``: what is heard. ``keep``: further columns
    for the sample's origin, by name. ``folder``: where audio files lie beside the table. ``inside``:
    "question" where options stand as "(a) ... (b) ..." in the question. ``letters``: so many options that
    are only spoken, or are recordings. ``numbers``: answers may be numbers. ``skip``: answers of rows that
    are left out; ``only``: the values that the others have in a column, "*" for any. A role "a.b" is field b
    of column a; the category "@folder" is the file's folder. ``above``: in a JSON file whose rows stand below
    names in names, what these are, such as (voice, subset); each is a column then, and "@above" is all."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    audio: str | tuple[str, ...]
    question: str = ""
    answer: str = ""
    choices: str | tuple[str, ...] = ""
    transcript: str = ""
    caption: str = ""
    category: str = ""
    language: str = ""
    recording: str = ""
    id: str = ""
    keep: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    inside: Literal["", "question"] = ""
    letters: int = 0
    numbers: bool = False
    skip: tuple[str, ...] = ()
    only: Mapping[str, str] = field(default_factory=dict)
    above: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A corpus: a file or folder; where its audio lies if not there; the seed of what is drawn from it.

    ``made`` is the folder for audio that a reader makes itself (mixtures). A few-shot episode has so many
    ``ways`` (classes) and ``shots`` of each; ``episodes`` of 0 are one a clip, and in the share ``renamed``
    of them the classes have the names of others. ``exclude`` lists clips to leave out (WavCaps').
    ``reading`` says how a manifest or table is read. ``columns`` says what the columns of a table are.
    """

    path: Path
    audio: Path | None = None
    seed: int = 0
    made: Path = Path("made")
    ways: int = 4
    shots: int = 1
    episodes: int = 0
    renamed: float = 0.0
    exclude: Path | None = None
    reading: Reading = field(default_factory=Reading)
    columns: Columns | None = None

    @property
    def folder(self) -> Path:
        """The folder of a file, or the folder itself."""
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def _by_stem(self) -> Mapping[str, Path]:
        root = self.audio or self.folder
        files = (Path(place) / name for place, _, names in os.walk(root) for name in sorted(names))
        return {path.stem: path for path in files if path.suffix.lower() in AUDIO_SUFFIXES}

    def find(self, *stems: str) -> Path:
        """The audio file anywhere below the audio folder with the first of these names that is there; else
        a path that does not exist, which whoever builds the manifest counts as missing."""
        return next(
            (self._by_stem[stem] for stem in stems if stem in self._by_stem), self.folder / f"{stems[0]}.wav"
        )

    def clip(self, name: str, *folders: str, others: Sequence[str] = ()) -> Path:
        """The audio file ``name`` ("en_1.mp3", "P0/a.opus") of a corpus whose releases and mirrors keep audio
        in one of these ``folders`` beside the table; in the audio folder or below it, if one was given.

        The same names with another suffix (a corpus that was converted) and the ``others`` count too. Of none
        that is there the first that was looked for, which whoever builds the manifest counts as missing.
        """
        given = self.audio
        roots = [self.folder / folder for folder in folders or (".",)]
        if given is not None:
            roots = [given, *(given / folder for folder in folders if folder not in ("", "."))]
        for wanted in (*others, name):
            for root in roots:
                if (root / wanted).is_file():
                    return root / wanted
        for root in roots:
            for wanted in (*others, name):
                for suffix in (*AUDIO_SUFFIXES, *FILM_SUFFIXES):
                    if (path := (root / wanted).with_suffix(suffix)).is_file():
                        return path
        return roots[0] / name

    def moved(self, path: Path) -> Path:
        """A file that a corpus keeps beside its texts: in the same place below the audio folder if one was
        given."""
        return self.audio / path.relative_to(self.folder) if self.audio is not None else path

    def files(self, pattern: str) -> list[Path]:
        """Files below the source that match; SourceError if there is none."""
        matching = sorted(self.path.rglob(pattern)) if self.path.is_dir() else []
        found = [path for path in matching if not path.name.startswith("._")]  # left behind by a Mac
        if not found:
            raise SourceError(f"'{self.path}' has no {pattern} in it")
        return found


def table(path: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
    """(place, row) of a table with a header that names at least ``columns``; tabs mean no quoting."""
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with opened(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting)  # fields are at most 128 KiB
        try:
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise SourceError(
                    f"{path.name}:1: there is no column '{missing[0]}', which this corpus's table has: "
                    "another --layout may be meant; your own tables need no build: train, eval, respond and "
                    "ask read them"
                )
            for row in reader:
                place = f"{path.name}:{reader.line_num}"
                if any(row[name] is None for name in columns):
                    raise SourceError(f"{place}: the row has fewer fields than the header")
                yield place, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(f"{path.name}:{reader.line_num + 1}: not a table: {error}") from None


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """(place, line) of a text file; blank lines are skipped."""
    try:
        text = opened(path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(f"{path.name} is not UTF-8 text: save it as such") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{path.name}:{number}", line.strip()


def read_json(path: Path) -> Any:
    """A whole JSON file of at most 8 GiB."""
    if opened(path).stat().st_size > MAX_JSON_BYTES:
        raise SourceError(f"{path.name} is larger than {MAX_JSON_BYTES >> 30} GiB")
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path.name} is not JSON: {error}") from None


def opened(path: Path) -> Path:
    """The path itself, which must be a file."""
    if not path.is_file():
        raise SourceError(f"there is no file '{path}'")
    return path


def asking(audios: Sequence[AudioPart], question: str = "") -> tuple[Message, ...]:
    """One user turn: the audio parts as they are, then ``question``."""
    text: list[Part] = [{"type": "text", "text": question}] if question else []
    return ({"role": "user", "content": [*audios, *text]},)


def heard(
    task: str,
    name: str,
    audios: Sequence[Path],
    target: str,
    *,
    references: Sequence[str] = (),
    choices: Sequence[str] = (),
    **origin: str,
) -> Sample:
    """A sample of ``task`` without instruction; its id is ``task-name``, its recording ``name``."""
    asked = ask(audios, "").with_target(target)
    return Sample(
        asked.messages,
        id=f"{task}-{name}",
        task=task,
        references=tuple(references) or (target,),
        choices=tuple(choices),
        origin={"recording": name, **{key: value for key, value in origin.items() if value}},
    )
