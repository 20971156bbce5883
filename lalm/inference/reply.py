"""An answer of the engine: its text, why it ended, what of each clip was heard, and how long it took."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from lalm.audio.load import Account
from lalm.inference.options import FinishReason


@dataclass(frozen=True)
class Heard:
    """One clip of a question: its length, how much of it reached the LLM, and how it was read.

    ``seconds_given`` is the clip's length as it was given, ``seconds_heard`` how much of it became audio
    tokens: they are equal unless a protocol cuts. ``account`` tells what the file promised and what was
    decoded (docs/audio.md); None for a clip that came without one. ``transcript`` is the text that stood
    beside its audio tokens ("" where nobody speaks); None: there was none, the audio tokens stood alone.
    """

    name: str
    seconds_given: float
    seconds_heard: float
    account: Account | None = None
    transcript: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object; seconds to the millisecond."""
        told: dict[str, Any] = {
            "name": self.name,
            "seconds_given": round(self.seconds_given, 3),
            "seconds_heard": round(self.seconds_heard, 3),
        }
        if self.transcript is not None:
            told["transcript"] = self.transcript
        return told if self.account is None else told | {"account": self.account.to_json()}


@dataclass(frozen=True)
class Reply:
    """An answer: its ``text``, what was ``heard`` of each clip in reading order, and how long it took.

    ``first_token_s`` and ``total_s`` are seconds from the start of its batch, decoding of the audio
    included; ``num_tokens`` counts the answer's tokens. ``tokens_per_s`` counts this answer's tokens after
    the first over the time they took. ``finish_reason``: "stop" for an answer that ended by itself or at a
    stop text, "length" for one that the token limit cut off, "repetition" for one that was ended because it
    repeated itself. ``thinking_cut``: the budget for its thinking was spent, and it was made to answer.
    """

    text: str
    heard: tuple[Heard, ...]
    first_token_s: float
    total_s: float
    tokens_per_s: float
    num_tokens: int
    finish_reason: FinishReason = "stop"
    thinking_cut: bool = False


class Stream(Iterator[str]):
    """The pieces of an answer's text as they come; ``finish_reason`` is there after the last one."""

    def __init__(self, pieces: Generator[str, None, FinishReason]) -> None:
        self.finish_reason: FinishReason | None = None
        self._pieces = pieces

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as end:
            self.finish_reason = self.finish_reason or end.value
            raise

    def close(self) -> None:
        """Stop generating."""
        self._pieces.close()
