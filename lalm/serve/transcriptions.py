"""``/v1/audio/transcriptions`` and ``/translations``: speech as text, with times on request.

By a model that transcribes itself; by Whisper for the others (``lalm.serve.whisper_transcripts``).
The model writes no times, so a recording is cut at its pauses (silero-vad). Each stretch of speech becomes
a job of its own, and its place in the recording is the time of its text. Where there is no speech there is no
text, whatever the format.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lalm.audio.load import SAMPLE_RATE
from lalm.audio.vad import FRAME, frames, load_detector
from lalm.data.audio_inputs import Clip
from lalm.data.sample import ask
from lalm.inference.engine import Options
from lalm.inference.speech import subtitles
from lalm.inference.speech.subtitles import clock
from lalm.serve.async_engine import AnswerStream, AsyncEngine, SamplingParams, seed_for
from lalm.serve.error_responses import error_body, error_message, error_status
from lalm.serve.jobs import Piece, TokenLogprob
from lalm.serve.logprobs import chosen_tokens
from lalm.serve.request_fields import FieldRefused

Form: TypeAlias = Literal["json", "text", "verbose_json", "srt", "vtt"]
Task: TypeAlias = Literal["transcribe", "translate"]

INSTRUCTIONS = {
    "transcribe": "Transcribe the speech word for word.",
    "translate": "Translate the speech into English.",
}
WHOLE_S = 30.0  # longer recordings, and those whose times are requested, are cut at pauses
NEW_TOKENS = 448  # the longest text of one stretch, Whisper's limit
TOKENS_PER_S = 16  # more than anybody says in a second
FIRST_TOKENS = 16


class VadOptions(BaseModel):
    """How a recording is cut at its pauses, in OpenAI's names: ``chunking_strategy`` of ``server_vad``."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0.05, le=1)
    prefix_padding_ms: int = Field(default=200, ge=0, le=5000)
    silence_duration_ms: int = Field(default=400, ge=32, le=10_000)


@dataclass(frozen=True)
class Wishes:
    """What one request asks for beside its recording."""

    task: Task
    form: Form = "json"
    language: str = ""
    prompt: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = NEW_TOKENS
    stream: bool = False
    logprobs: bool = False
    words: bool = False  # the times of words, which Whisper tells
    vad: VadOptions | None = None  # None: the server decides where to cut
    drawing: dict[str, Any] = field(default_factory=dict)  # more of the engine's options

    def __post_init__(self) -> None:
        if self.stream and self.form not in ("json", "text"):
            raise ValueError(f"a stream has no {self.form}: ask for response_format json or text")
        if self.logprobs and self.form != "json":
            raise ValueError("include logprobs goes with response_format json alone")

    def options(self, seconds: float) -> Options:
        """How a stretch of that length is answered."""
        limit = min(self.max_tokens, longest_text(seconds))
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "seed": seed_for(self.seed, 0)}
        if self.drawing.get("min_tokens"):
            drawn["min_tokens"] = min(limit, self.drawing["min_tokens"])
        return Options(limit, **{**self.drawing, **drawn})


@dataclass
class Segment:
    """A stretch of a recording, in seconds, and its text."""

    start_s: float
    end_s: float
    answer: AnswerStream
    pieces: list[Piece] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def told(self) -> subtitles.Segment:
        """The same as subtitles have it."""
        temperature = self.answer.job.options.temperature
        return subtitles.Segment(self.start_s, self.end_s, self.text, temperature=temperature)


class Transcript:
    """The text of one recording, stretch by stretch; ``segments`` is complete when ``pieces`` has ended."""

    tells_words: ClassVar[bool] = False

    def __init__(self, async_engine: AsyncEngine, clip: Clip, wishes: Wishes) -> None:
        """Raises FieldRefused for what a model cannot be asked."""
        if wishes.words and not self.tells_words:
            raise FieldRefused(
                "timestamp_granularities word is not supported: the model tells no times of words"
            )
        self.async_engine = async_engine
        self.clip = clip
        self.wishes = wishes
        self.segments: list[Segment] = []

    async def pieces(self) -> AsyncIterator[Piece]:
        """The text as it is written, with a space between two stretches."""
        stretches = await asyncio.to_thread(stretches_of, self.clip, self.wishes)
        settings = self.async_engine.settings
        width = max(1, min(settings.rows, settings.waiting // 2))
        running: list[Segment] = []
        try:
            for at in range(0, len(stretches), width):  # a long recording must not fill the queue
                running.clear()
                for first, last in stretches[at : at + width]:
                    running.append(await self._start(first, last))
                for segment in running:
                    async for piece in segment.answer:
                        between = " " if not segment.pieces and self.text else ""
                        segment.pieces.append(piece)
                        yield Piece(between + piece.text, piece.scores)
                    self.segments.append(segment)
        finally:
            for segment in running:
                segment.answer.job.cancelled = segment.answer.end is None

    async def _start(self, first: int, last: int) -> Segment:
        part = self.clip.audio[first:last]
        question = instruction(self.wishes.task, self.wishes.language, self.wishes.prompt)
        options = self.wishes.options(len(part) / SAMPLE_RATE)
        params = SamplingParams(options, top_logprobs=0 if self.wishes.logprobs else None)
        [answer] = await self.async_engine.ask(
            ask([part], question), [Clip(self.clip.name, part, transcript="")], [params]
        )
        return Segment(first / SAMPLE_RATE, last / SAMPLE_RATE, answer)

    @property
    def text(self) -> str:
        """The whole text so far."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def spans(self) -> list[tuple[float, float, str]]:
        """Start and end in seconds and the text of each stretch."""
        return [(one.start_s, one.end_s, one.text) for one in self.segments]

    def verbose_fields(self) -> dict[str, Any]:
        """What verbose_json has of its own: the language, where it is known, and segments."""
        language = "english" if self.wishes.task == "translate" else "unknown"
        segments = [segment_fields(number, one.told) for number, one in enumerate(self.segments)]
        return {"language": language, "segments": segments}

    def usage(self) -> dict[str, Any]:
        """Token counts of all stretches."""
        ends = [segment.answer.end for segment in self.segments if segment.answer.end]
        read, heard, said = (
            sum(getattr(end, name) for end in ends)
            for name in ("prompt_tokens", "audio_tokens", "new_tokens")
        )
        details = {"audio_tokens": heard, "text_tokens": read - heard}
        tokens = {"input_tokens": read, "output_tokens": said, "total_tokens": read + said}
        return {"type": "tokens", **tokens, "input_token_details": details}

    def logprobs(self) -> dict[str, Any]:
        """The field of that name, where it was asked for."""
        scores = [score for segment in self.segments for piece in segment.pieces for score in piece.scores]
        return self._scores(scores)

    def _scores(self, scores: Sequence[TokenLogprob]) -> dict[str, Any]:
        if not self.wishes.logprobs:
            return {}
        return {"logprobs": chosen_tokens(self.async_engine.engine.processor.tokenizer, scores)}

    def extra_fields(self) -> dict[str, Any]:
        """Fields in addition to OpenAI's: what was heard, and the stretches whose text was cut off."""
        ends = [segment.answer.end for segment in self.segments]
        cut = [number for number, end in enumerate(ends) if end is not None and end.reason != "stop"]
        return {"heard": self.async_engine.audio_heard([self.clip]), "unfinished_segments": cut}

    async def events(self, first: Piece | None, rest: AsyncIterator[Piece]) -> AsyncIterator[str]:
        """The text as OpenAI's server-sent events; ``first`` and ``rest`` are its pieces."""
        try:
            if first is not None:
                yield self._delta(first)
            async for piece in rest:
                yield self._delta(piece)
        except Exception as error:  # the status was sent already, so the stream carries the error
            yield _event(error_body(error_status(error), error_message(error)))
            return
        done = {"type": "transcript.text.done", "text": self.text, **self.logprobs(), "usage": self.usage()}
        yield _event({**done, "lalm": self.extra_fields()})

    def _delta(self, piece: Piece) -> str:
        scores = self._scores(piece.scores)
        return _event({"type": "transcript.text.delta", "delta": piece.text, **scores})


def longest_text(seconds: float) -> int:
    """The most tokens that a recording of that length is given."""
    return min(NEW_TOKENS, FIRST_TOKENS + round(TOKENS_PER_S * seconds))


def instruction(task: Task, language: str, prompt: str) -> str:
    """The prompt for a transcript or a translation."""
    question = INSTRUCTIONS[task]
    if language:
        question += f" The language is {language}."
    return f"{question} {prompt}" if prompt else question


def stretches_of(clip: Clip, wishes: Wishes) -> list[tuple[int, int]]:
    """First and last sample of each stretch that becomes a text of its own; none without speech."""
    found = find_speech(clip, wishes.vad or VadOptions())
    timed = wishes.form in ("verbose_json", "srt", "vtt")
    if not found or timed or clip.seconds > WHOLE_S or wishes.vad is not None:
        return found
    return [(0, len(clip.audio))]


def find_speech(clip: Clip, vad: VadOptions) -> list[tuple[int, int]]:
    """First and last sample of each stretch of speech, none longer than ``WHOLE_S``."""
    detector = load_detector(vad.silence_duration_ms / 1000, vad.threshold)
    before = round(vad.prefix_padding_ms * SAMPLE_RATE / 1000)
    found: list[tuple[int, int]] = []
    start: int | None = None
    import torch

    for number, frame in enumerate(frames([clip.audio])):
        event = detector(torch.from_numpy(np.ascontiguousarray(frame))) or {}
        here = (number + 1) * FRAME
        if "start" in event and start is None:
            start = max(0, number * FRAME - before)
        if start is not None and ("end" in event or here - start >= WHOLE_S * SAMPLE_RATE):
            found.append((start, min(here, len(clip.audio))))
            start = None if "end" in event else here
    if start is not None and start < len(clip.audio):
        found.append((start, len(clip.audio)))
    return found


def formatted(transcript: Transcript) -> Any:
    """The response in the format asked for: text for text, srt and vtt, else JSON."""
    form, spans, clip = transcript.wishes.form, transcript.spans, transcript.clip
    if form == "text":
        return transcript.text + "\n"
    if form == "srt":
        return "".join(
            f"{n}\n{clock(start_s, 'srt')} --> {clock(end_s, 'srt')}\n{_line(text)}\n\n"
            for n, (start_s, end_s, text) in enumerate(spans, 1)
        )
    if form == "vtt":
        rows = [f"{clock(a, 'vtt')} --> {clock(b, 'vtt')}\n{_line(text)}\n\n" for a, b, text in spans]
        return "WEBVTT\n\n" + "".join(rows)
    ours = {"lalm": transcript.extra_fields()}
    if form == "json":
        return {"text": transcript.text, **transcript.logprobs(), "usage": transcript.usage(), **ours}
    return {
        "task": transcript.wishes.task,
        "duration": round(clip.seconds, 3),
        "text": transcript.text,
        **transcript.verbose_fields(),
        "usage": {"type": "duration", "seconds": round(clip.seconds, 3)},
        **ours,
    }


def segment_fields(number: int, segment: subtitles.Segment) -> dict[str, Any]:
    """A segment in OpenAI's format; values that a model does not measure are 0."""
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _line(text: str) -> str:
    """Subtitles end at a blank line, so their text has none."""
    return " ".join(text.split())
