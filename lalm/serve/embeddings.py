"""``/v1/embeddings``: recordings as vectors, the mean of what the encoder makes of each, of length 1.

``input`` is one ``data:`` URL or several; vLLM's ``messages`` with audio parts work too.
"""

import asyncio
import base64
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from lalm.serve.async_engine import AsyncEngine
from lalm.serve.chat_completions import sample_of
from lalm.serve.protocol import Checked

PATH = "/v1/embeddings"


class EmbeddingRequest(Checked):
    """A request to ``/v1/embeddings``."""

    path: ClassVar = PATH

    input: str | list[str] | None = None
    messages: list[dict[str, Any]] | None = Field(None, max_length=256)
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = "float"

    def as_messages(self) -> list[dict[str, Any]]:
        """The recordings as a conversation. Raises ValueError for text, which the encoder cannot read."""
        if (self.input is None) == (self.messages is None):
            raise ValueError("give input, or messages")
        if self.messages is not None:
            return self.messages
        inputs = [self.input] if isinstance(self.input, str) else self.input or []
        if not inputs or not all(one[:5].lower() == "data:" for one in inputs):
            raise ValueError("embeddings are made of audio: each input must be a data: URL of a recording")
        parts = [{"type": "audio_url", "audio_url": {"url": one}} for one in inputs]
        return [{"role": "user", "content": parts}]


async def embed(async_engine: AsyncEngine, asked: EmbeddingRequest) -> dict[str, Any]:
    """One vector for each recording, in reading order."""
    async_engine.check_model(asked.model)
    _, clips = await sample_of(async_engine, asked.as_messages())
    if not clips:
        raise ValueError("embeddings are made of audio, and there is no recording")
    frames = await asyncio.wrap_future(async_engine.scheduler.encode(clips))
    data = []
    for number, one in enumerate(frames):
        mean = one.float().mean(0).cpu().numpy()
        vector = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype("<f4")
        written: Any = vector.tolist()
        if asked.encoding_format == "base64":
            written = base64.b64encode(vector.tobytes()).decode()
        data.append({"object": "embedding", "index": number, "embedding": written})
    read = sum(len(one) for one in frames)
    usage = {"prompt_tokens": read, "total_tokens": read}
    told = {"object": "list", "data": data, "model": async_engine.engine.name, "usage": usage}
    return {**told, "lalm": {"heard": async_engine.audio_heard(clips)}}
