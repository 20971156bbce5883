"""The scheduler's job and its events: pieces of text, the end of the answer, errors."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from lalm.data.audio_inputs import Clip
from lalm.data.sample import Sample
from lalm.errors import LalmError
from lalm.inference.options import FinishReason, Options
from lalm.models.prefill import PrefixCache
from lalm.serve.prompts import Prompt
from lalm.serve.structured_output import Grammar


@dataclass(frozen=True)
class TokenLogprob:
    """A generated token, its log probability, and the likeliest tokens at its position with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """Text that no later token can change; ``scores`` of the tokens since the last piece, if requested."""

    text: str
    scores: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class End:
    """Why the answer ended, and its token counts; ``cached_tokens`` came from the prefix cache."""

    reason: FinishReason
    prompt_tokens: int
    audio_tokens: int
    new_tokens: int
    cached_tokens: int


Event: TypeAlias = Piece | End | Exception


class Busy(LalmError, ValueError):
    """The queue is full, or the server is shutting down."""


class AnswerTimeout(LalmError, ValueError):
    """The answer was not complete within its time limit."""


class ServerStopped(LalmError, RuntimeError):
    """The server shut down before the answer was complete."""


@dataclass(eq=False)
class Job:
    """One answer to generate. The scheduler calls ``notify`` with pieces, then with an End or an error.

    ``top_logprobs`` None asks for no scores. ``prefix_cache`` is that of the conversation; ``grammar``
    restricts the answer to JSON of a schema. ``prompt`` is the sample as tensors; without it the scheduler
    makes them.
    Setting ``cancelled`` ends the job before its next token, without a further event.
    """

    sample: Sample
    clips: list[Clip]
    options: Options
    notify: Callable[[Event], None]
    top_logprobs: int | None = None
    prefix_cache: PrefixCache | None = None
    grammar: Grammar | None = None
    prompt: Prompt | None = None
    timeout_s: float = 300.0
    cancelled: bool = False
    submitted_at: float = field(default_factory=time.monotonic)

    @property
    def timed_out(self) -> bool:
        """Whether its time limit has passed."""
        return time.monotonic() - self.submitted_at > self.timeout_s
