"""The asynchronous front of the scheduler: decodes audio, submits jobs and streams their answers."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import anyio
from starlette.requests import Request

from lalm.audio.load import AudioError
from lalm.data.audio_inputs import Clip
from lalm.data.messages import AudioPart, part_recording
from lalm.data.sample import Sample
from lalm.errors import LalmError
from lalm.inference.engine import Engine, Options
from lalm.inference.openmp import give_back_helpers
from lalm.inference.speech.recogniser import Whisper
from lalm.models.prefill import PrefixCache
from lalm.serve.error_responses import ModelNotFound
from lalm.serve.guidance import Guide
from lalm.serve.jobs import End, Event, Job, Piece
from lalm.serve.prometheus import Metrics
from lalm.serve.prompts import Prompt, prompt_of
from lalm.serve.scheduler import Scheduler
from lalm.serve.settings import Settings
from lalm.serve.structured_output import Grammar, GrammarCompiler

T = TypeVar("T")
MAX_THREADS = 4  # that decode recordings and read texts; one waits for Whisper, say


class ClientDisconnected(LalmError):
    """The client closed its connection, so nobody waits for this answer."""


@dataclass(frozen=True)
class SamplingParams:
    """How one answer is generated: options, log probabilities, prefix cache, grammar."""

    options: Options
    top_logprobs: int | None = None
    prefix_cache: PrefixCache | None = None
    grammar: Grammar | None = None


class AnswerStream:
    """One answer as a stream of pieces; afterwards ``end`` holds the reason and the token counts."""

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
                    self.first_text_s = time.monotonic() - self.job.submitted_at
                    self._metrics.first_token.observe(self.first_text_s)
                yield event
        finally:
            self.job.cancelled = self.end is None

    def cancel(self) -> None:
        """Stop generating; whoever iterates gets ClientDisconnected."""
        self.job.cancelled = True
        self._events.put_nowait(ClientDisconnected())

    async def collect(self) -> list[Piece]:
        """Wait for the end of the answer; all its pieces."""
        return [piece async for piece in self]


class AsyncEngine:
    """Accepts requests for one engine and enforces the server's limits."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        settings: Settings,
        metrics: Metrics,
        whisper: Callable[[], Whisper] | None = None,
    ) -> None:
        self.engine = engine
        self.scheduler = scheduler
        self.settings = settings
        self.metrics = metrics
        self.started = int(time.time())
        self.sessions = 0  # realtime sessions that are connected
        self._whisper = whisper
        self._grammars = GrammarCompiler(engine)
        self._threads: anyio.CapacityLimiter | None = None

    async def load_clips(self, parts: Sequence[AudioPart]) -> list[Clip]:
        """Decode recordings up to the allowed total length. Raises AudioError naming the recording."""
        if len(parts) > self.settings.clips:
            raise AudioError(f"{len(parts)} recordings are too many: the limit is {self.settings.clips}")
        clips: list[Clip] = []
        for number, part in enumerate(parts, 1):
            left_s = self.settings.audio_s - sum(clip.seconds for clip in clips)
            if left_s <= 0:
                raise AudioError(f"the recordings are longer than {self.settings.audio_s:g} s together")
            clip = await self.in_thread(_decode, part, number, left_s)
            clips.append(clip)
        self.metrics.count_audio(sum(clip.seconds for clip in clips))
        return clips

    async def recogniser(self, *, named: bool = False) -> Whisper | None:
        """Whisper, where it is asked for by name or the model does not transcribe; None where the model does.

        Raises WeightsError, SpeechError where it cannot be opened.
        """
        if self._whisper is None or (self.engine.model.config.transcribes and not named):
            return None
        return await self.in_thread(self._whisper)

    async def grammar(self, guide: Guide | None) -> Grammar | None:
        """The grammar that holds one answer to ``guide``. Raises ValueError for what cannot be kept to."""
        return None if guide is None else await self.in_thread(self._grammars.compile, guide)

    async def in_thread(self, work: Callable[..., T], *given: Any) -> T:
        """The result of ``work``; at most ``MAX_THREADS`` recordings and texts are read at a time."""
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(MAX_THREADS)
        return await anyio.to_thread.run_sync(_worked, work, *given, limiter=self._threads)

    async def ask(
        self, sample: Sample, clips: list[Clip], requested: Sequence[SamplingParams]
    ) -> list[AnswerStream]:
        """Queue one answer for each of ``requested``, all or none. Raises Busy, and ValueError for a prompt
        that is too long."""
        options = (self._bounded(params.options) for params in requested)
        longest = max(options, key=lambda one: one.max_new_tokens)
        self.scheduler.check_place(len(requested))
        prompt = await self.in_thread(prompt_of, self.engine, sample, clips, longest)
        return self.queue(sample, clips, prompt, requested)

    def queue(
        self, sample: Sample, clips: list[Clip], prompt: Prompt, requested: Sequence[SamplingParams]
    ) -> list[AnswerStream]:
        """The same for a prompt that was read already."""
        loop = asyncio.get_running_loop()
        answers = []
        for params in requested:
            events: asyncio.Queue[Event] = asyncio.Queue()

            def notify(event: Event, events: asyncio.Queue[Event] = events) -> None:
                loop.call_soon_threadsafe(events.put_nowait, event)

            job = Job(
                sample,
                clips,
                self._bounded(params.options),
                notify,
                params.top_logprobs,
                params.prefix_cache,
                params.grammar,
                prompt,
            )
            job.timeout_s = self.settings.answer_s
            answers.append(AnswerStream(job, events, self.metrics))
        self.scheduler.submit(*[answer.job for answer in answers])
        return answers

    def _bounded(self, options: Options) -> Options:
        limit = min(options.max_new_tokens, self.settings.max_new_tokens)
        return replace(options, max_new_tokens=limit)

    def check_text(self, characters: int) -> None:
        """Raise ValueError for more text than a request may have; longer text is not even tokenised."""
        if characters > (limit := self.settings.characters):
            raise ValueError(f"the text has {characters} characters: the limit is {limit}")

    def check_model(self, name: str | None) -> None:
        """Raise ModelNotFound for any other model than the one served here."""
        if name is not None and name != self.engine.name:
            raise ModelNotFound(f"there is no model '{name[:80]}' here; there is '{self.engine.name}'")

    def audio_heard(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """Seconds given and seconds heard of each clip, rounded to milliseconds."""
        return [heard.to_json() for heard in self.engine.heard_of(clips)]


def new_id(kind: str) -> str:
    """A random id with OpenAI's prefix for its kind, such as ``chatcmpl-``."""
    return kind + secrets.token_hex(12)


def seed_for(seed: int | None, number: int) -> int:
    """The seed of the ``number``-th of several answers; random unless the client gave one."""
    return secrets.randbits(31) if seed is None else (seed + number) % 2**63


async def read_all(pieces: AsyncIterator[T]) -> list[T]:
    """All that an asynchronous iterator gives."""
    return [piece async for piece in pieces]


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the client disconnects. Raises ClientDisconnected."""

    async def wait_for_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watcher = asyncio.ensure_future(work), asyncio.ensure_future(wait_for_disconnect())
    try:
        await asyncio.wait([task, watcher], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        for running in (task, watcher):
            running.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


def _worked(work: Callable[..., T], *given: Any) -> T:
    """The result of ``work``, of which no helpers are left beside those of the scheduler's thread."""
    try:
        return work(*given)
    finally:
        give_back_helpers()


def _decode(part: AudioPart, number: int, limit_s: float) -> Clip:
    try:
        recording = part_recording(part, max_s=limit_s)
        name = f"audio {number}"
        return Clip(name, recording.audio, replace(recording.account, name=name))
    except AudioError as error:
        raise AudioError(f"audio {number}: {error}") from None
