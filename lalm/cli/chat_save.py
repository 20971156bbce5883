"""``/save`` in ``lalm chat``: the conversation as a manifest, which ``lalm train`` and ``lalm eval`` read."""

from pathlib import Path

import numpy as np
import soundfile

from lalm.audio.load import SAMPLE_RATE
from lalm.data.messages import Message, Part
from lalm.data.sample import Sample, write_manifest
from lalm.inference.conversation import Conversation


def save(conversation: Conversation, path: Path) -> None:
    """Write the turns to a new ``.jsonl`` file.

    Recordings are named by their paths; what came from no file (voices, standard input) is written as WAV
    beside it. Raises ValueError for another kind of file, one that is there, and an empty chat.
    """
    if path.suffix != ".jsonl":
        raise ValueError(f"/save writes a manifest: call it '{path.with_suffix('.jsonl')}'")
    if path.exists():
        raise ValueError(f"'{path}' is there already: save to another file")
    messages = conversation.as_given()
    if not any(message["role"] == "user" for message in messages):
        raise ValueError("there is nothing to save yet")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    for message in messages:
        if isinstance(message["content"], str):
            continue
        parts: list[Part] = []
        for part in message["content"]:
            if part["type"] == "audio" and isinstance(part["audio"], np.ndarray):
                written += 1
                voice = path.with_name(f"{path.stem}-{written}.wav")
                soundfile.write(voice, part["audio"], SAMPLE_RATE, subtype="FLOAT")
                parts.append({"type": "audio", "audio": voice})
            else:
                parts.append(part)
        message["content"] = parts
    write_manifest(path, [Sample(tuple[Message, ...](messages))])
