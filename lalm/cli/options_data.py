"""Commands about data: manifests and the frame cache."""

from pathlib import Path
from typing import Annotated

import typer

from lalm.cli.options import Json, Model

data_app = typer.Typer(help="Manifests: check them, count them, look at them.", no_args_is_help=True)
cache_app = typer.Typer(help="Encoder frames kept on disk.", no_args_is_help=True)

Source = Annotated[
    Path,
    typer.Argument(
        help="A manifest (JSONL of lalm, ms-swift, LLaMA-Factory, OpenAI, SLAM-LLM or Lhotse cuts), a tar, "
        "or a folder of Kaldi, Lhotse Shar, WebDataset or Hugging Face datasets.",
        show_default=False,
    ),
]
Folder = Annotated[Path, typer.Argument(help="The recipe's cache folder.", show_default=False)]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes (default: all CPUs).")]


@data_app.command()
def validate(
    source: Source,
    out: Annotated[Path | None, typer.Option(help="Manifest to write with the good lines.")] = None,
    workers: Workers = None,
    json: Json = False,
) -> int:
    """Check every line, decode every recording, name each bad line; exit code 1 when there is one."""
    from lalm.cli import data as command

    return command.validate(source, out, workers=workers, as_json=json)


@data_app.command()
def stats(
    source: Source,
    picture: Annotated[Path | None, typer.Option(help="SVG to write with the histogram.")] = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Hours, durations, tokens, languages and tasks, from the manifest and the files' headers."""
    from lalm.cli import data as command

    command.stats(source, picture, workers=workers, as_json=json)


@data_app.command()
def preview(
    source: Source,
    model: Model = None,
    rows: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    seed: Annotated[int | None, typer.Option(min=0, help="Draw them at random (default: the first).")] = None,
) -> None:
    """Show samples as the model gets them; what the loss learns stands in [[ ]]."""
    from lalm.cli import data as command

    command.preview(source, model, rows=rows, seed=seed)


@cache_app.command("info")
def cache_info(folder: Folder, json: Json = False) -> None:
    """How many clips are there for which encoder, how large, when last used."""
    from lalm.cli import cache as command

    command.info(folder, as_json=json)


@cache_app.command("prune")
def cache_prune(
    folder: Folder,
    keep: Annotated[
        str, typer.Option(help="The size to leave, such as 20GB; 0 empties it.", show_default=False)
    ],
) -> None:
    """Delete what was not used for longest."""
    from lalm.cli import cache as command

    command.prune(folder, keep)
