"""``lalm describe``: what a recording is, what the model hears in it, and what is said."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from lalm.cli.error_messages import explain
from lalm.cli.options import Channel, Device, Json, Lenient, Model, Track

if TYPE_CHECKING:
    from lalm.inference.description import Description, Event
    from lalm.inference.engine import Engine
    from lalm.inference.speech.recogniser import Whisper


class Hearing(NamedTuple):
    """What is heard of each file."""

    channel: int | None = None
    track: int | None = None
    lenient: bool = False


def describe(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE...", help="Recordings, folders, patterns.", show_default=False),
    ] = None,
    model: Model = None,
    every: Annotated[
        float, typer.Option(min=1, help="A longer recording is described in pieces of so many seconds.")
    ] = 30.0,
    as_json: Json = False,
    channel: Channel = None,
    track: Track = None,
    lenient: Lenient = False,
    device: Device = None,
) -> int:
    """Tell what a recording is, what is heard in it and said.

    Examples:

    lalm describe bell.flac

    lalm describe --every 10 hour.mp3

    lalm describe --json *.wav > described.jsonl

    Length and loudness are measured, the speech is Whisper's, and the sounds are the model's answer. What is
    longer than --every is printed piece by piece, with times, while the rest is heard.
    """
    from lalm.cli.ask_many import recordings

    if not files:
        raise ValueError("there is nothing to describe: lalm describe FILE...")
    listed = recordings(files)
    from lalm.cli.opening import open_engine, open_whisper

    engine, whisper = open_engine(model, device, transcript=False), open_whisper()
    failed = 0
    for name in listed:
        told = Told(name)
        try:
            hearing = Hearing(channel, track, lenient)
            found = described(engine, whisper, name, every, hearing, None if as_json else told.add)
        except (ValueError, OSError) as error:
            code = explain(error)
            failed = failed or code
            continue
        if as_json:
            print(json.dumps(found.to_json(name), ensure_ascii=False), flush=True)
        else:
            told.finish(found)
    return failed


def described(
    engine: "Engine",
    whisper: "Whisper",
    name: str,
    every: float,
    hearing: Hearing,
    found: "Callable[[Event], None] | None" = None,
) -> "Description":
    """A recording's description; progress, and what is odd about the file, are told on stderr."""
    from lalm.audio.stream import AudioStream
    from lalm.cli.opening import progress_bar
    from lalm.inference.description import describe as describe_blocks

    stream = AudioStream(name, **hearing._asdict())
    with progress_bar(f"{name}, seconds", transient=True) as progress:
        made = describe_blocks(
            engine,
            whisper,
            stream,
            window_s=every,
            progress=lambda done_s: progress(round(done_s), round(stream.declared_s or 0)),
            found=found,
        )
    for note in stream.notes:
        print(f"lalm: {name}: {note}", file=sys.stderr)
    return made


class Told:
    """A description in lines. One of several parts is printed while the rest is heard, its measures last."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._held: list[Event] = []
        self._begun = False

    def add(self, one: "Event") -> None:
        """What is heard or said next."""
        from lalm.inference.description import Part

        self._held.append(one)
        if self._begun or sum(isinstance(held, Part) for held in self._held) > 1:
            self._print()

    def finish(self, found: "Description") -> None:
        """What is left to print."""
        if self._begun:
            self._print()
            print(measured(self._name, found), flush=True)
        else:
            print(in_words(self._name, found), flush=True)

    def _print(self) -> None:
        if not self._begun:
            print(f"{self._name}:")
        self._begun = True
        for one in self._held:
            print(line(one, placed=True), flush=True)
        self._held.clear()


def in_words(name: str, found: "Description") -> str:
    """A whole description for people, in lines."""
    placed = len(found.parts) > 1
    lines = [line(one, placed=placed) for one in found.events]
    measures = measured(name, found)
    return "\n".join([f"{name}:", *lines, measures] if placed else [measures, *lines])


def measured(name: str, found: "Description") -> str:
    """The line of what was measured."""
    from lalm.inference.speech.subtitles import clock

    length = f"{found.seconds:.1f} s"
    if found.seconds >= 60:
        length += f" ({clock(found.seconds, 'vtt')[:-4]})"
    language = f" ({found.transcript.language})" if found.transcript.language else ""
    return (
        f"{name}: {length}, mean level {found.rms_db:.0f} dB, loudest {found.peak_db:.0f} dB, "
        f"speech in {found.speech_s:.1f} s{language}"
    )


def line(one: "Event", *, placed: bool) -> str:
    """What is heard, or said in quotation marks; with its time where it is ``placed``."""
    from lalm.inference.description import Part
    from lalm.inference.speech.subtitles import clock

    place = f"{clock(one.start_s, 'vtt')[:-4]} " if placed else ""
    text = (one.text or "(nothing to hear)") if isinstance(one, Part) else f'"{one.text}"'
    return f"  {place}{text}"
