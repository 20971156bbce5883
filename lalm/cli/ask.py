"""``lalm ask``: a question about recordings, answered on the terminal or as JSON."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lalm.cli.options import Device, Json, Longest, LoraScale, Model, Seed, Temperature, Vision

if TYPE_CHECKING:
    from lalm.data.sample import Sample
    from lalm.inference.engine import Engine, Options, Reply


def ask(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="AUDIO... QUESTION",
            help="Audio files, data: URLs or - (standard input), then the question.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    as_json: Json = False,
    max_new_tokens: Longest = 128,
    beams: Annotated[int, typer.Option(help="Width of the beam search; 1 is greedy.")] = 1,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    lora_scale: LoraScale = None,
    orders: Annotated[
        int, typer.Option(min=1, help="Ask with the recordings in so many orders; the answers vote.")
    ] = 1,
    vision: Vision = None,
    device: Device = None,
) -> None:
    """Ask about recordings; with --vision about images and videos."""
    files, question = split(words or [])
    if vision is not None and (orders > 1 or lora_scale is not None or "-" in files):
        raise ValueError("--vision takes files, and no --orders or --lora-scale")
    sample = _about(files, question, orders) if vision is None else _about_pictures(files, question)
    from lalm.inference.engine import Options

    options = Options(max_new_tokens, beams, temperature, seed=seed, lora_scale=lora_scale)
    if vision is not None:
        from lalm.cli.ask_vision import open_vision

        vision_model = open_vision(vision, model, device)
        _print(vision_model.reply([sample], options)[0], sample, vision_model.name, as_json=as_json)
        return
    from lalm.cli.opening import open_engine

    engine = open_engine(model, device)
    if orders > 1:
        _vote(engine, sample, options, orders, as_json=as_json)
    elif sys.stdout.isatty() and not as_json:
        for piece in engine.stream(sample, options):
            print(piece, end="", flush=True)
        print()
    else:
        _print(engine.reply([sample], options)[0], sample, engine.name, as_json=as_json)


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


def _about(audios: Sequence[str], question: str, orders: int) -> "Sample":
    """The question as a sample. A bad recording is refused here, before a model is loaded."""
    from lalm.audio.load import load_audio
    from lalm.data.sample import ask as question_about

    if orders > 1 and (len(audios) < 2 or "-" in audios):
        raise ValueError("several orders need at least two recordings, none of them standard input")
    for audio in audios:
        if audio != "-":
            load_audio(audio)
    return question_about(list(audios), question)


def _about_pictures(files: Sequence[str], question: str) -> "Sample":
    from lalm.cli.ask_vision import question_with_pictures

    return question_with_pictures(files, question)


def _vote(engine: "Engine", sample: "Sample", options: "Options", count: int, *, as_json: bool) -> None:
    """Print what most of ``count`` orders of the recordings answer, in the words of the given order."""
    from lalm.inference.permutations import majority_vote, permutations, permute_clips, restore_mentions

    drawn = permutations(len(sample.audios), count, options.seed)
    replies = engine.reply([permute_clips(sample, order) for order in drawn], options)
    answers = [restore_mentions(reply.text, order) for reply, order in zip(replies, drawn, strict=True)]
    answer, share = majority_vote(answers)
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


def _print(reply: "Reply", sample: "Sample", model: str, *, as_json: bool) -> None:
    print(json.dumps(facts(reply, sample, model), indent=2, ensure_ascii=False) if as_json else reply.text)


def facts(reply: "Reply", sample: "Sample", model: str) -> dict[str, Any]:
    """What ``--json`` prints; seconds to the millisecond."""
    from lalm.audio.load import audio_name

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
    """True for what can only be a recording: standard input, a data URL, a file that exists."""
    if word == "-" or word.startswith("data:"):
        return True
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # longer than a file name may be, or not one at all
        return False


def _short(word: str) -> str:
    return word if len(word) <= 60 else word[:57] + "..."
