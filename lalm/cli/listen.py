"""``lalm listen``: live captions of a microphone, a pipe or a file that is still being written."""

import json
import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, cast

import typer

from lalm.cli.options import Device

if TYPE_CHECKING:
    from lalm.audio.vad import Array
    from lalm.inference.speech.live import Caption, Incoming


MOST_S = 600.0  # of a file are decoded ahead; what a microphone or a pipe gives is all taken at once


def listen(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="A file that grows, or - for standard input (default: the microphone).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Literal["txt", "srt", "vtt", "json"],
        typer.Option(help="txt: a line an utterance; srt, vtt: subtitles; json: a line a caption."),
    ] = "txt",
    language: Annotated[
        str, typer.Option(help="What is spoken, as a code such as en or fr (default: found out).")
    ] = "",
    idle: Annotated[
        float, typer.Option(min=0, help="A file that has not grown for so many seconds has ended; 0: never.")
    ] = 10.0,
    model: Annotated[
        str | None,
        typer.Option(help="A Whisper in CTranslate2's format (default: Whisper-base, fetched once)."),
    ] = None,
    device: Device = None,
) -> None:
    """Write down what is said while it is said.

    Examples:

    lalm listen

    lalm listen --out vtt recording.wav > live.vtt

    ffmpeg -i rtsp://camera/1 -f s16le -ac 1 -ar 16000 - | lalm listen -

    On a terminal the line of an unfinished utterance is written again as it goes on. Standard input is
    16-bit mono PCM at 16 kHz, a WAV stream, or mp3, ogg, flac, aac, aiff or webm. Ctrl-C ends it: what came
    in until then is still written down, unless Ctrl-C is pressed again.
    """
    stopped = threading.Event()
    blocks = _blocks(source, idle, stopped)
    from lalm.cli.opening import open_whisper
    from lalm.inference.speech.live import Incoming, captions

    whisper = open_whisper(model, device)
    if language and language not in whisper.languages:
        raise ValueError(f"this Whisper does not know the language '{language}': say a code such as en or fr")
    live = sys.stdout.isatty() and out == "txt"
    furthest, number = 0.0, 0
    if out == "vtt":
        print("WEBVTT\n", flush=True)
    try:
        waits = source is not None and Path(source).is_file()
        most_s = MOST_S if waits else math.inf
        incoming = Incoming(blocks, most_s, stopped)
        with closing(incoming), _ended_by_ctrl_c(incoming):
            for caption in captions(incoming, whisper, language, partial=live or out == "json"):
                furthest = max(furthest, caption.behind_s)
                number += caption.final
                _print(caption, out, number)
    except KeyboardInterrupt:
        print(file=sys.stderr)
    if not number:
        print("lalm: nobody spoke", file=sys.stderr)
    if furthest >= 1:
        print(f"lalm: at most {furthest:.0f} s of audio waited to be heard", file=sys.stderr)


@contextmanager
def _ended_by_ctrl_c(incoming: "Incoming") -> Iterator[None]:
    """The first Ctrl-C ends what comes in, the second the program."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        incoming.stop()
        if incoming.behind_s >= 1:
            told = f"{incoming.behind_s:.0f} s of audio are still written down: Ctrl-C again leaves them out"
            print(f"\nlalm: {told}", file=sys.stderr)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _blocks(source: str | None, idle: float, stopped: threading.Event) -> "Iterator[Array]":
    """The audio as it comes in. Raises VoiceError, AudioError where there is none."""
    from lalm.audio.growing import BARE, Growing, incoming_blocks
    from lalm.audio.vad import microphone

    if source is None:
        return microphone()
    if source == "-":
        if sys.stdin.isatty():
            raise ValueError("standard input is a terminal: pipe audio into it, or leave out the -")
        return incoming_blocks(open(0, "rb", buffering=0, closefd=False), "standard input")
    path = Path(source)
    if not path.exists():
        raise ValueError(f"there is no file {source}")
    if path.is_fifo():
        return incoming_blocks(path.open("rb", buffering=0), source)
    growing = cast(BinaryIO, Growing(path, idle or None, stopped))
    return incoming_blocks(growing, source, bare=path.suffix.lower() in BARE)


def _print(caption: "Caption", out: str, number: int) -> None:
    """One caption, at once; an unfinished one stays on its line of the terminal."""
    from lalm.inference.speech.subtitles import Segment, clock, cues

    if out == "json":
        told = {"start": round(caption.start_s, 3), "end": round(caption.end_s, 3), "text": caption.text}
        told |= {"final": caption.final, "behind": round(caption.behind_s, 3)}
        print(json.dumps(told, ensure_ascii=False), flush=True)
    elif out == "txt":
        line = f"[{clock(caption.start_s, 'vtt')[:-4]}] {caption.text}"
        if sys.stdout.isatty():
            print("\r\033[K" + (line if caption.final else _last(line, _width())), end="")
            print(end="\n" if caption.final else "", flush=True)
        else:
            print(line, flush=True)
    else:
        form: Literal["srt", "vtt"] = "srt" if out == "srt" else "vtt"
        [cue] = cues([Segment(caption.start_s, caption.end_s, caption.text)], form)
        print(f"{number}\n{cue.partition(chr(10))[2]}" if form == "srt" else cue, end="", flush=True)


def _last(line: str, columns: int) -> str:
    """The end of a line that fits: Chinese characters, for instance, take two columns each."""
    from rich.cells import cell_len

    while cell_len(line) > columns:
        line = line[1:]
    return line


def _width() -> int:
    import shutil

    return shutil.get_terminal_size().columns - 1
