"""``lalm classify``: recordings named after a few labelled ones."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lalm.cli.ask import read
from lalm.cli.ask_many import Row, Table, account_row, check_one, check_out, fill, recordings
from lalm.cli.options import Channel, Device, Json, Lenient, Model, Out, Seed, Track, heard_choice

if TYPE_CHECKING:
    from lalm.audio.load import Recording
    from lalm.inference.few_shot import Verdict


def classify(
    clips: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="AUDIO...",
            help="The recordings to name; with --out also folders and patterns.",
            show_default=False,
        ),
    ] = None,
    *,
    support: Annotated[
        Path, typer.Option(help="Labelled recordings: SUPPORT/LABEL/clip.wav.", show_default=False)
    ],
    shots: Annotated[int, typer.Option(min=1, help="Labelled recordings of each label, at most.")] = 5,
    how: Annotated[
        Literal["likelihood", "words"],
        typer.Option(help="The label that is the likeliest answer, or the one that the answer names."),
    ] = "likelihood",
    orders: Annotated[
        int, typer.Option(min=1, help="Drawn orders of the labelled recordings, which then vote.")
    ] = 1,
    sentences: Annotated[
        Path | None, typer.Option(help="words: a sentence-transformers folder for answers without a label.")
    ] = None,
    out: Out = None,
    channel: Channel = None,
    track: Track = None,
    lenient: Lenient = False,
    model: Model = None,
    as_json: Json = False,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Name recordings after a few labelled ones, without training.

    Examples:

    lalm classify --support labelled query.wav    # labelled/LABEL/*.wav

    With --out also folders and patterns of recordings: a row each, an error is a row, a second run goes on.
    """
    choice = heard_choice(channel, track, lenient)
    if out is not None:
        check_out(out)
        files = recordings(clips or [])
    _check_some(clips or [])
    heard = [] if out is not None else _read(clips or [], choice)
    if sentences and how != "words":
        raise ValueError("--sentences reads answers in words: say --how words with it")
    from lalm.cli.opening import open_engine
    from lalm.evaluate.metrics.embeddings import SentenceEncoder
    from lalm.inference import few_shot

    supports = few_shot.labelled_folder(support, shots, seed)
    encoder = SentenceEncoder(sentences) if sentences else None
    engine = open_engine(model, device)

    def named(recording: "Recording") -> "Verdict":
        return few_shot.classify(
            engine, supports, recording, how=how, orders=orders, seed=seed, encoder=encoder
        )

    def answers(chunk: Sequence[str]) -> list[Row | ValueError]:
        return [_table_row(file, choice, named) for file in chunk]

    if out is not None:
        labels = ", ".join(dict.fromkeys(one.label for one in supports))
        fill(Table(out, ("label", "shares", "answers"), labels), files, answers)
        return
    rows = []
    for clip, recording in zip(clips or [], heard, strict=True):
        rows.append(_row(clip, named(recording)) | {"account": recording.account.to_json()})
        if not as_json:
            print(_line(rows[-1]))
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))


def _check_some(clips: Sequence[str]) -> None:
    if not clips:
        raise ValueError("there is no recording to name: lalm classify --support FOLDER clip.wav")


def _read(clips: Sequence[str], choice: dict[str, Any]) -> "list[Recording]":
    """Decode the recordings: one that cannot be used is refused before a model is loaded."""
    for clip in clips:
        check_one(clip)
    return [read(clip, **choice) for clip in clips]


def _table_row(
    file: str, choice: dict[str, Any], named: "Callable[[Recording], Verdict]"
) -> Row | ValueError:
    """A file's row, or what is wrong with it."""
    from lalm.audio.load import read_recording

    try:
        recording = read_recording(file, **choice)
        row = _row(file, named(recording))
    except ValueError as error:
        return error
    return {name: row[name] for name in row if name != "audio"} | account_row(recording.account)


def _row(clip: str, verdict: "Verdict") -> dict[str, Any]:
    """What ``--json`` prints about a recording; the likeliest label comes first."""
    ranked = sorted(verdict.shares.items(), key=lambda item: -item[1])
    return {
        "audio": clip,
        "label": verdict.label,
        "shares": {name: round(share, 4) for name, share in ranked},
        **({"answers": list(verdict.answers)} if verdict.answers else {}),
    }


def _line(row: dict[str, Any]) -> str:
    named = ", ".join(f"{name} {share:.2f}" for name, share in list(row["shares"].items())[:5])
    said = f"  (said: {row['answers'][0]})" if row["label"] is None else ""
    return f"{row['audio']}: {row['label'] or 'no label'}  [{named}]{said}"
