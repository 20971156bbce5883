"""``lalm transcribe``: speech as text, subtitles or JSON, from recordings of any length."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from lalm.cli.error_messages import explain
from lalm.cli.options import Channel, Device, Lenient, Track

if TYPE_CHECKING:
    from lalm.audio.vad import Array
    from lalm.inference.speech.recogniser import Whisper, Wish
    from lalm.inference.speech.subtitles import Segment

Form = Literal["txt", "srt", "vtt", "json"]


class Hearing(NamedTuple):
    """What is heard of each file."""

    channel: int | None
    track: int | None
    lenient: bool


def transcribe(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...",
            help="Recordings, folders, patterns, or - for standard input.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Form, typer.Option(help="txt: text; srt, vtt: subtitles; json: with the times of words.")
    ] = "txt",
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write talk.srt for talk.mp3 into this folder, and so on."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out recordings whose text is in the folder --to already.")
    ] = False,
    language: Annotated[
        str, typer.Option(help="What is spoken, as a code such as en or fr (default: found out).")
    ] = "",
    translate: Annotated[
        bool, typer.Option("--translate", help="Write English, whatever is spoken.")
    ] = False,
    words: Annotated[bool, typer.Option("--words", help="Subtitles with a cue for every word.")] = False,
    prompt: Annotated[
        str, typer.Option(help="Names and words that occur, or text in the wanted style.")
    ] = "",
    model: Annotated[
        str | None,
        typer.Option(help="A Whisper in CTranslate2's format (default: Whisper-base, fetched once)."),
    ] = None,
    channel: Channel = None,
    track: Track = None,
    lenient: Lenient = False,
    device: Device = None,
) -> int:
    """Write down what is said, with times.

    Examples:

    lalm transcribe talk.mp3

    lalm transcribe --out srt --to subtitles --resume *.mp4

    lalm transcribe --out json interview.wav | jq .segments

    lalm transcribe --translate --language fr discours.ogg

    Where nobody speaks nothing is written. A recording may be hours long: it is read piece by piece.
    A file that cannot be read is told, and the next one is transcribed; the exit code is then that of the
    first failure.
    """
    from lalm.cli.ask_many import recordings

    if not files:
        raise ValueError("there is nothing to transcribe: lalm transcribe talk.mp3")
    listed = recordings(files)
    _check(listed, out, to, words)
    if resume:
        listed = _missing(listed, out, to)
        if not listed:
            return 0
    from lalm.cli.opening import open_whisper
    from lalm.inference.speech.recogniser import Wish

    wish = Wish(language, "translate" if translate else "transcribe", prompt, words=out != "txt")
    whisper = open_whisper(model, device)
    failed = 0
    for number, name in enumerate(listed):
        label = name if len(listed) == 1 else f"{number + 1} of {len(listed)}: {name}"
        try:
            made = _transcript(whisper, name, wish, Hearing(channel, track, lenient), label, (out, words))
            _write(made, name, out, to, alone=len(listed) == 1)
        except (ValueError, OSError) as error:
            code = explain(error)
            failed = failed or code
    return failed


def _check(files: list[str], out: Form, to: Path | None, words: bool) -> None:
    """Refuse what cannot be written before a model is opened."""
    if words and out not in ("srt", "vtt"):
        raise ValueError("--words goes with --out srt or vtt; JSON has the times of words anyway")
    if to is not None and not to.is_dir():
        raise ValueError(f"there is no folder '{to}' to write to")
    if to is None and len(files) > 1 and out in ("srt", "vtt"):
        raise ValueError(f"{len(files)} files cannot be one {out}: say a folder with --to")
    names = [_file(Path(), name, out) for name in files] if to is not None else []
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two of the recordings would be written to '{twice}'")


def _missing(files: list[str], out: Form, to: Path | None) -> list[str]:
    """The recordings whose text is not in the folder yet; how many are is told."""
    if to is None:
        raise ValueError("--resume goes with --to, a folder in which the texts are that were written already")
    left = [name for name in files if not _file(to, name, out).is_file()]
    if len(left) < len(files):
        there = len(files) - len(left)
        print(f"lalm: {there} of {len(files)} are in '{to}' already and are left out", file=sys.stderr)
    return left


def _transcript(
    whisper: "Whisper", name: str, wish: "Wish", hearing: Hearing, label: str, form: tuple[Form, bool]
) -> Iterator[str]:
    """The text of a file in pieces, as it is found, behind a progress line on stderr."""
    from lalm.audio.load import audio_name
    from lalm.audio.stream import AudioStream
    from lalm.cli.opening import progress_bar
    from lalm.inference.speech.recogniser import Listening
    from lalm.inference.speech.subtitles import Transcript, cues

    stream = AudioStream(name, **hearing._asdict())
    out, by_word = form
    found = 0

    with progress_bar(f"{label}, seconds", transient=True) as progress:

        def followed() -> "Iterator[Array]":
            for block in stream:
                yield block
                progress(round(heard.heard_s), round(stream.declared_s or 0))

        def counted() -> "Iterator[Segment]":
            nonlocal found
            for segment in heard:
                found += 1
                yield segment

        heard = Listening(whisper, followed(), wish)
        if out == "txt":
            for segment in counted():
                yield segment.text + "\n"
        elif out == "json":
            made = Transcript(tuple(counted()), heard.language, heard.heard_s)
            yield json.dumps(made.to_json(audio_name(name)), ensure_ascii=False) + "\n"
        else:
            if out == "vtt":
                yield "WEBVTT\n\n"
            yield from cues(counted(), out, by_word=by_word)
    if not found:
        print(f"lalm: {name}: nobody speaks in it", file=sys.stderr)
    for note in stream.notes:
        print(f"lalm: {name}: {note}", file=sys.stderr)


def _write(pieces: Iterator[str], name: str, out: Form, to: Path | None, *, alone: bool) -> None:
    """Print the pieces as they come, or write them to a file, all or nothing."""
    if to is None:
        heading = "" if alone or out != "txt" else f"# {name}\n"
        for piece in pieces:
            print(heading + piece, end="", flush=True)
            heading = ""
        print(end=heading, flush=True)  # nobody speaks in it
        return
    path = _file(to, name, out)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    print(path)


def _file(folder: Path, name: str, out: Form) -> Path:
    """Where a recording's text is written."""
    return folder / f"{'stdin' if name == '-' else Path(name).stem}.{out}"
