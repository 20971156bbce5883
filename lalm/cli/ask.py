"""``lalm ask``: a question about recordings, answered on the terminal or as JSON."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from lalm.cli.ending import note_ending
from lalm.cli.engines import EngineName, open_library
from lalm.cli.opening import reading_of
from lalm.cli.options import (
    Channel,
    Columns,
    Device,
    Dtype,
    Json,
    Lenient,
    Longest,
    LoopGuard,
    LoraScale,
    MinP,
    MinTokens,
    Model,
    NoRepeatNgram,
    Out,
    RepetitionPenalty,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    Track,
    Transcript,
    Vision,
    heard_choice,
)
from lalm.cli.protocol import Prompts, ProtocolName, ask_by_name, open_under

if TYPE_CHECKING:
    from lalm.audio.load import Recording
    from lalm.data.readers import Reading
    from lalm.data.sample import Sample
    from lalm.inference.engine import Engine, Options, Reply
    from lalm.inference.protocols import Protocol


def ask(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="AUDIO... QUESTION",
            help="Audio files, data: URLs or - (standard input), then the question; texts may also stand "
            'between recordings. "" asks nothing beside them. With --out also folders and patterns.',
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    as_json: Json = False,
    max_new_tokens: Longest = 128,
    beams: Annotated[int, typer.Option(help="Width of the beam search; 1 is greedy.")] = 1,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    no_repeat_ngram_size: NoRepeatNgram = 0,
    stop: Stop = None,
    min_tokens: MinTokens = 0,
    loop_guard: LoopGuard = True,
    system: Annotated[str, typer.Option(help="Text of the system turn, before the question.")] = "",
    seed: Seed = 0,
    lora_scale: LoraScale = None,
    orders: Annotated[
        int, typer.Option(min=1, help="Ask with the recordings in so many orders; the answers vote.")
    ] = 1,
    channel: Channel = None,
    track: Track = None,
    lenient: Lenient = False,
    protocol: ProtocolName = None,
    prompts: Prompts = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="With --protocol a kind of question (caption), or one of --prompts."
        ),
    ] = None,
    out: Out = None,
    columns: Columns = None,
    transcript: Transcript = None,
    vision: Vision = None,
    dtype: Dtype = None,
    device: Device = None,
    engine: EngineName = "lalm",
) -> None:
    """Ask about recordings; with --vision about images and videos.

    Examples:

    lalm ask dog.wav "What do you hear?"

    lalm ask a.wav b.mp3 "Which of the two is louder?"

    lalm ask calls/ "What is it about?" --out answers.csv
    """
    pieces = read_words(words or [], pictures=vision is not None, unasked=prompt is not None)
    followed = _protocol(
        protocol, prompts, prompt, unusual=out is not None or vision is not None or orders > 1
    )
    if engine != "lalm" and (followed is not None or vision is not None):
        raise ValueError(f"--engine {engine} takes no --protocol and no --vision")
    from lalm import Options
    from lalm.models import SMALL

    given: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "beams": beams,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "min_tokens": min_tokens,
    }
    if followed is not None:
        from lalm.cli.protocol import generation

        own = generation(followed, model or SMALL)
        unsaid = {name for name in own if context.get_parameter_source(name).name == "DEFAULT"}  # type: ignore[union-attr]
        given |= {name: own[name] for name in unsaid}
    options = Options(
        **given, seed=seed, lora_scale=lora_scale, stop=tuple(stop or ()), loop_guard=loop_guard
    )
    if followed is not None and channel is None:
        channel = followed.hearing.channel
    choice = heard_choice(channel, track, lenient)

    def opened() -> "Engine":
        if engine != "lalm":
            return open_library(engine, model, device, dtype, transcript, options)
        return open_under(followed, model, device, dtype, transcript)

    if out is not None:
        if vision is not None or orders > 1 or system or Piece("-", True) in pieces:
            raise ValueError("--out takes files, and no --orders, --system or --vision")
        _table(pieces, out, opened, choice, options, reading_of(columns))
        return
    if columns:
        raise ValueError("--columns is for the tables that --out asks about")
    if vision is not None and dtype:
        raise ValueError("--dtype is for models that hear: leave it out with --vision")
    if vision is not None and transcript:
        raise ValueError("--transcript is for models that hear: leave it out with --vision")
    if vision is not None and (orders > 1 or lora_scale is not None or system or Piece("-", True) in pieces):
        raise ValueError("--vision takes files, and no --orders, --lora-scale or --system")
    sample = _about_pictures(pieces, choice) if vision is not None else _about(pieces, system, orders, choice)
    if vision is not None:
        from lalm.cli.ask_vision import open_vision

        vision_model = open_vision(vision, model, device)
        _print(vision_model.reply([sample], options)[0], vision_model.name, options, as_json=as_json)
        return
    sample = ask_by_name(sample, followed, prompts, prompt)
    embedded = model in (None, SMALL.name)
    if embedded:
        _note_length(sample)
    answering = opened()
    if orders > 1:
        _vote(answering, sample, options, orders, as_json=as_json)
    elif sys.stdout.isatty() and not as_json:
        stream = answering.stream(sample, options)
        for piece in stream:
            print(piece, end="", flush=True)
        print()
        note_ending(stream.finish_reason, options)
    else:
        _print(answering.reply([sample], options)[0], answering.name, options, as_json=as_json)
    if embedded:
        from lalm.cli.better_means import note_means

        question = " ".join(piece.word for piece in pieces if not piece.is_file)
        note_means(question, [piece.word for piece in pieces if piece.is_file])


def _note_length(sample: "Sample") -> None:
    """Before the minutes that it takes: one answer about an hour is seldom what was meant."""
    from lalm.audio.load import Recording, seconds
    from lalm.cli.better_means import piece_by_piece

    for part in sample.audios:
        audio = part["audio"]
        if isinstance(audio, Recording) and (told := piece_by_piece(seconds(audio.audio))):
            print(f"lalm: {audio.account.name} {told}", file=sys.stderr)


def _protocol(
    name: str | None, prompts: Path | None, prompt: str | None, *, unusual: bool
) -> "Protocol | None":
    """The protocol that is asked for; it goes with one plain question alone."""
    if (name, prompts, prompt) == (None, None, None):
        return None
    if unusual:
        raise ValueError(
            "--protocol, --prompts and --prompt take one question, and no --out, --orders or --vision"
        )
    from lalm.cli.protocol import chosen

    if name is None and prompt is None:
        raise ValueError("--prompts needs --prompt, the name of one of its prompts, or --protocol")
    return chosen(name, prompts if name is not None else None)


def _table(
    pieces: "Sequence[Piece]",
    out: Path,
    opened: "Callable[[], Engine]",
    choice: dict[str, Any],
    options: "Options",
    reading: "Reading",
) -> None:
    """Write the table of answers; what it holds already is kept."""
    from lalm.cli.ask_many import ask_many, check_out, parts_of

    check_out(out)
    parts = parts_of([piece.word for piece in pieces if piece.is_file], reading)
    question = " ".join(piece.word for piece in pieces if not piece.is_file)
    ask_many(opened(), parts, question, options, out, choice)


class Piece(NamedTuple):
    """One of the things a question is made of: a recording (with --vision also a picture), or a text."""

    word: str
    is_file: bool


def read_words(words: Sequence[str], *, pictures: bool = False, unasked: bool = False) -> list[Piece]:
    """Recordings and texts in their order. Raises ValueError where one of the two is missing.

    Texts beside one another are one, so a question needs no quotes where the shell leaves it alone. An empty
    text says that nothing is asked beside the recordings; with ``unasked`` there need be none.
    """
    if not words:
        raise ValueError('there is nothing to ask about: lalm ask AUDIO... "What do you hear?"')
    from lalm.cli.ask_many import is_files

    is_file = _is_file_or_picture if pictures else is_files
    pieces: list[Piece] = []
    for word in words:
        piece = Piece(word if is_file(word) else " ".join(word.split()), is_file(word))
        if pieces and not piece.is_file and not pieces[-1].is_file:
            piece = Piece(f"{pieces.pop().word} {piece.word}".strip(), False)
        pieces.append(piece)
    if all(piece.is_file for piece in pieces) and not unasked:
        raise ValueError(f"there is no question: put one in quotes after '{_short(words[-1])}'")
    if not any(piece.is_file for piece in pieces):
        raise ValueError(f"there is no audio beside '{_short(words[-1])}': give a file, then the question")
    if pieces.count(Piece("-", True)) > 1:
        raise ValueError("standard input (-) can be only one of the recordings")
    return [piece for piece in pieces if piece.word]


def _is_file_or_picture(word: str) -> bool:
    from lalm.audio.load import is_recording
    from lalm.cli.ask_vision import IMAGES, VIDEOS

    return is_recording(word) or (not set(word) & set(" \n") and word.lower().endswith((*IMAGES, *VIDEOS)))


def _about(
    pieces: Sequence[Piece], system: str, orders: int, choice: dict[str, Any] | None = None
) -> "Sample":
    """The question as a sample, its recordings decoded: a bad one is refused before a model is loaded."""
    from lalm.cli.ask_many import check_one
    from lalm.data.sample import Message, Part, Sample

    count = sum(piece.is_file for piece in pieces)
    if orders > 1 and count < 2:
        raise ValueError("--orders needs at least two recordings")
    if orders > 1 and any(piece.is_file for piece in pieces[count:]):
        raise ValueError("--orders needs the recordings beside one another, then the question")
    for word, is_file in pieces:
        if is_file:
            check_one(word)
    content: list[Part] = [
        {"type": "audio", "audio": read(word, **(choice or {}))}
        if is_file
        else {"type": "text", "text": word}
        for word, is_file in pieces
    ]
    turn: Message = {"role": "user", "content": content}
    return Sample(({"role": "system", "content": system}, turn) if system else (turn,))


def read(
    audio: str, channel: int | None = None, track: int | None = None, *, lenient: bool = False
) -> "Recording":
    """Decode a recording, the only time; what a listener should know of it goes to standard error."""
    from lalm.audio.load import read_recording

    recording = read_recording(audio, channel=channel, track=track, lenient=lenient)
    if recording.account.sentence:
        print("lalm:", recording.account.sentence, file=sys.stderr)
    return recording


def _about_pictures(pieces: Sequence[Piece], choice: dict[str, Any]) -> "Sample":
    from lalm.cli.ask_vision import question_with_pictures

    return question_with_pictures(pieces, lambda file: read(file, **choice))


def _vote(engine: "Engine", sample: "Sample", options: "Options", count: int, *, as_json: bool) -> None:
    """Print what most of ``count`` orders of the recordings answer, in the words of the given order."""
    from lalm.inference.permutations import majority_vote, permutations, permute_clips, restore_mentions

    drawn = permutations(len(sample.audios), count, options.seed)
    replies = engine.reply([permute_clips(sample, order) for order in drawn], options)
    answers = [restore_mentions(reply.text, order) for reply, order in zip(replies, drawn, strict=True)]
    answer, share = majority_vote(answers)
    if not as_json:
        print(answer)
        for reason in {reply.finish_reason for reply in replies}:
            note_ending(reason, options)
        return
    votes = [{"order": [i + 1 for i in o], "answer": a} for o, a in zip(drawn, answers, strict=True)]
    told = facts(replies[0], engine.name) | {
        "answer": answer,
        "share": round(share, 3),
        "votes": votes,
    }
    print(json.dumps(told, indent=2, ensure_ascii=False))


def _print(reply: "Reply", model: str, options: "Options", *, as_json: bool) -> None:
    print(json.dumps(facts(reply, model), indent=2, ensure_ascii=False) if as_json else reply.text)
    note_ending(reply.finish_reason, options)


def facts(reply: "Reply", model: str) -> dict[str, Any]:
    """What ``--json`` prints; seconds to the millisecond."""
    return {
        "answer": reply.text,
        "finish_reason": reply.finish_reason,
        "model": model,
        "audio": [heard.to_json() for heard in reply.heard],
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
        path = Path(word)
        return path.is_file() or path.is_fifo()
    except (OSError, ValueError):  # longer than a file name may be, or not one at all
        return False


def _short(word: str) -> str:
    return word if len(word) <= 60 else word[:57] + "..."
