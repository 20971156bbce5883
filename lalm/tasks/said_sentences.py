"""``lalm build said``: spoken sentences with their text, and questions about what is said.

The sentences are frames with drawn words (``said_sentences.yaml``), spoken by flite or espeak-ng. What is
asked can be answered from the words, but for one question in twelve, whose answer is that it is not said.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from lalm.audio.load import SAMPLE_RATE
from lalm.data.english import words
from lalm.data.sample import AudioPart, Message, Sample, write_manifest
from lalm.tasks import spoken_questions
from lalm.tasks.spoken_questions import check_voices, drawn_voice

TURNS = (2, 3, 4)  # questions about a sentence
UNSAID_SHARE = 0.08  # of questions ask what is not said
WHOLE_SHARE = 0.3  # of questions are about the sentence as a whole
Rng = np.random.Generator


def write_said(out: Path, voices: Sequence[str], count: int, *, seed: int = 0) -> int:
    """Write ``out``, conversations about ``count`` spoken sentences; returns how many.

    Each has one FLAC file in ``<out>_audio``, 16 kHz, with what is said as its ``transcript``. ``voices``: as
    of ``lalm build spoken``. Raises SourceError for a voice that is none or that does not speak.
    """
    check_voices(voices)
    folder = out.with_name(f"{out.name.removesuffix('.jsonl')}_audio")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    return write_manifest(out, _samples(folder, voices, count, rng))


def _samples(folder: Path, voices: Sequence[str], count: int, rng: Rng) -> Iterator[Sample]:
    for number in range(count):
        text, turns = said_sentence(rng)
        voice, stretch = drawn_voice(voices, int(rng.integers(10**9)))
        file = folder / f"{hashlib.sha256(f'{text} {voice} {stretch}'.encode()).hexdigest()[:20]}.flac"
        if not file.exists():
            said = spoken_questions.speech(voice, stretch, text)
            soundfile.write(file, np.clip(said, -1.0, 1.0), SAMPLE_RATE)
        part: AudioPart = {"type": "audio", "audio": str(file), "transcript": text}
        messages: list[Message] = []
        for at, (question, answer) in enumerate(turns):
            content: Any = question if at else [part, {"type": "text", "text": question}]
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        origin = {"kind": "single", "voice": voice, "transcript": text}
        yield Sample(tuple(messages), id=f"said-{number:05d}", task="said", origin=origin)


def said_sentence(rng: Rng) -> tuple[str, list[tuple[str, str]]]:
    """A sentence and some questions about it with their answers."""
    book = _book()
    frame = _one(rng, book["frames"])
    filled: dict[str, str] = {}
    for slot, options in book["lists"].items():
        two = rng.choice(len(options), 2, replace=False)
        filled |= {slot: options[two[0]], f"{slot}2": options[two[1]]}
    text = _one(rng, frame["say"]).format(**filled)
    asked = [(q.format(**filled), _sentence(a.format(**filled))) for q, a in frame["ask"]]
    whole = _whole(book["whole"], text, frame["about"].format(**filled), rng)
    turns: list[tuple[str, str]] = []
    for _ in range(int(rng.choice(TURNS))):
        draw = rng.random()
        if draw < UNSAID_SHARE:
            turn = _one(rng, book["whole"]["unsaid"]), _one(rng, book["whole"]["not_said"])
        else:
            turn = _one(rng, whole if draw < UNSAID_SHARE + WHOLE_SHARE else asked)
        if turn[0] not in {question for question, _ in turns}:
            turns.append(turn)
    return text[0].upper() + text[1:], turns


def _whole(wordings: Mapping[str, Any], text: str, about: str, rng: Rng) -> list[tuple[str, str]]:
    spoken = words(text)
    answers = {
        "words": text[0].upper() + text[1:],
        "about": _one(rng, [_sentence(about), f"It is about {about}."]),
        "first": f"{spoken[0].capitalize()}.",
        "last": f"{spoken[-1].capitalize()}.",
        "heard": _one(rng, ["A person speaking.", "A person speaks.", "I hear a person speaking."]),
    }
    return [(_one(rng, wordings[kind]), answer) for kind, answer in answers.items()]


@cache
def _book() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(
        (resources.files("lalm.tasks") / "said_sentences.yaml").read_text("utf-8")
    )
    return found


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _one(rng: Rng, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]
