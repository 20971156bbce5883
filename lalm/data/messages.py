"""Messages of a conversation: their parts and checks, and their JSON in manifests and in OpenAI's format.

Messages are plain dicts in the content-part form of the Hugging Face and OpenAI chat formats. The check
functions take a value and where it is (``message 2 part 1``), and return it typed or raise SampleError.
"""

import base64
import copy
import io
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

import numpy as np
import soundfile

from lalm.audio.data_url import decode_base64, decode_data_url
from lalm.audio.load import SAMPLE_RATE, AudioSource, Recording, read_recording
from lalm.errors import LalmError

CHOICES = ("channel", "track", "lenient")  # what of a recording is heard; see AudioPart
_PART_KEYS = {
    "text": ("type", "text"),
    "audio": ("type", "audio", "offset_s", "duration_s", *CHOICES, "transcript"),
    "image": ("type", "image"),
    "video": ("type", "video"),
}


class SampleError(LalmError, ValueError):
    """A manifest line or message that is not a sample; the text is one sentence naming the place."""


class TextPart(TypedDict):
    type: Literal["text"]
    text: str


class AudioPart(TypedDict):
    """One audio in a message: ``rate`` (Hz) belongs to arrays, ``offset_s`` and ``duration_s`` select a part.

    ``channel`` and ``track``, from 0, hear one channel or another track than the default; ``lenient`` hears
    what can be heard of a damaged file. ``name`` is how replies call it. ``transcript`` is what is said in it
    ("": nothing), for models that take it beside the audio.
    """

    type: Literal["audio"]
    audio: AudioSource
    rate: NotRequired[int]
    offset_s: NotRequired[float]
    duration_s: NotRequired[float]
    channel: NotRequired[int]
    track: NotRequired[int]
    lenient: NotRequired[bool]
    transcript: NotRequired[str]
    name: NotRequired[str]


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


def message_text(message: Message) -> str:
    """The text of one message: its string, or its text parts joined by line breaks."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def part_recording(part: AudioPart, max_s: float | None = None) -> Recording:
    """Decode what an audio part asks for. Raises AudioError naming the source, also one over ``max_s``."""
    recording = read_recording(
        part["audio"],
        rate=part.get("rate"),
        offset_s=part.get("offset_s", 0.0),
        duration_s=part.get("duration_s"),
        max_s=max_s,
        channel=part.get("channel"),
        track=part.get("track"),
        lenient=part.get("lenient", False),
    )
    name = part.get("name")
    return replace(recording, account=replace(recording.account, name=name)) if name else recording


def part_choice(part: AudioPart) -> str:
    """What of its recording a part chooses, as text that is the same for the same choice only."""
    chosen = {name: value for name, value in part.items() if name in CHOICES and value is not None}
    others = "".join(f"-{name}={chosen[name]}" for name in CHOICES if name in chosen)
    return f"{part.get('offset_s', 0.0)}-{part.get('duration_s')}{others}"


def message_from_json(obj: object, where: str, folder: Path | None) -> Message:
    """One manifest message; ``where`` opens every error, relative paths resolve to ``folder``."""
    message = json_object(obj, where, ["role", "content"], ["role", "content"])
    role, content = message["role"], message["content"]
    if role not in ("system", "user", "assistant"):
        raise SampleError(f"{where} has the role {role!r}; roles are system, user and assistant")
    if isinstance(content, str):
        return {"role": role, "content": json_text(content, f"{where} content")}
    if not isinstance(content, list):
        raise SampleError(f"{where} content must be a string or a list of parts, not {json_kind(content)}")
    parts = [_part_from_json(part, f"{where} part {n}", folder) for n, part in enumerate(content, 1)]
    for part in parts:
        if part["type"] != "text" and role != "user":
            raise SampleError(f"{where} has a part of type {part['type']}, which only user messages may have")
    return {"role": role, "content": parts}


def _part_from_json(obj: object, where: str, folder: Path | None) -> Part:
    kind = json_object(obj, where).get("type")
    if not isinstance(kind, str) or kind not in _PART_KEYS:
        raise SampleError(f"{where} has the type {kind!r}; types are {', '.join(_PART_KEYS)}")
    part: Any = dict(json_object(obj, where, _PART_KEYS[kind], ["type", kind]))
    part[kind] = json_text(part[kind], f"{where} {kind}")
    if kind != "text":
        if not part[kind]:
            raise SampleError(f"{where} {kind} is empty")
        part[kind] = _resolved(part[kind], folder)
    for name in ("offset_s", "duration_s"):
        if name in part:
            part[name] = json_seconds(part[name], f"{where} {name}")
    if "transcript" in part:
        json_text(part["transcript"], f"{where} transcript")
    _check_choices(part, where)
    return part


def _check_choices(given: dict[str, Any], where: str) -> None:
    for name in ("channel", "track"):
        number = given.get(name, 0)
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise SampleError(f"{where} {name} must be a whole number from 0 on, not {json.dumps(number)}")
    if not isinstance(given.get("lenient", False), bool):
        raise SampleError(f"{where} lenient must be true or false, not {json_kind(given['lenient'])}")


def json_object(
    value: object, where: str, keys: Sequence[str] | None = None, required: Sequence[str] = ()
) -> dict[str, Any]:
    """``value`` as a JSON object that has the ``required`` keys and, if given, no others than ``keys``."""
    if not isinstance(value, dict):
        raise SampleError(f"{where} must be a JSON object, not {json_kind(value)}")
    for key in value:
        if keys is not None and key not in keys:
            raise SampleError(f"{where} has the unknown key {key!r}; keys are {', '.join(keys)}")
    for key in required:
        if key not in value:
            raise SampleError(f"{where} has no {key}")
    return value


def json_list(value: object, where: str) -> list[Any]:
    """``value`` as a list."""
    if not isinstance(value, list):
        raise SampleError(f"{where} must be a list, not {json_kind(value)}")
    return value


def json_text(value: object, where: str) -> str:
    """``value`` as a string of whole characters."""
    if not isinstance(value, str):
        raise SampleError(f"{where} must be a string, not {json_kind(value)}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise SampleError(f"{where} holds half a character (a lone surrogate)")
    return value


def json_seconds(value: object, where: str) -> float:
    """``value`` as finite seconds from 0 up."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SampleError(f"{where} must be a number of seconds, not {json_kind(value)}")
    if not 0 <= value < math.inf:
        raise SampleError(f"{where} must be a number of seconds from 0 up, not {value}")
    return float(value)


def json_kind(value: object) -> str:
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


def copied(message: Message) -> Message:
    """The message with containers of its own."""
    content = message["content"]
    return {
        "role": message["role"],
        "content": content if isinstance(content, str) else [*map(copy.copy, content)],
    }


def message_to_json(message: Message, folder: Path | None) -> dict[str, Any]:
    """One manifest message; paths become relative to ``folder`` if given."""
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


def message_from_openai(obj: object, where: str, images: bool) -> Message:
    """One OpenAI chat message; ``images`` says whether image parts are welcome."""
    message = json_object(obj, where, ["role", "content", "name"], ["role", "content"])
    role = "system" if message["role"] == "developer" else message["role"]
    content = message["content"]
    if isinstance(content, list):
        content = [_part_from_openai(part, f"{where} part {n}", images) for n, part in enumerate(content, 1)]
    # Bytes and images are checked above; the rest obeys the same rules as a manifest line.
    plain = [p for p in content if p["type"] == "text"] if isinstance(content, list) else content
    checked = message_from_json({"role": role, "content": plain}, where, None)
    if isinstance(content, list) and len(content) > len(plain) and role != "user":
        raise SampleError(f"{where} has audio or an image, which only user messages may have")
    return {"role": checked["role"], "content": content}


def _part_from_openai(obj: object, where: str, images: bool) -> Part:
    part = json_object(obj, where)
    kind = part.get("type")
    if kind == "text":
        json_object(part, where, ["type", "text"], ["text"])
        return {"type": "text", "text": json_text(part["text"], f"{where} text")}
    if kind == "input_audio":
        audio = json_object(part.get(kind), f"{where} input_audio", ["data", "format", *CHOICES], ["data"])
        data = _base64_bytes(audio["data"], f"{where} input_audio.data")
        return _chosen({"type": "audio", "audio": data}, audio, f"{where} input_audio")
    if kind == "image_url" and not images:
        raise SampleError(f"{where} is an image, and this model takes audio and text only")
    if kind in ("audio_url", "image_url"):
        told = part.get(kind)
        known = ["url", *CHOICES] if kind == "audio_url" else None
        given = {"url": told} if isinstance(told, str) else json_object(told, f"{where} {kind}", known)
        url = given.get("url")
        url = json_text(url, f"{where} {kind}.url")
        if url[:5].lower() != "data:":
            raise SampleError(f"{where} {kind}.url must be a data: URL, since addresses are not fetched")
        if kind == "image_url":
            return {"type": "image", "image": url}
        return _chosen({"type": "audio", "audio": url}, given, f"{where} audio_url")
    raise SampleError(f"{where} has the type {kind!r}; types are text, input_audio, audio_url and image_url")


def _chosen(part: AudioPart, given: dict[str, Any], where: str) -> Part:
    """The part with what of its recording is to be heard; null is as good as nothing."""
    told: Any = {name: given[name] for name in CHOICES if given.get(name) is not None}
    _check_choices(told, where)
    return {**part, **told}


def _base64_bytes(value: object, where: str) -> bytes:
    """The bytes that base64 stands for, as clients write it: bare or as a data: URL."""
    text = json_text(value, where)
    if text[:8].lower().startswith(("http://", "https://")):
        raise SampleError(f"{where} is an address: send the recording in base64, or the address as audio_url")
    try:
        return decode_data_url(text) if text[:5].lower() == "data:" else decode_base64(text)
    except ValueError:
        raise SampleError(f"{where} is not valid base64") from None


def message_to_openai(message: Message) -> dict[str, Any]:
    """One OpenAI chat message, every audio as 16-bit 16 kHz mono WAV in base64."""
    if isinstance(message["content"], str):
        return {**message}
    parts: list[dict[str, Any]] = []
    for part in message["content"]:
        if part["type"] == "text":
            parts.append({**part})
        elif part["type"] == "audio":
            audio = part_recording(part).audio
            file = io.BytesIO()
            soundfile.write(file, np.clip(audio, -1, 1), SAMPLE_RATE, format="WAV", subtype="PCM_16")
            data = base64.b64encode(file.getvalue()).decode()
            parts.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
        else:
            raise SampleError(
                f"a message with a part of type {part['type']} cannot be sent as OpenAI messages"
            )
    return {"role": message["role"], "content": parts}
