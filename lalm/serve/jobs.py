"""What the server asks of the model and what comes back, piece by piece."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from lalm.data.audio_inputs import Clip
from lalm.data.sample import Sample
from lalm.errors import LalmError
from lalm.inference.engine import Options
from lalm.models.prefill import Memory
from lalm.serve.structured_output import Shape


@dataclass(frozen=True)
class Score:
    """A token that was said, its log probability, and the likeliest tokens at its place with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """Text that is certain now; ``scores`` of the tokens since the last piece, if they were asked for."""

    text: str
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True)
class End:
    """The answer is over: why, and its cost in tokens; ``cached_tokens`` of the prompt were read before."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    audio_tokens: int
    new_tokens: int
    cached_tokens: int


Event: TypeAlias = Piece | End | Exception


class Busy(LalmError, ValueError):
    """The queue is full, or the server is going down."""


class TooSlow(LalmError, ValueError):
    """The answer did not come in time."""


class Unfinished(LalmError, RuntimeError):
    """The server went down before the answer was there."""


@dataclass(eq=False)
class Job:
    """One answer to write. ``notify`` is called from the scheduler's thread: pieces, then an End or an error.

    ``top_logprobs`` None asks for no scores. ``memory`` is what was read of this conversation before,
    ``shape`` the JSON that the answer must be.
    Setting ``cancelled`` ends the job before its next token, without a further event.
    """

    sample: Sample
    clips: list[Clip]
    options: Options
    notify: Callable[[Event], None]
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    memory: Memory | None = None
    shape: Shape | None = None
    timeout_s: float = 300.0
    cancelled: bool = False
    began: float = field(default_factory=time.monotonic)

    @property
    def late(self) -> bool:
        """Whether its time is up."""
        return time.monotonic() - self.began > self.timeout_s
