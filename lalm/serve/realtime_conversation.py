"""The conversation of a realtime session: its items, their limits, and its prefix cache."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import soxr

from lalm.audio.data_url import decode_base64
from lalm.audio.load import SAMPLE_RATE
from lalm.audio.vad import Array
from lalm.data.audio_inputs import Clip
from lalm.data.messages import Message, Part, json_text, message_text
from lalm.data.sample import Sample
from lalm.models.prefill import PrefixCache
from lalm.serve.async_engine import new_id
from lalm.serve.turn_detection import RATE

MAX_ITEMS = 200
MAX_CHARACTERS = 100_000
MAX_POSITIONS = 4096  # tokens of a conversation in the prefix cache


@dataclass(eq=False)
class Item:
    """A message: parts of text (str) and of audio, (N,) float32 at 16 kHz."""

    role: Literal["user", "assistant", "system"]
    parts: list[str | Array]
    status: Literal["completed", "incomplete", "in_progress"] = "completed"
    id: str = field(default_factory=lambda: new_id("item_"))

    @classmethod
    def from_json(cls, given: Any) -> "Item":
        """Read a message in OpenAI's format. Raises ValueError for anything else."""
        if not isinstance(given, dict) or given.get("type") != "message":
            raise ValueError("item must be a message")
        role, content = given.get("role"), given.get("content")
        if role not in ("user", "assistant", "system") or not isinstance(content, list):
            raise ValueError("item needs the role user, assistant or system and a list as content")
        made = cls(role, [_part(part, role) for part in content])
        name = given.get("id")
        if name is not None:
            if not isinstance(name, str) or not 0 < len(name) <= 64:
                raise ValueError("item.id must be a string of 1 to 64 characters")
            made.id = name
        return made

    def to_json(self) -> dict[str, Any]:
        """The message in OpenAI's format, without the audio."""
        kind = "output_text" if self.role == "assistant" else "input_text"
        content = [
            {"type": kind, "text": part} if isinstance(part, str) else {"type": "input_audio"}
            for part in self.parts
        ]
        shown = {"id": self.id, "object": "realtime.item", "type": "message", "status": self.status}
        return {**shown, "role": self.role, "content": content}

    @property
    def seconds(self) -> float:
        """Length of its audio."""
        return sum(len(part) for part in self.parts if not isinstance(part, str)) / SAMPLE_RATE

    @property
    def characters(self) -> int:
        """Length of its text."""
        return sum(len(part) for part in self.parts if isinstance(part, str))


class RealtimeConversation:
    """Items in order. Beyond the limits the oldest are dropped; methods return their ids."""

    def __init__(self, limit_s: float, positions: int) -> None:
        self.limit_s = limit_s
        self.positions = min(positions, MAX_POSITIONS)
        self.items: list[Item] = []
        self.prefix_cache = PrefixCache()

    def add(self, item: Item, after: str | None = None) -> list[str]:
        """Insert ``item`` after the item with id ``after`` ("root": first; None: last). Raises ValueError."""
        if any(item.id == other.id for other in self.items):
            raise ValueError(f"there is an item '{item.id}' already")
        if item.seconds > self.limit_s or item.characters > MAX_CHARACTERS:
            raise ValueError(
                f"an item has {self.limit_s:g} s of audio and {MAX_CHARACTERS} characters at most"
            )
        place = len(self.items)
        if after is not None:
            place = 0 if after == "root" else self.items.index(self.item(after)) + 1
        self.items.insert(place, item)
        return self._drop_oldest(0)

    def item(self, id: str) -> Item:
        """The item with that id. Raises ValueError where there is none."""
        for item in self.items:
            if item.id == id:
                return item
        raise ValueError(f"there is no item '{str(id)[:64]}' in this conversation")

    def before(self, item: Item) -> str | None:
        """The id of the item before ``item``; None for the first."""
        place = self.items.index(item)
        return self.items[place - 1].id if place else None

    def trim(self, tokens: int) -> list[str]:
        """Drop the older half of the items when the conversation has more than ``positions`` tokens."""
        return self._drop_oldest(len(self.items) // 2 if tokens > self.positions else 0)

    def _drop_oldest(self, at_least: int) -> list[str]:
        dropped: list[str] = []
        while len(dropped) < at_least or self._too_long():
            dropped.append(self.items.pop(0).id)
        while dropped and self.items and self.items[0].role == "assistant":  # its question was dropped
            dropped.append(self.items.pop(0).id)
        return dropped

    def _too_long(self) -> bool:
        return (
            len(self.items) > MAX_ITEMS
            or sum(item.seconds for item in self.items) > self.limit_s
            or sum(item.characters for item in self.items) > MAX_CHARACTERS
        )

    def prompt(self, instructions: str) -> tuple[Sample, list[Clip]]:
        """The conversation as a sample, and its recordings. Raises ValueError without a user's last turn."""
        messages: list[Message] = []
        clips: list[Clip] = []
        texts = [instructions] if instructions else []
        for item in self.items:
            if item.role == "system":
                texts += [part for part in item.parts if isinstance(part, str)]
                continue
            content: list[Part] = []
            for part in item.parts:
                if isinstance(part, str):
                    content += [{"type": "text", "text": part}] if part else []
                    continue
                clips.append(Clip(f"turn {len(clips) + 1}", part))
                content.append({"type": "audio", "audio": part, "rate": SAMPLE_RATE})
            if not content:
                continue
            if messages and messages[-1]["role"] == item.role:  # roles alternate in every chat format
                said = messages[-1]["content"]
                assert isinstance(said, list)
                said += content
            else:
                messages.append({"role": item.role, "content": content})
        if not messages or messages[-1]["role"] != "user":
            raise ValueError("there is nothing to answer: the last item is not the user's")
        for message in messages:
            if message["role"] == "assistant":
                message["content"] = message_text(message)
        if texts:
            messages.insert(0, {"role": "system", "content": "\n".join(texts)})
        return Sample(tuple(messages)), clips


def _part(given: Any, role: str) -> str | Array:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind in ("input_text", "output_text", "text") and isinstance(given.get("text"), str):
        return json_text(given["text"], "text")
    if kind == "input_audio" and role == "user" and isinstance(given.get("audio"), str):
        samples = np.frombuffer(pcm(given["audio"]), "<i2").astype(np.float32) / 32768
        return np.asarray(soxr.resample(samples, RATE, SAMPLE_RATE), np.float32)
    raise ValueError("content may be input_text with text, and input_audio with audio in the user's items")


def pcm(text: object) -> bytes:
    """Decode base64 of 16-bit PCM. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("audio must be a string of base64")
    try:
        data = decode_base64(text)
    except ValueError:
        raise ValueError("audio is not valid base64") from None
    if len(data) % 2:
        raise ValueError("audio must be 16-bit PCM: it ends within a sample")
    return data
