"""Between the web's coroutines and the scheduler's thread: audio in, answers out as they come."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import anyio
from starlette.requests import Request

from lalm.audio.load import AudioError, AudioSource, load_audio
from lalm.data.audio_inputs import Clip
from lalm.data.sample import Sample
from lalm.errors import LalmError
from lalm.inference.engine import Engine, Options
from lalm.models.prefill import Memory
from lalm.serve.error_responses import NoSuchModel
from lalm.serve.jobs import End, Event, Job, Piece
from lalm.serve.prometheus import Metrics
from lalm.serve.scheduler import Scheduler
from lalm.serve.settings import Settings
from lalm.serve.structured_output import Shape, Shapes

T = TypeVar("T")
DECODERS = 2  # recordings decoded at a time


class Gone(LalmError):
    """The client has left; nobody waits for this answer."""


@dataclass(frozen=True)
class Wish:
    """What is wanted of an answer besides the conversation."""

    options: Options
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    memory: Memory | None = None
    shape: Shape | None = None


class Answer:
    """One answer as it comes: iterate for its pieces, then ``end`` tells why it ended and what it cost."""

    def __init__(self, job: Job, events: asyncio.Queue[Event], metrics: Metrics) -> None:
        self.job = job
        self.end: End | None = None
        self.first_text_s = 0.0
        self._events = events
        self._metrics = metrics

    async def __aiter__(self) -> AsyncIterator[Piece]:
        try:
            while True:
                event = await self._events.get()
                if isinstance(event, End):
                    self.end = event
                    return
                if isinstance(event, Exception):
                    raise event
                if not self.first_text_s:
                    self.first_text_s = time.monotonic() - self.job.began
                    self._metrics.first_token.observe(self.first_text_s)
                yield event
        finally:
            self.job.cancelled = self.end is None

    def stop(self) -> None:
        """Say no more; who iterates gets Gone."""
        self.job.cancelled = True
        self._events.put_nowait(Gone())

    async def whole(self) -> list[Piece]:
        """All pieces."""
        return [piece async for piece in self]


class Desk:
    """Takes questions for one engine under one server's limits."""

    def __init__(self, engine: Engine, scheduler: Scheduler, settings: Settings, metrics: Metrics) -> None:
        self.engine = engine
        self.scheduler = scheduler
        self.settings = settings
        self.metrics = metrics
        self.started = int(time.time())
        self._shapes = Shapes(engine)
        self._decoders: anyio.CapacityLimiter | None = None

    async def clips(self, sources: Sequence[AudioSource]) -> list[Clip]:
        """Decode recordings, never more than the allowed seconds. Raises AudioError naming which."""
        if len(sources) > self.settings.clips:
            raise AudioError(f"{len(sources)} recordings are too many: the limit is {self.settings.clips}")
        if self._decoders is None:
            self._decoders = anyio.CapacityLimiter(DECODERS)
        clips: list[Clip] = []
        for number, source in enumerate(sources, 1):
            left_s = self.settings.audio_s - sum(clip.seconds for clip in clips)
            if left_s <= 0:
                raise AudioError(f"the recordings are longer than {self.settings.audio_s:g} s together")
            clip = await anyio.to_thread.run_sync(_decoded, source, number, left_s, limiter=self._decoders)
            clips.append(clip)
        self.metrics.heard(sum(clip.seconds for clip in clips))
        return clips

    async def shape(self, schema: dict[str, Any] | None) -> Shape | None:
        """What holds an answer to ``schema``. Raises ValueError for what is no schema."""
        if schema is None:
            return None
        return await anyio.to_thread.run_sync(self._shapes.shape, schema)

    def ask(self, sample: Sample, clips: list[Clip], wishes: Sequence[Wish]) -> list[Answer]:
        """Queue one answer a wish, all or none. Raises Busy."""
        loop = asyncio.get_running_loop()
        answers = []
        for wish in wishes:
            events: asyncio.Queue[Event] = asyncio.Queue()

            def notify(event: Event, events: asyncio.Queue[Event] = events) -> None:
                loop.call_soon_threadsafe(events.put_nowait, event)

            options = replace(wish.options, max_new_tokens=self._longest(wish.options))
            job = Job(sample, clips, options, notify, wish.stop, wish.top_logprobs, wish.memory, wish.shape)
            job.timeout_s = self.settings.answer_s
            answers.append(Answer(job, events, self.metrics))
        self.scheduler.submit(*[answer.job for answer in answers])
        return answers

    def _longest(self, options: Options) -> int:
        return min(options.max_new_tokens, self.settings.max_new_tokens)

    def check_model(self, name: str | None) -> None:
        """Raise NoSuchModel for any other model than the one here."""
        if name is not None and name != self.engine.name:
            raise NoSuchModel(f"there is no model '{name[:80]}' here; there is '{self.engine.name}'")

    def heard(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """Seconds given and heard of each clip, to the millisecond."""
        return [
            {
                "name": heard.name,
                "seconds_given": round(heard.seconds_given, 3),
                "seconds_heard": round(heard.seconds_heard, 3),
            }
            for heard in self.engine.heard_of(clips)
        ]


def new_id(kind: str) -> str:
    """A name for an answer, as OpenAI's: ``chatcmpl-`` and so on."""
    return kind + secrets.token_hex(12)


def drawn_seed(seed: int | None, number: int) -> int:
    """The seed of the ``number``-th of several answers; a random one if the client has none."""
    return secrets.randbits(31) if seed is None else (seed + number) % 2**63


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the client leaves. Raises Gone."""

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(leaving())
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


def _decoded(source: AudioSource, number: int, limit_s: float) -> Clip:
    try:
        return Clip(f"audio {number}", load_audio(source, max_s=limit_s))
    except AudioError as error:
        raise AudioError(f"audio {number}: {error}") from None
