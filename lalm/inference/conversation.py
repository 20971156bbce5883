"""Multi-turn conversations: the LLM reads, and hears, each turn only once.

Audio analysis and voice chat are the same (Qwen2-Audio, section 2): a turn is recordings, text, or both,
and no system prompt says which. Any system can be asked.
"""

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np

from lalm.audio.load import SAMPLE_RATE, AudioSource, Recording
from lalm.data.messages import Message, Part, part_recording
from lalm.data.sample import Sample
from lalm.inference.engine import Engine, TooLongError
from lalm.inference.options import FinishReason, Options
from lalm.models.prefill import PrefixCache


class Conversation:
    """Turns with one engine; keys and values of what was read are kept between them.

    Example: ``chat = Conversation(engine)``, then ``chat.reply(["dog.ogg"], "What is it?")`` and
    ``chat.reply(text="Are you sure?")``.
    """

    def __init__(
        self, engine: Engine, options: Options | None = None, *, system: str = "", drop_oldest: bool = False
    ) -> None:
        """``drop_oldest`` lets the oldest turns go when the model's window is full, instead of an error."""
        self.engine = engine
        self.options = options or Options()
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self.finish_reason: FinishReason | None = None  # of the last answer
        self.drop_oldest = drop_oldest
        self.dropped = 0  # turns that were let go for the last answer
        self.remarks: list[str] = []  # what a listener should know of the last turn's recordings
        self._begin = len(self.messages)  # where the turns begin
        self._given: list[list[Part]] = []  # each turn as it was given, its recordings not decoded
        self._prefix_cache = PrefixCache()

    def stream(self, audios: Sequence[AudioSource] = (), text: str = "") -> Generator[str, None, None]:
        """The answer to a turn of recordings, then text; the same as ``say``."""
        parts: list[Part] = [{"type": "audio", "audio": audio} for audio in audios]
        return self.say([*parts, {"type": "text", "text": text}])

    def say(self, parts: Sequence[Part]) -> Generator[str, None, None]:
        """The answer to a turn, in pieces as they come; turn and answer are part of the chat from then on.

        Arrays in ``parts`` are mono float32 at 16 kHz. Raises ValueError for an empty turn, and what
        ``Engine.stream`` raises; the chat is then as it was. A stream left early keeps what was said.
        """
        parts = [part for part in parts if part["type"] != "text" or part["text"].strip()]
        content = [_decoded(part) for part in parts]
        self.remarks = [remark for part in content if (remark := _remark(part))]
        if not content:
            raise ValueError("a turn needs a recording or some text")
        before = list(self.messages), list(self._given)
        self.messages.append({"role": "user", "content": content})
        self._given.append([_storable(*pair) for pair in zip(parts, content, strict=True)])
        self.dropped = 0
        self.finish_reason = None
        said: list[str] = []
        pieces = self._pieces()
        try:
            for piece in pieces:
                said.append(piece)
                yield piece
        except Exception:
            self.messages[:], self._given[:] = before
            raise
        except (GeneratorExit, KeyboardInterrupt):
            pieces.close()
            self._answered(said)
            raise
        self._answered(said)

    def _pieces(self) -> Generator[str, None, None]:
        """The answer to the last message; where it is wanted the oldest turns go until there is room."""
        cache = None if self.options.beams > 1 else self._prefix_cache
        while True:
            try:
                answer = self.engine.stream(Sample(tuple(self.messages)), self.options, cache)
                yield from answer
                self.finish_reason = answer.finish_reason
                return
            except TooLongError:
                if not self.drop_oldest or len(self._given) < 2:
                    raise
            del self.messages[self._begin : self._begin + 2], self._given[0]
            self.dropped += 1

    def undo(self) -> None:
        """Take back the last turn and its answer. Raises ValueError where there is none."""
        if not self._given:
            raise ValueError("there is no turn to take back")
        del self.messages[-2:], self._given[-1]

    def reset(self) -> None:
        """Forget all turns; the system text stays."""
        del self.messages[self._begin :], self._given[:]

    def as_given(self) -> list[Message]:
        """The messages with recordings as paths and data URLs where they were given so, else as arrays."""
        given = iter(self._given)
        return [
            {"role": "user", "content": [*next(given)]} if message["role"] == "user" else message
            for message in self.messages
        ]

    def reply(self, audios: Sequence[AudioSource] = (), text: str = "") -> str:
        """The whole answer to a turn."""
        return "".join(self.stream(audios, text))

    def _answered(self, said: Sequence[str]) -> None:
        self.messages.append({"role": "assistant", "content": "".join(said)})


def _decoded(part: Part) -> Part:
    """A part as the model gets it: its recording decoded, its text without white space at the ends."""
    if part["type"] == "audio":
        source = part["audio"]
        if isinstance(source, np.ndarray):
            return {"type": "audio", "audio": part_recording({**part, "rate": SAMPLE_RATE})}
        return {"type": "audio", "audio": part_recording(part)}
    return {"type": "text", "text": part["text"].strip()} if part["type"] == "text" else part


def _storable(given: Part, decoded: Part) -> Part:
    """The part as it was given if it can be written so, else decoded: standard input is read only once."""
    if given["type"] == "audio" and isinstance(given["audio"], str | Path) and given["audio"] != "-":
        return given
    if decoded["type"] == "audio" and isinstance(decoded["audio"], Recording):
        clip = decoded["audio"]
        return {"type": "audio", "audio": clip.audio, "rate": SAMPLE_RATE, "name": clip.account.name}
    return decoded


def _remark(part: Part) -> str:
    if part["type"] == "audio" and isinstance(part["audio"], Recording):
        return part["audio"].account.sentence
    return ""
