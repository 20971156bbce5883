"""``lalm weights``, and fetching with a progress bar before any other command needs a pretrained part."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lalm.cli.options import Json
from lalm.models import SMALL

if TYPE_CHECKING:
    from lalm.training.recipe import Recipe

RECOGNISER = "faster-whisper-base"

app = typer.Typer(help="Pretrained parts: list them, fetch them, find their folders.", no_args_is_help=True)


@app.command("list")
def list_all(as_json: Json = False) -> None:
    """The pinned parts, their licences, and which are here."""
    from lalm.weights import fetch as weights

    rows = [
        {
            "name": part.name,
            "kind": part.kind,
            "licence": part.licence,
            "summary": part.summary,
            "sources": list(part.sources),
            "parameters": part.parameters,
            "folder": str(weights.where(part.name) or ""),
        }
        for part in weights.PARTS.values()
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = "here" if row["folder"] else "not fetched"
        print(f"{row['name']}  ({row['kind']}, {row['licence']}, {row['parameters']:,} parameters, {state})")
        print(f"    {row['summary']}")


@app.command()
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Pinned names (default: the embedded model's).", show_default=False),
    ] = None,
) -> None:
    """Fetch parts now, so that nothing later needs a network."""
    from lalm.weights import fetch as weights

    wanted = names or parts_of(SMALL)
    for name in wanted:
        if name not in weights.PARTS:
            raise weights.WeightsError(
                f"there are no pinned weights '{name}'; there are: {', '.join(weights.PARTS)}"
            )
    fetch_with_bar(wanted)
    for name in wanted:
        print(weights.where(name))


@app.command()
def where(name: Annotated[str, typer.Argument(help="A pinned name.", show_default=False)]) -> None:
    """The folder of a fetched part."""
    from lalm.weights import fetch as weights

    folder = weights.where(name)
    if folder is None:
        raise weights.WeightsError(f"'{name}' is not here yet: run `lalm weights fetch {name}`")
    print(folder)


@app.command()
def kept(
    delete: Annotated[bool, typer.Option(help="Delete them; what is needed is made anew.")] = False,
    as_json: Json = False,
) -> None:
    """What was made of weights and is kept: 8 bits, graphs."""
    from lalm.weights.fetch import cache_root
    from lalm.weights.kept_files import kept_files

    found = kept_files(cache_root())
    if delete:
        for file in found:
            file.path.unlink(missing_ok=True)
    if as_json:
        print(json.dumps([{"file": str(file.path), "bytes": file.size, "made": file.made} for file in found]))
        return
    for file in found:
        print(f"{file.size / 1e6:7,.0f} MB  {file.made[:10]}  {file.path}")
    total = sum(file.size for file in found) / 1e6
    print(f"{total:7,.0f} MB in all{', deleted' if delete else ''}")


def fetch_for(model: str | None, transcript: bool | None = None) -> None:
    """Fetch the pinned parts that a model (a folder or a Hub id; None: the embedded one) is made of.

    ``transcript`` says whether Whisper writes down what is said for it; None: as the model's config says.
    """
    from lalm.models.load import model_folder

    needed = parts_of(SMALL if model is None else model_folder(model))
    spoken = RECOGNISER in needed if transcript is None else transcript
    # It comes first: an encoder that is the same Whisper's is then converted from its file.
    fetch_with_bar([*([RECOGNISER] if spoken else []), *(name for name in needed if name != RECOGNISER)])


def fetch_for_recipe(recipe: "Recipe") -> None:
    """Fetch the pinned parts that a recipe names, or that the model is made of which it starts from."""
    filters, init = recipe.data.filters, recipe.init
    judge = filters.contradictions if filters is not None and filters.url is None else None
    spoken = RECOGNISER if recipe.transcript == "whisper" else None
    needed = (spoken, init.encoder, init.encoder_2, init.aligner, init.llm, judge)
    fetch_with_bar([name for name in needed if name])
    if init.from_ is not None:
        fetch_for(init.from_)


def parts_of(folder: Path) -> list[str]:
    """Pinned names in a model folder's config.json; none if there is no such file to read them from."""
    from lalm.weights import fetch as weights

    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        spoken = [RECOGNISER] if fields.get("transcript") == "whisper" else []
        return spoken + [str(name) for name in fields["parts"].values() if name in weights.PARTS]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # opening the model says what is wrong with it


def fetch_with_bar(names: Iterable[str]) -> None:
    """Fetch what is pinned and not here yet, showing progress on stderr."""
    from lalm.weights import fetch as weights

    missing = [name for name in names if name in weights.PARTS and weights.where(name) is None]
    if not missing:
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    console.print(
        f"First use: fetching {' and '.join(missing)} into {weights.cache_root()}, once.", highlight=False
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(label, total=total)
            bar.update(tasks[label], completed=done, total=total)

        for name in missing:
            weights.fetch(name, progress)
