"""``lalm ask``: a question about recordings, answered on the terminal or as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalm.audio.load import audio_name, load_audio
from lalm.data.sample import Sample
from lalm.data.sample import ask as question_about

if TYPE_CHECKING:
    from lalm.inference.engine import Engine, Options, Reply


@dataclass(frozen=True)
class Settings:
    """How the answer is drawn; ``lalm.inference.engine.Options`` says what each means."""

    max_new_tokens: int
    beams: int
    temperature: float
    seed: int
    lora_scale: float | None = None
    orders: int = 1


def split(words: Sequence[str]) -> tuple[list[str], str]:
    """AUDIO... and QUESTION apart. Raises ValueError when one of them is missing."""
    if not words:
        raise ValueError('there is nothing to ask about: lalm ask AUDIO... "What do you hear?"')
    *audios, question = words
    if is_audio(question):
        raise ValueError(f"there is no question: put one in quotes after '{_short(question)}'")
    if not question.strip():
        raise ValueError("the question is empty")
    if not audios:
        raise ValueError(f"there is no audio before '{_short(question)}': give a file, then the question")
    if audios.count("-") > 1:
        raise ValueError("standard input (-) can be only one of the recordings")
    return audios, question.strip()


def run(
    words: Sequence[str],
    model: str | None,
    settings: Settings,
    *,
    device: str | None,
    as_json: bool,
    vision: str | None = None,
) -> None:
    """Print the answer: as it comes on a terminal, in one piece elsewhere or from a model that sees."""
    audios, question = split(words)
    if vision is not None:
        _look(audios, question, vision, model, settings, device=device, as_json=as_json)
        return
    if settings.orders > 1 and (len(audios) < 2 or "-" in audios):
        raise ValueError("several orders need at least two recordings, none of them standard input")
    for audio in audios:  # what is wrong with a recording is said before anything heavy is loaded
        if audio != "-":
            load_audio(audio)
    from lalm.cli.weights import fetch_for
    from lalm.inference.engine import Engine

    options = _options(settings)
    fetch_for(model)
    silence_transformers()
    engine = Engine.load(model, device)
    sample = question_about(audios, question)
    if settings.orders > 1:
        _vote(engine, sample, options, settings, as_json=as_json)
    elif as_json:
        [reply] = engine.reply([sample], options)
        print(json.dumps(facts(reply, sample, engine.name), indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        for piece in engine.stream(sample, options):
            print(piece, end="", flush=True)
        print()
    else:
        print(engine.reply([sample], options)[0].text)


def _options(settings: Settings) -> "Options":
    from lalm.inference.engine import Options

    return Options(
        settings.max_new_tokens,
        settings.beams,
        settings.temperature,
        seed=settings.seed,
        lora_scale=settings.lora_scale,
    )


def _look(
    files: Sequence[str],
    question: str,
    vision: str,
    model: str | None,
    settings: Settings,
    *,
    device: str | None,
    as_json: bool,
) -> None:
    """Print what APT-BLIP-2 answers about images, videos and sounds."""
    from lalm.cli import ask_vision as seeing

    if settings.orders > 1 or settings.lora_scale is not None or "-" in files:
        raise ValueError("--vision takes files, and no --orders or --lora-scale")
    sample = seeing.question(files, question)
    silence_transformers()
    seer = seeing.opened(vision, model, device)
    [reply] = seer.reply([sample], _options(settings))
    told = facts(reply, sample, seer.name)
    print(json.dumps(told, indent=2, ensure_ascii=False) if as_json else reply.text)


def _vote(engine: "Engine", sample: Sample, options: "Options", settings: Settings, *, as_json: bool) -> None:
    """Print what most orders of the recordings answer, in the words of the given order."""
    from lalm.inference.permutations import most_said, orders, reordered, restored

    drawn = orders(len(sample.audios), settings.orders, settings.seed)
    replies = engine.reply([reordered(sample, order) for order in drawn], options)
    answers = [restored(reply.text, order) for reply, order in zip(replies, drawn, strict=True)]
    answer, share = most_said(answers)
    if not as_json:
        print(answer)
        return
    votes = [{"order": [i + 1 for i in o], "answer": a} for o, a in zip(drawn, answers, strict=True)]
    told = facts(replies[0], sample, engine.name) | {
        "answer": answer,
        "share": round(share, 3),
        "votes": votes,
    }
    print(json.dumps(told, indent=2, ensure_ascii=False))


def facts(reply: "Reply", sample: Sample, model: str) -> dict[str, Any]:
    """What ``--json`` prints; seconds to the millisecond."""
    return {
        "answer": reply.text,
        "model": model,
        "audio": [
            {
                "name": audio_name(part["audio"]),
                "seconds_given": round(heard.seconds_given, 3),
                "seconds_heard": round(heard.seconds_heard, 3),
            }
            for part, heard in zip(sample.audios, reply.heard, strict=True)
        ],
        "timing": {
            "first_token_s": round(reply.first_token_s, 3),
            "total_s": round(reply.total_s, 3),
            "tokens_per_s": round(reply.tokens_per_s, 1),
        },
    }


def is_audio(word: str) -> bool:
    """Can only be meant as a recording: standard input, a data URL, a file that is there."""
    if word == "-" or word.startswith("data:"):
        return True
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # longer than a file name may be, or not one at all
        return False


def _short(word: str) -> str:
    return word if len(word) <= 60 else word[:57] + "..."


def silence_transformers() -> None:
    """Its progress bars and advice are not for who asks a question."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
