"""An answer of the engine: its text, what of each clip was heard, and how long it took."""

from dataclasses import dataclass
from typing import Any

from lalm.audio.load import Account


@dataclass(frozen=True)
class Heard:
    """One clip of a question: its length, how much of it reached the LLM, and how it was read."""

    name: str
    seconds_given: float
    seconds_heard: float
    account: Account | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object; seconds to the millisecond."""
        told: dict[str, Any] = {
            "name": self.name,
            "seconds_given": round(self.seconds_given, 3),
            "seconds_heard": round(self.seconds_heard, 3),
        }
        return told if self.account is None else told | {"account": self.account.to_json()}


@dataclass(frozen=True)
class Reply:
    """An answer. Times run from the start of its batch, decoding of the audio included.

    ``tokens_per_s`` counts this answer's tokens after the first over the time they took.
    """

    text: str
    heard: tuple[Heard, ...]
    first_token_s: float
    total_s: float
    tokens_per_s: float
    num_tokens: int
