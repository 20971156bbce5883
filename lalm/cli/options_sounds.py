"""The commands ``classify`` and ``detect``: their options and help."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lalm.cli.options import Device, Json, Model, Seed

sounds_app = typer.Typer()


@sounds_app.command()
def classify(
    clips: Annotated[
        list[str] | None,
        typer.Argument(metavar="AUDIO...", help="The recordings to name.", show_default=False),
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
    model: Model = None,
    json: Json = False,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Name recordings after a few labelled ones, without training."""
    from lalm.cli import classify as command

    settings = command.Settings(shots, how, orders, seed, sentences)
    command.run(clips or [], support, model, settings, device=device, as_json=json)


@sounds_app.command()
def detect(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="AUDIO SOUND...", help="A recording, and what to look for.", show_default=False
        ),
    ] = None,
    model: Model = None,
    json: Json = False,
    labels: Annotated[Path | None, typer.Option(help="Write an Audacity label track.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write the spectrogram with the spans, a PNG.")] = None,
    device: Device = None,
) -> None:
    """When does a sound occur? Onset and offset in seconds."""
    from lalm.cli import detect as command

    command.run(words or [], model, command.Outputs(json, labels, picture), device=device)
