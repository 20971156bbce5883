"""``lalm detect``: onset and offset of sounds, printed, as JSON, as Audacity labels, as a picture."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lalm.cli.ask import read
from lalm.cli.ask_many import Row, Table, account_row, check_one, check_out, fill, is_files, recordings
from lalm.cli.options import Channel, Device, Json, Lenient, Model, Out, Track, heard_choice

if TYPE_CHECKING:
    from lalm.audio.load import Recording
    from lalm.inference.detection import Found
    from lalm.inference.engine import Engine

By = Literal["auto", "times", "windows"]


def detect(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="AUDIO SOUND...",
            help="A recording, and what to look for; with --out recordings, folders and patterns.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    by: Annotated[
        By,
        typer.Option(
            help="times: the model writes them; windows: each is asked whether it holds the sound; auto: "
            "windows where the recording is long or the model writes no times."
        ),
    ] = "auto",
    threshold: Annotated[
        float,
        typer.Option(help="For windows: how much likelier yes must be than in silence, as a logarithm."),
    ] = 5.0,
    as_json: Json = False,
    labels: Annotated[Path | None, typer.Option(help="Write an Audacity label track.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write the spectrogram with the spans, a PNG.")] = None,
    out: Out = None,
    channel: Channel = None,
    track: Track = None,
    lenient: Lenient = False,
    device: Device = None,
) -> None:
    """When does a sound occur? Onset and offset in seconds.

    Examples:

    lalm detect street.wav "dog bark" "car horn"

    lalm detect hour.mp3 "a dog barking" --picture dog.png --labels dog.txt

    A recording may be hours long: it is looked at in windows of 4 s, piece by piece.

    With --out several recordings, folders and patterns may stand before the sounds: a row each, an error is a
    row, a second run goes on.
    """
    choice = heard_choice(channel, track, lenient)
    _check_outputs(labels, picture)
    if out is not None:
        if labels or picture or as_json:
            raise ValueError("--out writes a table, and no --labels, --picture or --json beside it")
        _table(words or [], out, choice, (model, device), (by, threshold))
        return
    clip, sounds = _split(words or [])
    check_one(clip)
    from lalm.audio.stream import AudioStream
    from lalm.cli.detect_windows import in_windows, is_short
    from lalm.cli.opening import open_engine

    whole = by == "times" or clip == "-" or (by == "auto" and is_short(AudioStream(clip, **choice)))
    if not whole:
        stream = AudioStream(clip, **choice)
        found = in_windows(open_engine(model, device), stream, sounds, threshold, clip, picture)
        for note in stream.notes:
            print(f"lalm: {clip}: {note}", file=sys.stderr)
        _tell(found, None, labels, as_json)
        return
    recording = read(clip, **choice)  # a bad one is refused before a model is loaded
    engine = open_engine(model, device)
    found = _found(engine, recording, sounds, (by, threshold), picture)
    _tell(found, recording, labels, as_json)


def _found(
    engine: "Engine",
    recording: "Recording",
    sounds: Sequence[str],
    how: tuple[By, float],
    picture: Path | None = None,
) -> "list[Found]":
    """By the times that the model writes, else by windows."""
    from lalm.audio import spectrogram
    from lalm.audio.load import seconds
    from lalm.cli.detect_windows import WHOLE_S, in_windows
    from lalm.data.labels import join_labels
    from lalm.inference import detection

    by, threshold = how
    name = recording.account.name
    if by == "times" or (by == "auto" and seconds(recording.audio) <= WHOLE_S):
        found = detection.detect(engine, recording, sounds)
        if by == "times" or any(not one.said_none for one in found):
            if picture:
                spans = {one.sound: one.spans for one in found}
                spectrogram.draw(recording.audio, spans, f"{name}: {join_labels(sounds)}", picture)
            return found
        print(f"lalm: '{engine.name}' wrote no times for {name}", file=sys.stderr)
    return in_windows(engine, [recording.audio], sounds, threshold, name, picture)


def _tell(
    found: "Sequence[Found]", recording: "Recording | None", labels: Path | None, as_json: bool
) -> None:
    from lalm.inference import detection

    if labels:
        labels.write_text(detection.audacity(found), encoding="utf-8")
    if as_json:
        _print_json(found, recording)
    else:
        _print_lines(found)


def _table(
    words: Sequence[str],
    out: Path,
    choice: dict[str, Any],
    whose: tuple[str | None, str | None],
    how: tuple[By, float],
) -> None:
    """A row for each recording; the words that name none are the sounds."""
    count = next((i for i, word in enumerate(words) if not is_files(word)), len(words))
    sounds = list(words[count:])
    if not count or not sounds:
        raise ValueError(
            'name recordings and what to look for: lalm detect calls/ "dog bark" --out table.csv'
        )
    _check_sounds(sounds)
    check_out(out)
    files = recordings(words[:count])
    from lalm.audio.load import read_recording
    from lalm.cli.opening import open_engine

    engine = open_engine(*whose)

    def row(file: str) -> Row | ValueError:
        try:
            recording = read_recording(file, **choice)
            found = _found(engine, recording, sounds, how)
        except ValueError as error:
            return error
        return {"seconds": round(found[0].seconds, 3), "sounds": _rows(found)} | account_row(
            recording.account
        )

    fill(Table(out, ("seconds", "sounds"), ", ".join(sounds)), files, lambda chunk: [*map(row, chunk)])


def _split(words: Sequence[str]) -> tuple[str, list[str]]:
    """AUDIO and SOUND... apart. Raises ValueError for words that cannot be meant so."""
    if len(words) < 2:
        raise ValueError('name a recording and what to look for: lalm detect clip.wav "dog bark"')
    clip, *sounds = words
    _check_sounds(sounds)
    return clip, sounds


def _check_sounds(sounds: Sequence[str]) -> None:
    for sound in sounds:
        if not sound.strip():
            raise ValueError("the name of a sound is empty")
        if Path(sound).is_file():
            raise ValueError(f"one recording at a time: '{sound}' is a second file, not the name of a sound")


def _check_outputs(labels: Path | None, picture: Path | None) -> None:
    for path in (labels, picture):
        if path and not path.parent.is_dir():
            raise ValueError(f"there is no folder '{path.parent}' to write '{path.name}' to")
    if picture and picture.suffix.lower() != ".png":
        raise ValueError(f"the picture is a PNG: name it .png, not '{picture.name}'")


def _print_json(found: Sequence["Found"], recording: "Recording | None") -> None:
    told = {"seconds": round(found[0].seconds, 3), "sounds": _rows(found)}
    account = {} if recording is None else {"account": recording.account.to_json()}
    print(json.dumps(told | account, indent=2, ensure_ascii=False))


def _rows(found: Sequence["Found"]) -> list[dict[str, Any]]:
    return [
        {
            "sound": one.sound,
            "spans": [{"onset_s": round(a, 3), "offset_s": round(b, 3)} for a, b in one.spans],
            "answer": one.answer,
        }
        for one in found
    ]


def _print_lines(found: Sequence["Found"]) -> None:
    from lalm.audio.spectrogram import CLOCK_S, clock

    for one in found:
        for onset_s, offset_s in one.spans:
            place = f"{clock(onset_s, one.seconds):>8}  " if one.seconds >= CLOCK_S else ""
            print(f"{onset_s:8.2f} s  {offset_s:8.2f} s  {place}{one.sound}")
        if not one.spans:
            why = "no time" if one.said_none else f"no time within {one.seconds:.1f} s"
            print(f"{one.sound}: the answer names {why}: {one.answer or '(nothing)'}")
