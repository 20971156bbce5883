"""``lalm ask``: a question about recordings, answered on the terminal or as JSON."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lalm.audio import audio_name, load_audio
from lalm.sample import Sample
from lalm.sample import ask as question_about


def split(inputs: Sequence[str]) -> tuple[list[str], str]:
    """AUDIO... QUESTION apart. Raises ValueError when one of the two is missing."""
    *audios, question = inputs
    if _is_audio(question):
        raise ValueError(
            f"there is no question: put it after '{_shown(question)}', like \"What do you hear?\""
        )
    if not question.strip():
        raise ValueError("the question is empty")
    if not audios:
        raise ValueError(f"there is no audio before '{_shown(question)}': give a file, then the question")
    if audios.count("-") > 1:
        raise ValueError("standard input (-) can be only one of the recordings")
    return audios, question.strip()


def run(
    audios: Sequence[str],
    question: str,
    *,
    model: str | None,
    device: str | None,
    as_json: bool,
    drawing: dict[str, Any],
) -> None:
    """Print the answer: as it comes on a terminal, in one piece elsewhere."""
    for audio in audios:  # what is wrong with a file is said before a model is loaded
        if audio != "-":
            load_audio(audio)
    from lalm.commands.terminal import fetch_parts, quiet
    from lalm.engine import SMALL, Engine, Options
    from lalm.systems import part_names

    options = Options(**drawing)
    quiet()
    fetch_parts(part_names(Path(model) if model else SMALL))
    engine = Engine.load(model, device)
    sample = question_about(audios, question)
    if as_json:
        print(json.dumps(_facts(engine, sample, options), indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        for piece in engine.stream(sample, options):
            print(piece, end="", flush=True)
        print()
    else:
        print(engine.reply([sample], options)[0].text)


def _facts(engine: Any, sample: Sample, options: Any) -> dict[str, Any]:
    [reply] = engine.reply([sample], options)
    return {
        "answer": reply.text,
        "model": engine.name,
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


def _is_audio(text: str) -> bool:
    """Could only be meant as a recording: standard input, a data URL or an existing file."""
    if text == "-" or text.startswith("data:audio"):
        return True
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # longer than a file name may be
        return False


def _shown(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
