"""A sample: one conversation with audio, and its metadata; one manifest line each.

The conversation is in the chat format of ``lalm.data.messages``, so the chat template, the JSONL manifest
and the server share one shape. A manifest line::

    {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "dog.ogg"},
                                               {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A dog."}], "task": "aqa"}
"""

import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict

from lalm.audio.load import AudioSource, is_recording
from lalm.data.formats import native
from lalm.data.messages import (
    AudioPart,
    Message,
    Part,
    SampleError,
    copied,
    json_kind,
    json_list,
    json_object,
    json_seconds,
    json_text,
    message_from_json,
    message_from_openai,
    message_text,
    message_to_json,
    message_to_openai,
)

__all__ = [
    "AudioPart",
    "Event",
    "Message",
    "Part",
    "Sample",
    "SampleError",
    "ask",
    "message_text",
    "write_manifest",
]


BOM = b"\xef\xbb\xbf"
_TEXT_FIELDS = ("id", "task", "chosen", "rejected", "split")
_LIST_FIELDS = ("references", "choices")


class Event(TypedDict):
    """One sound inside a clip, with its place in seconds from the start of the clip."""

    label: str
    caption: str
    onset_s: float
    offset_s: float


@dataclass(frozen=True)
class Sample:
    """A conversation and what is known about it. Treat it as immutable: the methods return new ones.

    ``messages`` are the turns in chat format (``lalm.data.messages``), the last one the answer to learn, if
    there is one; ``id`` names the sample, ``task`` is a name of ``lalm tasks``, ``split`` that of its corpus.

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
        object.__setattr__(self, "messages", tuple(copied(message) for message in self.messages))
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
        written and raise SampleError.
        """
        written: dict[str, Any] = {
            "messages": [message_to_json(message, folder) for message in self.messages]
        }
        for name in (item.name for item in fields(self) if item.name != "messages"):
            value = getattr(self, name)
            if value:
                written[name] = list(value) if isinstance(value, tuple) else value
        return copy.deepcopy(written)

    @classmethod
    def from_json(cls, obj: object, *, place: str, folder: Path | None = None) -> "Sample":
        """Check and build one sample; ``place`` opens every error, relative paths resolve to ``folder``.

        Raises SampleError for a key, a type or a part that a sample does not have.
        """
        try:
            return _sample_from_json(native(obj), folder)
        except SampleError as error:
            raise SampleError(f"{place}: {error}") from None

    @classmethod
    def from_openai(cls, messages: object, *, images: bool = False) -> "Sample":
        """Build a sample from OpenAI chat messages: ``input_audio`` (base64) and data-URL ``audio_url``
        parts become audio; ``image_url`` parts become images if ``images``, else they are refused."""
        if not isinstance(messages, list) or not messages:
            raise SampleError("messages must be a list with at least one message")
        return cls(tuple(message_from_openai(m, f"message {n}", images) for n, m in enumerate(messages, 1)))

    def to_openai(self) -> list[dict[str, Any]]:
        """OpenAI chat messages; every audio is decoded and sent as 16-bit 16 kHz mono WAV in base64."""
        return [message_to_openai(message) for message in self.messages]


def ask(audios: Sequence[AudioSource], question: str | None = None, *, system: str = "") -> Sample:
    """One user turn: the audios in order, then ``question`` (no text part if empty).

    Without ``question`` texts may stand between the audios: ``ask(["a.wav", "This is a bell.", "b.wav", "This
    is a"])``. A string is then audio where ``lalm.audio.load.is_recording`` says so; a Path always is.

    An array is (N,) or (N, C) at 16 kHz, as for ``load_audio``. Nothing is opened yet: what cannot be heard
    is refused when the sample is answered.
    """
    content: list[Part] = []
    for source in audios:
        if question is None and isinstance(source, str) and not is_recording(source):
            content.append({"type": "text", "text": source})
        else:
            content.append({"type": "audio", "audio": source})
    if question:
        content.append({"type": "text", "text": question})
    user: Message = {"role": "user", "content": content}
    return Sample(({"role": "system", "content": system}, user) if system else (user,))


def write_manifest(path: str | Path, samples: Iterable[Sample]) -> int:
    """Write samples as JSONL, all or nothing, with paths relative to the manifest; returns their number.

    Raises SampleError for a sample whose audio is an array, which has no place in JSON.
    """
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


def _sample_from_json(obj: object, folder: Path | None) -> Sample:
    said = None
    if isinstance(obj, dict) and "transcript" in obj:  # of the one recording, at whose part it is kept
        said = json_text(obj["transcript"], "transcript")
        obj = {name: value for name, value in obj.items() if name != "transcript"}
    line = json_object(obj, "a sample", [item.name for item in fields(Sample)], ["messages"])
    known: dict[str, Any] = {}
    for name, value in line.items():
        if name == "messages":
            entries = json_list(value, "messages")
            if not entries:
                raise SampleError("messages is empty")
            known[name] = tuple(
                message_from_json(m, f"message {n}", folder) for n, m in enumerate(entries, 1)
            )
        elif name in _TEXT_FIELDS:
            known[name] = json_text(value, name)
        elif name in _LIST_FIELDS:
            known[name] = tuple(json_text(v, f"{name}[{n}]") for n, v in enumerate(json_list(value, name)))
        elif name == "events":
            known[name] = tuple(_event(v, f"events[{n}]") for n, v in enumerate(json_list(value, name)))
        elif name == "origin":
            known[name] = {k: json_text(v, f"origin.{k}") for k, v in json_object(value, name).items()}
        elif not isinstance(value, bool):
            raise SampleError(f"{name} must be true or false, not {json_kind(value)}")
        else:
            known[name] = value
    return Sample(**known) if said is None else _said(Sample(**known), said)


def _said(sample: Sample, transcript: str) -> Sample:
    """The sample with ``transcript`` at its one recording."""
    if len(sample.audios) != 1:
        count = len(sample.audios)
        raise SampleError(
            f"transcript belongs to one recording, and there are {count}: put it at their parts"
        )
    messages: list[Any] = []
    for message in sample.messages:
        content: Any = message["content"]
        if not isinstance(content, str):
            content = [
                {**part, "transcript": transcript} if part["type"] == "audio" else part for part in content
            ]
        messages.append({**message, "content": content})
    return replace(sample, messages=tuple(messages))


def _event(obj: object, where: str) -> Event:
    keys = list(Event.__annotations__)
    event = json_object(obj, where, keys, keys)
    onset_s, offset_s = (json_seconds(event[name], f"{where}.{name}") for name in ("onset_s", "offset_s"))
    if offset_s < onset_s:
        raise SampleError(f"{where} ends at {offset_s} s, before its onset at {onset_s} s")
    label, caption = (json_text(event[name], f"{where}.{name}") for name in ("label", "caption"))
    return {"label": label, "caption": caption, "onset_s": onset_s, "offset_s": offset_s}
