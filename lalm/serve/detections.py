"""``/v1/audio/detections``: when sounds occur in a recording, as time spans."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from lalm.data.audio_inputs import Clip
from lalm.data.sample import ask
from lalm.inference.detection import ANSWER_TOKENS, question, read
from lalm.inference.engine import Options
from lalm.serve.async_engine import AsyncEngine, SamplingParams


class Span(BaseModel):
    """A time span, in seconds."""

    onset_s: float
    offset_s: float


class Sound(BaseModel):
    """The spans of one sound in order of time, and the model's answer verbatim."""

    sound: str
    spans: list[Span]
    answer: str


class Detections(BaseModel):
    """The recording's length in seconds, each sound that was asked for, and the account of the recording."""

    seconds: float
    sounds: list[Sound]
    heard: list[dict[str, Any]]


async def detect(async_engine: AsyncEngine, clip: Clip, sounds: Sequence[str]) -> Detections:
    """Ask for each of the sounds. Raises ValueError for one without a name, Busy for a full queue."""
    if not all(sound.strip() for sound in sounds):
        raise ValueError("the name of a sound is empty")
    params = SamplingParams(Options(ANSWER_TOKENS))
    answers = []
    try:
        for sound in sounds:
            answers += await async_engine.ask(ask([clip.audio], question(sound)), [clip], [params])
        said = ["".join(piece.text for piece in await answer.collect()) for answer in answers]
    finally:
        for answer in answers:
            answer.job.cancelled = answer.end is None
    found = [read(sound, text, clip.seconds) for sound, text in zip(sounds, said, strict=True)]
    return Detections(
        seconds=round(clip.seconds, 3),
        heard=async_engine.audio_heard([clip]),
        sounds=[
            Sound(
                sound=one.sound,
                spans=[Span(onset_s=round(a, 3), offset_s=round(b, 3)) for a, b in one.spans],
                answer=one.answer,
            )
            for one in found
        ],
    )
