"""Columns of other people's tables: which one is the audio, which the answer, which the question.

A row of a table, or an object of a JSON file without ``messages``, becomes a manifest row by a map from
``ROLES`` to the table's columns. What the caller does not name is guessed from the names that are usual, and
``ColumnMap.told`` says what was guessed.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lalm.audio.load import is_named_like_recording
from lalm.data.formats import QWEN_AUDIO, TAGS
from lalm.data.readers.placing import Placing
from lalm.data.readers.samples import ReaderError

# What a sample may take from a column, and the usual names of such columns, the likeliest first.
ROLES: Mapping[str, tuple[str, ...]] = {
    "audio": (
        *(
            "audio",
            "audio_filepath",
            "audio_path",
            "audio_file",
            "audio_filename",
            "audio_file_name",
            "audios",
            "file_name",
        ),
        *("filename", "fname", "file_path", "filepath", "wav_path", "wav_file", "wav_filename", "wav"),
        *("mp3_path", "flac_path", "path", "file", "clip", "clip_path", "recording", "recording_path"),
        *("sound", "sound_path", "sound_file", "sound_name", "slice_file_name", "source", "audio_id", "url"),
        *("name", "youtube_id", "ytid", "video_id"),
    ),
    "answer": (
        *("answer", "answers", "caption", "captions", "text", "sentence", "transcription", "transcript"),
        *("transcriptions", "normalized_text", "raw_text", "description", "response", "reply", "output"),
        *("completion", "reference", "references", "translation", "category", "label", "labels", "class"),
        *("class_name", "emotion", "tag", "tags", "target", "txt", "words", "wrd", "tgt_text", "utterance"),
        *("answer_gt", "gt", "ground_truth"),
    ),
    "question": ("question", "questions", "prompt", "instruction", "query"),
    "id": ("id", "key", "utt_id", "utterance_id", "uttid", "uid", "sample_id", "segment_id", "item_id"),
    "task": ("task",),
    "split": ("split", "subset"),
    "language": ("language", "lang", "locale", "source_lang"),
    "speaker": ("speaker", "speaker_id", "spk", "client_id"),
    "system": ("system", "system_prompt"),
    "choices": ("choices", "options"),
    "offset": ("offset", "offset_s"),
    "duration": ("duration", "duration_s"),
    "end": (),
    "channel": (),
}
OPTIONS_EACH = re.compile(r"(choice|option)_?([a-z]|\d)")  # a column for each, as AIR-Bench has them
STRETCHES = (("start", "end"), ("start_time", "end_time"), ("start_s", "end_s"), ("onset", "offset"))
NEMO = "audio_filepath"  # the key that NeMo's manifests have; their question is "context"
SEEN_ROWS = 20  # are looked at to find the audio and to guess the columns


@dataclass(frozen=True)
class Reading:
    """How a source is read where it does not say so itself.

    - ``columns``: role -> column, such as ``{"audio": "path", "answer": "caption"}``; ``caption_*`` takes
      all columns of that form, a reference each.
    - ``prompts``: what is asked about recordings that come without a question: one of them for each row,
      drawn by ``seed`` and the row's number.
    - ``audio``: the folder that relative audio paths start from (else the source's own).
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    seed: int = 0
    audio: Path | None = None

    def __post_init__(self) -> None:
        for role, column in self.columns.items():
            if role not in ROLES:
                raise ReaderError(f"columns: there is no '{role}'; there are {', '.join(ROLES)}")
            if not column:
                raise ReaderError(f"columns: '{role}' names no column")
        if any(not prompt.strip() for prompt in self.prompts):
            raise ReaderError("prompt: an empty text asks nothing; leave it out")


class ColumnMap:
    """The columns of one source; ``manifest_row`` makes manifest rows of its rows.

    ``names`` are its columns, ``rows`` the first few of its rows, ``source`` its name in messages, ``folder``
    what relative paths start from (None: the audio lies in the rows themselves).
    Raises ReaderError when there is no audio column, or no such column as ``given`` names.
    """

    def __init__(
        self,
        names: Sequence[str],
        rows: Sequence[Mapping[str, Any]],
        given: Mapping[str, str],
        source: str,
        folder: Path | None,
    ) -> None:
        self._source = source
        self.columns: dict[str, list[str]] = {}
        for role, column in given.items():
            self.columns[role] = [name for name in names if fnmatchcase(name, column)]
            if not self.columns[role]:
                raise ReaderError(f"{source} has no column '{column}' for '{role}'; it has {_listed(names)}")
        guessed = self._guess(names, rows)
        if "audio" not in self.columns:
            raise ReaderError(
                f"{source}: none of its columns ({_listed(names)}) has a usual name for audio: "
                "say which is which with --columns audio=COLUMN,answer=COLUMN"
            )
        audios = [row.get(self.columns["audio"][0]) for row in rows]
        cells = [cell for audio in audios if not holds_audio(audio) for cell in _cells(audio)]
        self._placing = Placing(folder, Path(source).stem, [cell for cell in cells if isinstance(cell, str)])
        if self._placing.lost:
            raise ReaderError(
                f"{source}: none of the recordings that its first rows name is there, such as "
                f"'{self._placing.lost}' in '{folder}': say where they lie with --audio FOLDER (audio: in a "
                "recipe)"
            )
        shown = [f"{role}={'+'.join(columns)}" for role, columns in self.columns.items()]
        if self._placing.told:
            shown[list(self.columns).index("audio")] += f" ({self._placing.told})"
        if "answer" not in self.columns:
            shown.append("no answer")
        told = f"{source}: {', '.join(shown)}; --columns says otherwise" if guessed else ""
        self.told = told + self._unused(names) if told else ""

    def _guess(self, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bool:
        """Fill in the roles that nobody named; whether audio or answer is among them."""
        plain = {_plain(name): name for name in reversed(names)}
        usual = dict(ROLES)
        if NEMO in plain:
            usual["question"] = (*usual["question"], "context")
        elif "offset" not in plain and "offset_s" not in plain and "offset" not in self.columns:
            usual["duration"] = ()  # only said, not asked for: a rounded one would cut the clip
        taken = {name for columns in self.columns.values() for name in columns}
        missing = [role for role in ROLES if role not in self.columns]
        for role in missing:
            if role == "duration" and "end" in self.columns:
                continue
            found = [plain[name] for name in usual[role] if name in plain and plain[name] not in taken]
            if role == "answer":
                several = [name for name in names if fnmatchcase(_plain(name), "caption_[0-9]*")]
                told = [name for name in found if not all(_is_number(row.get(name)) for row in rows)]
                found = (told or found)[:1] or several
            if role == "choices" and not found:
                found = [name for name in names if OPTIONS_EACH.fullmatch(_plain(name))]
            if role == "audio":
                named = [name for name in names if rows and all(_is_audio(row.get(name)) for row in rows)]
                found = [n for n in found if _plain(n) != "name" or n in named]  # else people's
                found = sorted(found, key=lambda name: not any(_is_audio(row.get(name)) for row in rows))
                found = found or named  # whatever it is called, it names recordings
            if found:
                self.columns[role] = found if role in ("answer", "choices") else found[:1]
                taken |= set(self.columns[role])
        self.columns = {role: self.columns[role] for role in ROLES if role in self.columns}
        return bool({"audio", "answer"} & set(missing) & set(self.columns))

    def _unused(self, names: Sequence[str]) -> str:
        """What to say about columns that look like stretches of recordings: some are, some are not."""
        plain = {_plain(name): name for name in names}
        for start, end in STRETCHES:
            if start in plain and end in plain and not {"offset", "end"} & set(self.columns):
                asked = f"--columns offset={plain[start]},end={plain[end]}"
                return f"; {plain[start]} and {plain[end]} are not used: {asked} takes stretches"
        return ""

    def manifest_row(self, row: Mapping[str, Any], place: str) -> dict[str, Any]:
        """The row as a manifest row of ours. Raises ReaderError beginning with its place."""
        cells = {role: [row.get(name) for name in columns] for role, columns in self.columns.items()}
        audios = [cell for value in cells.pop("audio") for cell in _cells(value)]
        if not audios or any(not isinstance(cell, str) or not cell.strip() for cell in audios):
            why = "names no audio"
            if any(
                isinstance(row.get(name), dict) and "array" in row[name] for name in self.columns["audio"]
            ):
                why = "holds samples as numbers: write them to files, or as the bytes of files"
            raise ReaderError(f"{place}: '{self.columns['audio'][0]}' {why}")
        answers = [text for value in cells.pop("answer", []) for text in _texts(value, place)]
        said = {role: _text(values[0], place) for role, values in cells.items()}
        stretch = self._stretch({role: said.pop(role, "") for role in ("offset", "duration", "end")}, place)
        if channel := said.pop("channel", ""):
            if not channel.isdecimal():
                raise ReaderError(f"{place}: channel is '{channel}', not a number from 0 on")
            stretch["channel"] = int(channel)
        content: list[dict[str, Any]] = [
            {"type": "audio", "audio": self._audio(cell), **stretch} for cell in audios
        ]
        if question := QWEN_AUDIO.sub("", said.pop("question", "")):
            content = _between(content, question)
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if system := said.pop("system", ""):
            messages.insert(0, {"role": "system", "content": system})
        if "answer" in self.columns:
            messages.append({"role": "assistant", "content": answers[0] if answers else ""})
        made: dict[str, Any] = {"messages": messages}
        if len(answers) > 1:
            made["references"] = answers
        said.pop("choices", "")
        if choices := [text for value in cells.get("choices", []) for text in _texts(value, place)]:
            made["choices"] = choices[0].split("|") if len(choices) == 1 else choices
        origin = {role: said.pop(role) for role in ("language", "speaker") if said.get(role)}
        made |= {role: text for role, text in said.items() if text and role in ("id", "task", "split")}
        return {**made, **({"origin": origin} if origin else {})}

    def _audio(self, cell: str) -> str:
        return cell if cell[:5].lower() == "data:" else self._placing.path(cell)

    def _stretch(self, said: Mapping[str, str], place: str) -> dict[str, Any]:
        """offset_s and duration_s of the part that a row is about."""
        seconds: dict[str, float] = {}
        for role, text in said.items():
            if not text:
                continue
            if (value := _seconds(text)) is None:
                raise ReaderError(f"{place}: {role} is '{text}', which are no seconds")
            seconds[role] = value
        made = {"offset_s": seconds["offset"]} if seconds.get("offset") else {}
        if "end" in seconds:
            length = round(seconds["end"] - seconds.get("offset", 0.0), 6)
            if length <= 0:
                raise ReaderError(f"{place}: it ends at {seconds['end']:g} s, before it starts")
            made["duration_s"] = length
        elif "duration" in seconds:
            made["duration_s"] = seconds["duration"]
        return made


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(str(name)[:40] for name in names[:12])
    return f"{shown}, ..." if len(names) > 12 else shown


def holds_audio(value: Any) -> bool:
    """Whether a cell is the bytes of a recording, as they are or as Hugging Face keeps them."""
    held = value.get("bytes") if isinstance(value, dict) else value
    return isinstance(held, bytes)


def _is_audio(value: Any) -> bool:
    if holds_audio(value):
        return True
    cell = next(iter(_cells(value)), None)
    return isinstance(cell, str) and is_named_like_recording(cell.strip())


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().replace(".", "", 1).removeprefix("-").isdecimal()
    return isinstance(value, int | float)


def _cells(value: Any) -> list[Any]:
    """The paths in a cell: a string, a list of them, or Hugging Face's {"path": ...}."""
    if isinstance(value, list):
        return [cell for item in value for cell in _cells(item)]
    if isinstance(value, dict):
        return [value.get("path") or value.get("url") or ""]
    return [value]


def _text(value: Any, place: str) -> str:
    """A cell as text; nothing for none and for pandas' NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return " ".join(_texts(value, place))


def _texts(value: Any, place: str) -> list[str]:
    """The texts of a cell, a list's each for itself."""
    if isinstance(value, list):
        return [text for item in value for text in _texts(item, place)]
    if isinstance(value, dict):
        raise ReaderError(f"{place}: a text is wanted, and there is an object ({_listed(list(value))})")
    text = _text(value, place)
    return [text] if text else []


def _seconds(text: str) -> float | None:
    """Seconds as a number (also with a decimal comma) or as [hours:]minutes:seconds; None for other texts."""
    try:
        parts = [float(part) for part in text.replace(",", ".").split(":")]
    except ValueError:
        return None
    if len(parts) > 3 or any(not math.isfinite(part) for part in parts):
        return None
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))


def _between(audios: list[dict[str, Any]], question: str) -> list[dict[str, Any]]:
    """The recordings where their tags stand in the question; before it where there are none."""
    pieces = TAGS.split(question)
    if len(pieces) != len(audios) + 1:
        return [*audios, {"type": "text", "text": question}]
    content: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        if text := piece.strip():
            content.append({"type": "text", "text": text})
        content += audios[number : number + 1]
    return content
