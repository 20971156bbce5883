"""``/v1/audio/transcriptions`` and ``/translations``: speech as text, with times on request.

The model writes no times, so a recording is cut at its pauses (silero-vad). Each stretch of speech becomes
a job of its own, and its place in the recording is the time of its text.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from lalm.audio.load import SAMPLE_RATE
from lalm.audio.vad import FRAME, frames, load_detector
from lalm.data.audio_inputs import Clip
from lalm.data.sample import ask
from lalm.inference.engine import Options
from lalm.serve.async_engine import AnswerStream, AsyncEngine, SamplingParams, seed_for

Form: TypeAlias = Literal["json", "text", "verbose_json", "srt", "vtt"]
Task: TypeAlias = Literal["transcribe", "translate"]

INSTRUCTIONS = {
    "transcribe": "Transcribe the speech word for word.",
    "translate": "Translate the speech into English.",
}
WHOLE_S = 30.0  # longer recordings, and those whose times are requested, are cut at pauses
PAUSE_S = 0.4
BEFORE_S = 0.2  # of audio kept before a stretch of speech
NEW_TOKENS = 448


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording, in seconds, and its text."""

    start_s: float
    end_s: float
    text: str
    answer: AnswerStream


async def transcribe(
    async_engine: AsyncEngine, clip: Clip, task: Task, form: Form, parameters: dict[str, Any]
) -> list[Segment]:
    """The text of ``clip``, stretch by stretch; ``parameters`` has language, prompt, temperature and seed."""
    stretches = [(0, len(clip.audio))]
    if form in ("verbose_json", "srt", "vtt") or clip.seconds > WHOLE_S:
        stretches = await asyncio.to_thread(find_speech, clip)
    question = instruction(task, parameters["language"], parameters["prompt"])
    options = Options(NEW_TOKENS, temperature=parameters["temperature"], seed=seed_for(parameters["seed"], 0))
    answers: list[AnswerStream] = []
    segments: list[Segment] = []
    width = max(1, min(async_engine.settings.rows, async_engine.settings.waiting // 2))
    try:
        for at in range(0, len(stretches), width):  # a long recording must not fill the queue
            group = stretches[at : at + width]
            new = []
            for first, last in group:
                part = clip.audio[first:last]
                new += async_engine.ask(
                    ask([part], question), [Clip(clip.name, part)], [SamplingParams(options)]
                )
                answers += new[-1:]
            for (first, last), answer in zip(group, new, strict=True):
                text = "".join(piece.text for piece in await answer.collect())
                segments.append(Segment(first / SAMPLE_RATE, last / SAMPLE_RATE, text, answer))
    finally:
        for answer in answers:
            answer.job.cancelled = answer.end is None
    return segments


def instruction(task: Task, language: str, prompt: str) -> str:
    """The prompt for a transcript or a translation."""
    question = INSTRUCTIONS[task]
    if language:
        question += f" The language is {language}."
    return f"{question} {prompt}" if prompt else question


def find_speech(clip: Clip) -> list[tuple[int, int]]:
    """First and last sample of each stretch of speech, none longer than ``WHOLE_S``."""
    detector = load_detector(PAUSE_S)
    found: list[tuple[int, int]] = []
    start: int | None = None
    import torch

    for number, frame in enumerate(frames([clip.audio])):
        event = detector(torch.from_numpy(np.ascontiguousarray(frame))) or {}
        here = (number + 1) * FRAME
        if "start" in event and start is None:
            start = max(0, number * FRAME - round(BEFORE_S * SAMPLE_RATE))
        if start is not None and ("end" in event or here - start >= WHOLE_S * SAMPLE_RATE):
            found.append((start, min(here, len(clip.audio))))
            start = None if "end" in event else here
    if start is not None and start < len(clip.audio):
        found.append((start, len(clip.audio)))
    return found


def formatted(
    async_engine: AsyncEngine, clip: Clip, segments: Sequence[Segment], form: Form, task: Task
) -> Any:
    """The response in a format: text for text, srt and vtt, else JSON."""
    text = " ".join(segment.text for segment in segments if segment.text)
    if form == "text":
        return text + "\n"
    if form == "srt":
        return "".join(
            f"{n}\n{_clock(s.start_s, ',')} --> {_clock(s.end_s, ',')}\n{_line(s.text)}\n\n"
            for n, s in enumerate(segments, 1)
        )
    if form == "vtt":
        rows = [f"{_clock(s.start_s, '.')} --> {_clock(s.end_s, '.')}\n{_line(s.text)}\n\n" for s in segments]
        return "WEBVTT\n\n" + "".join(rows)
    read = sum(s.answer.end.prompt_tokens for s in segments if s.answer.end)
    heard = sum(s.answer.end.audio_tokens for s in segments if s.answer.end)
    said = sum(s.answer.end.new_tokens for s in segments if s.answer.end)
    if form == "json":
        details = {"audio_tokens": heard, "text_tokens": read - heard}
        tokens = {"input_tokens": read, "output_tokens": said, "total_tokens": read + said}
        usage = {"type": "tokens", **tokens, "input_token_details": details}
        return {"text": text, "usage": usage, "lalm": {"heard": async_engine.audio_heard([clip])}}
    return {
        "task": task,
        "language": "english" if task == "translate" else "unknown",
        "duration": round(clip.seconds, 3),
        "text": text,
        "segments": [_segment(n, s) for n, s in enumerate(segments)],
        "usage": {"type": "duration", "seconds": round(clip.seconds, 3)},
        "lalm": {"heard": async_engine.audio_heard([clip])},
    }


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    """A segment in OpenAI's format; values that this model does not measure are 0."""
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": segment.answer.job.options.temperature,
        "avg_logprob": 0.0,
        "compression_ratio": 0.0,
        "no_speech_prob": 0.0,
    }


def _line(text: str) -> str:
    """Subtitles end at a blank line, so their text has none."""
    return " ".join(text.split())


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
