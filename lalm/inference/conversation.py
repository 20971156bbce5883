"""Multi-turn conversations: the LLM reads, and hears, each turn only once.

Audio analysis and voice chat are the same (Qwen2-Audio, section 2): a turn is recordings, text, or both,
and no system prompt says which. Any system can be asked.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from lalm.audio.load import SAMPLE_RATE, AudioSource, audio_name, load_audio
from lalm.data.messages import Message
from lalm.data.sample import Sample
from lalm.inference.engine import Engine
from lalm.inference.options import FinishReason, Options
from lalm.models.prefill import PrefixCache


class Conversation:
    """Turns with one engine; keys and values of what was read are kept between them.

    Example: ``chat = Conversation(engine)``, then ``chat.reply(["dog.ogg"], "What is it?")`` and
    ``chat.reply(text="Are you sure?")``.
    """

    def __init__(self, engine: Engine, options: Options | None = None, *, system: str = "") -> None:
        self.engine = engine
        self.options = options or Options()
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self.finish_reason: FinishReason | None = None  # of the last answer
        self._prefix_cache = PrefixCache()

    def stream(self, audios: Sequence[AudioSource] = (), text: str = "") -> Iterator[str]:
        """The answer to a turn, in pieces as they come; turn and answer are part of the chat from then on.

        Arrays in ``audios`` are mono float32 at 16 kHz. Raises ValueError for an empty turn, and what
        ``Engine.stream`` raises; the chat is then as it was. A stream left early keeps what was said.
        """
        content: list[Any] = [
            {"type": "audio", "audio": load_audio(a), "rate": SAMPLE_RATE, "name": audio_name(a)}
            for a in audios
        ]
        if text.strip():
            content.append({"type": "text", "text": text.strip()})
        if not content:
            raise ValueError("a turn needs a recording or some text")
        self.messages.append({"role": "user", "content": content})
        said: list[str] = []
        self.finish_reason = None
        answer = self.engine.stream(Sample(tuple(self.messages)), self.options, self._prefix_cache)
        try:
            for piece in answer:
                said.append(piece)
                yield piece
        except Exception:
            self.messages.pop()
            raise
        except GeneratorExit:
            answer.close()
            self._answered(said)
            raise
        self.finish_reason = answer.finish_reason
        self._answered(said)

    def reply(self, audios: Sequence[AudioSource] = (), text: str = "") -> str:
        """The whole answer to a turn."""
        return "".join(self.stream(audios, text))

    def _answered(self, said: Sequence[str]) -> None:
        self.messages.append({"role": "assistant", "content": "".join(said)})
