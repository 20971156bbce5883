"""Sound event detection by question: asks when a sound occurs and reads time spans from the answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from lalm.audio.load import AudioSource
from lalm.data.sample import ask
from lalm.inference.engine import Engine, Options
from lalm.inference.times import read_ranges
from lalm.systems.apt.prompts import prompts

ANSWER_TOKENS = 128


@dataclass(frozen=True)
class Found:
    """A sound's spans (onset, offset) in seconds, in order, none beyond the recording's end.

    ``said_none`` tells an answer that says no time at all from one whose times lie outside the recording.
    """

    sound: str
    spans: tuple[tuple[float, float], ...]
    answer: str
    seconds: float
    said_none: bool


def detect(engine: Engine, clip: AudioSource, sounds: Sequence[str]) -> list[Found]:
    """Ask for each of the sounds. Raises AudioError for a recording that cannot be read."""
    replies = engine.reply([ask([clip], question(sound)) for sound in sounds], Options(ANSWER_TOKENS))
    return [
        read(sound, reply.text, reply.heard[0].seconds_given)
        for sound, reply in zip(sounds, replies, strict=True)
    ]


def question(sound: str) -> str:
    """What the model is asked."""
    return prompts()["detect"][0].replace("{question}", sound)


def read(sound: str, answer: str, seconds: float) -> Found:
    """The answer's spans within a recording of so many seconds."""
    said = [(onset_s, offset_s) for _, onset_s, offset_s in read_ranges(answer)]
    inside = sorted((a, min(b, seconds)) for a, b in said if a < seconds)
    return Found(sound, tuple(inside), answer, seconds, not said)


def audacity(found: Sequence[Found]) -> str:
    """The spans as an Audacity label track: onset, offset and name by tabs, one a line, in time order."""
    rows = sorted((onset_s, offset_s, one.sound) for one in found for onset_s, offset_s in one.spans)
    return "".join(f"{a:.6f}\t{b:.6f}\t{' '.join(name.split())}\n" for a, b, name in rows)
