"""``lalm describe``: what a recording is, what the model hears in it, and what is said."""

import json
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from lalm.cli.error_messages import explain
from lalm.cli.options import Channel, Device, Json, Lenient, Model, Track

if TYPE_CHECKING:
    from lalm.inference.description import Description
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

    Length and loudness are measured, the speech is Whisper's, and the sounds are the model's answer.
    """
    from lalm.cli.ask_many import recordings

    if not files:
        raise ValueError("there is nothing to describe: lalm describe FILE...")
    listed = recordings(files)
    from lalm.cli.opening import open_engine, open_whisper

    engine, whisper = open_engine(model, device, transcript=False), open_whisper()
    failed = 0
    for name in listed:
        try:
            found = described(engine, whisper, name, every, Hearing(channel, track, lenient))
        except (ValueError, OSError) as error:
            failed = failed or explain(error)
            continue
        print(json.dumps(found.to_json(name), ensure_ascii=False) if as_json else in_words(name, found))
    return failed


def described(
    engine: "Engine", whisper: "Whisper", name: str, every: float, hearing: Hearing
) -> "Description":
    """A recording's description, behind a progress line on stderr."""
    from lalm.audio.stream import AudioStream
    from lalm.cli.opening import progress_bar
    from lalm.inference.description import describe as describe_blocks

    stream = AudioStream(name, **hearing._asdict())
    with progress_bar(f"{name}, seconds", transient=True) as progress:
        return describe_blocks(
            engine,
            whisper,
            stream,
            window_s=every,
            progress=lambda done_s: progress(round(done_s), round(stream.declared_s or 0)),
        )


def in_words(name: str, found: "Description") -> str:
    """A description for people, in lines."""
    from lalm.inference.speech.subtitles import clock

    lines = [
        f"{name}: {found.seconds:.1f} s, mean level {found.rms_db:.0f} dB, loudest {found.peak_db:.0f} dB, "
        f"speech in {found.speech_s:.1f} s"
        + (f" ({found.transcript.language})" if found.transcript.language else "")
    ]
    several = len(found.parts) > 1
    for part in found.parts:
        place = f"{clock(part.start_s, 'vtt')[:-4]} " if several else ""
        lines.append(f"  {place}{part.text or '(nothing to hear)'}")
    for segment in found.transcript.segments:
        place = f"{clock(segment.start_s, 'vtt')[:-4]} " if several else ""
        lines.append(f'  {place}"{segment.text}"')
    return "\n".join(lines)
