"""One sample: a conversation with audio in it, and what is known about it; one manifest line each.

Messages are plain dicts in the content-part form of the Hugging Face and OpenAI chat formats, so the
chat template, the JSONL manifest and the server share one shape. A manifest line::

    {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "dog.ogg"},
                                               {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A dog."}], "task": "aqa"}
"""

import base64
import copy
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

import numpy as np
import soundfile

from lalm.audio import SAMPLE_RATE, AudioSource, load_audio


class SampleError(ValueError):
    """A manifest line or message that is not a sample; the text is one sentence naming the place."""


class TextPart(TypedDict):
    type: Literal["text"]
    text: str


class AudioPart(TypedDict):
    """One audio in a message; ``rate`` (Hz) belongs to arrays, the other two (s) select a part of it."""

    type: Literal["audio"]
    audio: AudioSource
    rate: NotRequired[int]
    offset_s: NotRequired[float]
    duration_s: NotRequired[float]


class ImagePart(TypedDict):
    type: Literal["image"]
    image: Any


class VideoPart(TypedDict):
    type: Literal["video"]
    video: Any


Part: TypeAlias = TextPart | AudioPart | ImagePart | VideoPart


class Message(TypedDict):
    role: Literal["system", "user", "assistant"]
    content: str | list[Part]


class Event(TypedDict):
    """One sound inside a clip, with its place in seconds from the start of the clip."""

    label: str
    caption: str
    onset_s: float
    offset_s: float


@dataclass(frozen=True)
class Sample:
    """A conversation and what is known about it. Treat it as immutable: the methods return new ones.

    ``references`` are accepted answers, ``choices`` the options of a multiple-choice question,
    ``chosen`` and ``rejected`` a preference pair, ``events`` the sounds of the (first) clip, ``origin``
    where the audio came from (package, path, licence, attribution). ``truncated`` marks a target that a
    token limit cut off: its end must not be taught.
    """

    messages: tuple[Message, ...]
    id: str = ""
    task: str = ""
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    chosen: str = ""
    rejected: str = ""
    split: str = ""
    events: tuple[Event, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False

    def __post_init__(self) -> None:
        # Own copies of every container, so that no caller can change a sample afterwards.
        object.__setattr__(self, "messages", tuple(_copied(message) for message in self.messages))
        object.__setattr__(self, "references", tuple(self.references))
        object.__setattr__(self, "choices", tuple(self.choices))
        object.__setattr__(self, "events", tuple(copy.copy(event) for event in self.events))
        object.__setattr__(self, "origin", dict(self.origin))

    @property
    def audios(self) -> list[AudioPart]:
        """Audio parts of all messages, in reading order."""
        return [
            part
            for message in self.messages
            if not isinstance(message["content"], str)
            for part in message["content"]
            if part["type"] == "audio"
        ]

    @property
    def target(self) -> str:
        """Text of the final assistant message; empty if the conversation does not end with one."""
        last = self.messages[-1] if self.messages else None
        return message_text(last) if last is not None and last["role"] == "assistant" else ""

    def prompt(self) -> "Sample":
        """The same sample without its final assistant message."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            return replace(self, messages=self.messages[:-1], truncated=False)
        return self

    def with_target(self, text: str) -> "Sample":
        """The same sample with ``text`` as its final assistant message (not marked truncated)."""
        prompt = self.prompt()
        return replace(prompt, messages=(*prompt.messages, {"role": "assistant", "content": text}))

    def to_json(self, folder: Path | None = None) -> dict[str, Any]:
        """A JSON object with empty fields left out; audio paths as given, or relative to ``folder``.

        With ``folder``, a path outside it becomes absolute. Bytes become a data URL; arrays cannot be
        written and raise :class:`SampleError`.
        """
        written: dict[str, Any] = {
            "messages": [_message_to_json(message, folder) for message in self.messages]
        }
        for name in (item.name for item in fields(self) if item.name != "messages"):
            value = getattr(self, name)
            if value:
                written[name] = list(value) if isinstance(value, tuple) else value
        return copy.deepcopy(written)

    @classmethod
    def from_json(cls, obj: object, *, place: str, folder: Path | None = None) -> "Sample":
        """Check and build one sample; ``place`` opens every error, relative paths resolve to ``folder``."""
        try:
            return _sample_from_json(obj, folder)
        except SampleError as error:
            raise SampleError(f"{place}: {error}") from None

    @classmethod
    def from_openai(cls, messages: object, *, images: bool = False) -> "Sample":
        """Build a sample from OpenAI chat messages: ``input_audio`` (base64) and data-URL ``audio_url``
        parts become audio; ``image_url`` parts become images if ``images``, else they are refused."""
        if not isinstance(messages, list) or not messages:
            raise SampleError("messages must be a list with at least one message")
        return cls(tuple(_message_from_openai(m, f"message {n}", images) for n, m in enumerate(messages, 1)))

    def to_openai(self) -> list[dict[str, Any]]:
        """OpenAI chat messages; every audio is decoded and sent as 16-bit 16 kHz mono WAV in base64."""
        return [_message_to_openai(message) for message in self.messages]


def ask(audios: Sequence[AudioSource], question: str, *, system: str = "") -> Sample:
    """One user turn: the audios in order, then ``question`` (no text part if empty)."""
    content: list[Part] = [{"type": "audio", "audio": audio} for audio in audios]
    if question:
        content.append({"type": "text", "text": question})
    user: Message = {"role": "user", "content": content}
    return Sample(({"role": "system", "content": system}, user) if system else (user,))


def message_text(message: Message) -> str:
    """The text of one message: its string, or its text parts joined by line breaks."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def read_manifest(path: str | Path) -> Iterator[Sample]:
    """Samples of a JSONL manifest; blank lines are skipped, errors read ``train.jsonl:42: <what>``."""
    path = Path(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise SampleError(f"the manifest {path} cannot be opened: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, 1):
            place = f"{path.name}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                obj = json.loads(text) if text else None
            except UnicodeDecodeError:
                raise SampleError(f"{place}: the line is not UTF-8 text") from None
            except json.JSONDecodeError as error:
                raise SampleError(f"{place}: not JSON: {error.msg} at column {error.colno}") from None
            if text:
                yield Sample.from_json(obj, place=place, folder=path.parent)


def write_manifest(path: str | Path, samples: Iterable[Sample]) -> int:
    """Write samples as JSONL, all or nothing, with paths relative to the manifest; returns their number."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for sample in samples:
                file.write(json.dumps(sample.to_json(path.parent), ensure_ascii=False) + "\n")
                count += 1
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


# --- checking JSON: each function takes a value and where it is, and returns it typed or raises ---

_TEXT_FIELDS = ("id", "task", "chosen", "rejected", "split")
_LIST_FIELDS = ("references", "choices")
_PART_KEYS = {
    "text": ("type", "text"),
    "audio": ("type", "audio", "offset_s", "duration_s"),
    "image": ("type", "image"),
    "video": ("type", "video"),
}


def _sample_from_json(obj: object, folder: Path | None) -> Sample:
    line = _object(obj, "a sample", [item.name for item in fields(Sample)], ["messages"])
    known: dict[str, Any] = {}
    for name, value in line.items():
        if name == "messages":
            entries = _list(value, "messages")
            if not entries:
                raise SampleError("messages is empty")
            known[name] = tuple(
                _message_from_json(m, f"message {n}", folder) for n, m in enumerate(entries, 1)
            )
        elif name in _TEXT_FIELDS:
            known[name] = _text(value, name)
        elif name in _LIST_FIELDS:
            known[name] = tuple(_text(v, f"{name}[{n}]") for n, v in enumerate(_list(value, name)))
        elif name == "events":
            known[name] = tuple(_event(v, f"events[{n}]") for n, v in enumerate(_list(value, name)))
        elif name == "origin":
            known[name] = {k: _text(v, f"origin.{k}") for k, v in _object(value, name).items()}
        elif not isinstance(value, bool):
            raise SampleError(f"{name} must be true or false, not {_kind(value)}")
        else:
            known[name] = value
    return Sample(**known)


def _message_from_json(obj: object, where: str, folder: Path | None) -> Message:
    message = _object(obj, where, ["role", "content"], ["role", "content"])
    role, content = message["role"], message["content"]
    if role not in ("system", "user", "assistant"):
        raise SampleError(f"{where} has the role {role!r}; roles are system, user and assistant")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list):
        raise SampleError(f"{where} content must be a string or a list of parts, not {_kind(content)}")
    parts = [_part_from_json(part, f"{where} part {n}", folder) for n, part in enumerate(content, 1)]
    for part in parts:
        if part["type"] != "text" and role != "user":
            raise SampleError(f"{where} has a part of type {part['type']}, which only user messages may have")
    return {"role": role, "content": parts}


def _part_from_json(obj: object, where: str, folder: Path | None) -> Part:
    kind = _object(obj, where).get("type")
    if not isinstance(kind, str) or kind not in _PART_KEYS:
        raise SampleError(f"{where} has the type {kind!r}; types are {', '.join(_PART_KEYS)}")
    part: Any = dict(_object(obj, where, _PART_KEYS[kind], ["type", kind]))
    part[kind] = _text(part[kind], f"{where} {kind}")
    if kind != "text":
        if not part[kind]:
            raise SampleError(f"{where} {kind} is empty")
        part[kind] = _resolved(part[kind], folder)
    for name in ("offset_s", "duration_s"):
        if name in part:
            part[name] = _seconds(part[name], f"{where} {name}")
    return part


def _event(obj: object, where: str) -> Event:
    keys = list(Event.__annotations__)
    event = _object(obj, where, keys, keys)
    onset_s, offset_s = (_seconds(event[name], f"{where}.{name}") for name in ("onset_s", "offset_s"))
    if offset_s < onset_s:
        raise SampleError(f"{where} ends at {offset_s} s, before its onset at {onset_s} s")
    label, caption = (_text(event[name], f"{where}.{name}") for name in ("label", "caption"))
    return {"label": label, "caption": caption, "onset_s": onset_s, "offset_s": offset_s}


def _object(
    value: object, where: str, keys: Sequence[str] | None = None, required: Sequence[str] = ()
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SampleError(f"{where} must be a JSON object, not {_kind(value)}")
    for key in value:
        if keys is not None and key not in keys:
            raise SampleError(f"{where} has the unknown key {key!r}; keys are {', '.join(keys)}")
    for key in required:
        if key not in value:
            raise SampleError(f"{where} has no {key}")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise SampleError(f"{where} must be a list, not {_kind(value)}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise SampleError(f"{where} must be a string, not {_kind(value)}")
    return value


def _seconds(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SampleError(f"{where} must be a number of seconds, not {_kind(value)}")
    if not 0 <= value < math.inf:
        raise SampleError(f"{where} must be a number of seconds from 0 up, not {value}")
    return float(value)


def _kind(value: object) -> str:
    """What a JSON reader would call ``value``."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names: dict[type, str] = {str: "a string", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object")


# --- paths and OpenAI's chat format ---


def _is_url(source: str) -> bool:
    return source[:5].lower() == "data:" or re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def _resolved(source: str, folder: Path | None) -> str:
    return source if folder is None or _is_url(source) else str(folder / source)


def _copied(message: Message) -> Message:
    content = message["content"]
    return {
        "role": message["role"],
        "content": content if isinstance(content, str) else [*map(copy.copy, content)],
    }


def _message_to_json(message: Message, folder: Path | None) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return {**message}
    parts: list[dict[str, Any]] = []
    for part in message["content"]:
        written: dict[str, Any] = {**part}
        if part["type"] != "text":
            written[part["type"]] = _source_to_json(written[part["type"]], folder)
        parts.append(written)
    return {"role": message["role"], "content": parts}


def _source_to_json(source: object, folder: Path | None) -> str:
    if isinstance(source, bytes):
        return f"data:application/octet-stream;base64,{base64.b64encode(source).decode()}"
    if not isinstance(source, str | Path):
        raise SampleError(
            f"a sample with a {type(source).__name__} cannot be written as JSON: save it to a file"
        )
    if folder is None or (isinstance(source, str) and _is_url(source)):
        return str(source)
    absolute, base = Path(os.path.abspath(source)), Path(os.path.abspath(folder))  # noqa: PTH100 (keeps links)
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else str(absolute)


def _message_from_openai(obj: object, where: str, images: bool) -> Message:
    message = _object(obj, where, ["role", "content", "name"], ["role", "content"])
    role = "system" if message["role"] == "developer" else message["role"]
    content = message["content"]
    if isinstance(content, list):
        content = [_part_from_openai(part, f"{where} part {n}", images) for n, part in enumerate(content, 1)]
    # Bytes and images are checked above; the rest obeys the same rules as a manifest line.
    plain = [p for p in content if p["type"] == "text"] if isinstance(content, list) else content
    checked = _message_from_json({"role": role, "content": plain}, where, None)
    if isinstance(content, list) and len(content) > len(plain) and role != "user":
        raise SampleError(f"{where} has audio or an image, which only user messages may have")
    return {"role": checked["role"], "content": content}


def _part_from_openai(obj: object, where: str, images: bool) -> Part:
    part = _object(obj, where)
    kind = part.get("type")
    if kind == "text":
        _object(part, where, ["type", "text"], ["text"])
        return {"type": "text", "text": _text(part["text"], f"{where} text")}
    if kind == "input_audio":
        audio = _object(part.get(kind), f"{where} input_audio", ["data", "format"], ["data"])
        data = _text(audio["data"], f"{where} input_audio.data")
        try:
            return {"type": "audio", "audio": base64.b64decode("".join(data.split()), validate=True)}
        except ValueError:
            raise SampleError(f"{where} input_audio.data is not valid base64") from None
    if kind == "image_url" and not images:
        raise SampleError(f"{where} is an image, and this model takes audio and text only")
    if kind in ("audio_url", "image_url"):
        url = _text(_object(part.get(kind), f"{where} {kind}").get("url"), f"{where} {kind}.url")
        if url[:5].lower() != "data:":
            raise SampleError(f"{where} {kind}.url must be a data: URL, since addresses are not fetched")
        return {"type": "audio", "audio": url} if kind == "audio_url" else {"type": "image", "image": url}
    raise SampleError(f"{where} has the type {kind!r}; types are text, input_audio, audio_url and image_url")


def _message_to_openai(message: Message) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return {**message}
    parts: list[dict[str, Any]] = []
    for part in message["content"]:
        if part["type"] == "text":
            parts.append({**part})
        elif part["type"] == "audio":
            audio = load_audio(
                part["audio"],
                rate=part.get("rate"),
                offset_s=part.get("offset_s", 0.0),
                duration_s=part.get("duration_s"),
            )
            file = io.BytesIO()
            soundfile.write(file, np.clip(audio, -1, 1), SAMPLE_RATE, format="WAV", subtype="PCM_16")
            data = base64.b64encode(file.getvalue()).decode()
            parts.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
        else:
            raise SampleError(
                f"a message with a part of type {part['type']} cannot be sent as OpenAI messages"
            )
    return {"role": message["role"], "content": parts}
